// Products with weights as they are stored: additive codebooks, and integers of 2, 3, 4 and 8 bits. Plain C++, no
// engine's types.
//
// y[t, n] = sum over k of x[t, k] * W[n, k], for x float32 [tokens, inputs] and y float32 [tokens, outputs]. The
// layouts of the weights are those of ovround/tensors/native_layout.py, which writes and reads them.
#pragma once

#include <cstdint>

namespace ovround::native {

constexpr int64_t kCodeRows = 64;     // rows of a tile of codes: one byte of each fills a vector register
constexpr int64_t kIntegerRows = 16;  // rows of a tile of integers: one 32-bit sum of each fills one
constexpr int64_t kIntegerRun = 32;   // inputs whose codes lie together

// W[o * O + a, g * V + b] = scales[o] * sum over m of codebooks[m, codes[o, g, m], a, b]
struct CodebookWeight {
    const uint8_t* codes;      // [ceil(N / O / 64), K / V, M, 64], one byte each, or two where entries exceed 256
    const uint8_t* codebooks;  // float16 [M, entries, O, V]
    const uint8_t* scales;     // float16 [N / O]
    int64_t outputs, inputs;   // N, K
    int64_t books, entries;    // M, at most 64, and 65536
    int64_t vector_outputs, vector_inputs;  // O, V
};

// W[n, k] = (code[n, k] - zero_points[n, k / group]) * scales[n, k / group]
struct IntegerWeight {
    int64_t bits;                // 2, 3, 4 or 8
    const uint8_t* codes;        // [ceil(N / 16), ceil(K / 32), bits * 64]: see integers.inl
    const uint8_t* scales;       // float16 [ceil(N / 16), G, 16]
    const uint8_t* zero_points;  // [ceil(N / 16), G, 16], or one for all
    bool one_zero_point;
    int64_t outputs, inputs, groups;
};

// Whoever has the threads: calls task(context, i) once for each i below tasks, and returns when all are done.
struct Threads {
    void (*run)(const void* self, int64_t tasks, void (*task)(const void* context, int64_t index), const void* context);
    const void* self;
};

enum class Isa : int { portable, avx2, avxvnni, avx512, avx512vbmi, amx };

const char* name(Isa isa);
// The best that this processor and this build have.
Isa best_isa();
bool has(Isa isa);

// `exact`: float32 throughout. Otherwise few rows go through tables of 8 bits (codebooks) or activations of 8 bits.
void linear(const CodebookWeight& weight, const float* x, int64_t tokens, float* y, bool exact, Isa isa,
            const Threads& threads);
// `count` weights of as many inputs and groups at once: y[i] is the answer of weight i.
void linear(const IntegerWeight* weights, int64_t count, const float* x, int64_t tokens, float* const* y, bool exact,
            Isa isa, const Threads& threads);

// Two weights of one shape: y = silu(answer of the first) * answer of the second.
void gated_linear(const IntegerWeight* weights, const float* x, int64_t tokens, float* y, bool exact, Isa isa,
                  const Threads& threads);

}  // namespace ovround::native
