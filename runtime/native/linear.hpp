// Products with weights in their stored form: additive codebooks, and integers of 2 to 6 and 8 bits. Plain C++ without
// types of an engine.
//
// y[t, n] = sum over k of x[t, k] * W[n, k], for x float32 [tokens, inputs] and y float32 [tokens, outputs].
// ovround/tensors/native_layout.py defines, writes and reads the layouts of the weights.
#pragma once

#include <cstdint>

namespace ovround::native {

constexpr int64_t kCodeRows = 64;     // rows of a tile of codes: one byte of each fills a vector register
constexpr int64_t kIntegerRows = 16;  // rows of a tile of integers: one 32-bit sum of each fills one
constexpr int64_t kIntegerRun = 32;   // inputs whose codes are stored together

// W[o * O + a, g * V + b] = scales[o] * sum over m of codebooks[m, codes[o, g, m], a, b]
struct CodebookWeight {
    const uint8_t* codes;      // [ceil(N / O / 64), K / V, M, 64], one byte each, or two for more than 256 entries
    const uint8_t* codebooks;  // float16 [M, entries, O, V]
    const uint8_t* scales;     // float16 [N / O]
    int64_t outputs, inputs;   // N, K
    int64_t books, entries;    // M (at most 64), and at most 65536 entries
    int64_t vector_outputs, vector_inputs;  // O, V
};

// W[n, k] = (code[n, k] - zero_points[n, k / group]) * scales[n, k / group]
//
// With `blocks` the weight is affine: one zero point, minimums if there are any, and scales and minimums in blocks.
//
// W[n, k] = (code[n, k] - zero_point) * scale[n, k / group] - minimum[n, k / group]
struct IntegerWeight {
    int64_t bits;                // 2, 3, 4 or 8; of affine weights 2 to 6
    const uint8_t* codes;        // [ceil(N / 16), ceil(K / 32), bits * 64]: see integers.inl
    const uint8_t* scales;       // float16 [ceil(N / 16), G, 16]; affine [ceil(N / 16), B, 32 + 16 * G / B], see below
    const uint8_t* zero_points;  // [ceil(N / 16), G, 16], or one byte for all
    bool one_zero_point;
    int64_t outputs, inputs, groups;
    int64_t blocks = 0;                 // B of affine weights
    const uint8_t* minimums = nullptr;  // as scales, or none
};

// A block of scales or minimums is float16 [16], followed, if it has several groups, by int8 factors [groups, 16].
constexpr int64_t block_bytes(int64_t block_groups) {
    return 2 * kIntegerRows + (block_groups > 1 ? block_groups * kIntegerRows : 0);
}

// The caller's threads: `run` calls task(context, i) once for each i below tasks, and returns when all are done.
struct Threads {
    void (*run)(const void* self, int64_t tasks, void (*task)(const void* context, int64_t index), const void* context);
    const void* self;
};

enum class Isa : int { portable, avx2, avxvnni, avx512, avx512vbmi, amx };

const char* name(Isa isa);
// The best instruction set of this processor and this build.
Isa best_isa();
bool has(Isa isa);

// `exact`: float32 throughout. Otherwise few rows use 8-bit tables (codebooks) or 8-bit activations.
void linear(const CodebookWeight& weight, const float* x, int64_t tokens, float* y, bool exact, Isa isa,
            const Threads& threads);
// `count` weights with equal inputs and groups at once: y[i] is the product of weight i.
void linear(const IntegerWeight* weights, int64_t count, const float* x, int64_t tokens, float* const* y, bool exact,
            Isa isa, const Threads& threads);

// Two weights of one shape: y = silu(product of the first) * product of the second.
void gated_linear(const IntegerWeight* weights, const float* x, int64_t tokens, float* y, bool exact, Isa isa,
                  const Threads& threads);

}  // namespace ovround::native
