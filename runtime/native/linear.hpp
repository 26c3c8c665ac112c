// Products with weights in their stored form: additive codebooks, and integers of 2 to 6 and 8 bits. The C interface,
// ovround/kernels.h, describes the weights.
#pragma once

#include <cstdint>

#include "ovround/kernels.h"

namespace ovround::native {

constexpr int64_t kCodeRows = 64;     // rows of a tile of codes: one byte of each fills a vector register
constexpr int64_t kIntegerRows = 16;  // rows of a tile of integers: one 32-bit sum of each fills one
constexpr int64_t kIntegerRun = 32;   // inputs whose codes are stored together

using CodebookWeight = ovround_codebook_weight;
using IntegerWeight = ovround_integer_weight;

// The bytes of a block of an affine weight's scales or minimums.
constexpr int64_t block_bytes(int64_t block_groups) {
    return 2 * kIntegerRows + (block_groups > 1 ? block_groups * kIntegerRows : 0);
}

// The caller's threads, see ovround_product.
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
