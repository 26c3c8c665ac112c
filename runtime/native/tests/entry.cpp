// The C interface's products on threads of their own, with plain arguments: what the tests call through ctypes.
#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "weight_layout.hpp"

using ovround::native::integer_weight;

namespace {

constexpr const char* kIsas[] = {"portable", "avx2", "avxvnni", "avx512", "avx512vbmi", "amx"};

void run_on_threads(const void* self, int64_t tasks, void (*task)(const void*, int64_t), const void* context) {
    std::atomic<int64_t> next{0};
    const auto work = [&] {
        for (int64_t index = next++; index < tasks; index = next++) {
            task(context, index);
        }
    };
    std::vector<std::thread> threads;
    for (int64_t more = std::min<int64_t>(*static_cast<const int64_t*>(self), tasks); more > 1; --more) {
        threads.emplace_back(work);
    }
    work();
    for (auto& thread : threads) {
        thread.join();
    }
}

ovround_product product_of(const float* x, int64_t tokens, int exact, int isa, const int64_t& threads) {
    return {sizeof(ovround_product), x, tokens, exact, kIsas[isa], run_on_threads, &threads};
}

}  // namespace

extern "C" {

OVROUND_KERNELS_API int ovround_has(int isa) { return ovround_kernels_has(kIsas[isa]); }

OVROUND_KERNELS_API int ovround_codebook_linear(const uint8_t* codes, const uint8_t* codebooks, const uint8_t* scales,
                                                int64_t outputs, int64_t inputs, int64_t books, int64_t entries,
                                                int64_t vector_outputs, int64_t vector_inputs, const float* x,
                                                int64_t tokens, float* y, int exact, int isa, int64_t threads) {
    const ovround_codebook_weight weight{sizeof(weight), codes, codebooks, scales,         outputs,
                                         inputs,         books, entries,   vector_outputs, vector_inputs};
    const auto product = product_of(x, tokens, exact, isa, threads);
    return ovround_codebook_product(&weight, &product, y);
}

// `minimums` is null for a weight with one zero point; `gated` multiplies the product by its silu.
OVROUND_KERNELS_API int ovround_affine_linear(const uint8_t* codes, const uint8_t* scales, const uint8_t* zero_point,
                                              const uint8_t* minimums, int64_t outputs, int64_t inputs, int64_t groups,
                                              int64_t blocks, int64_t bits, int64_t gated, const float* x,
                                              int64_t tokens, float* y, int exact, int isa, int64_t threads) {
    auto weight = integer_weight(bits, codes, scales, zero_point, true, outputs, inputs, groups);
    weight.blocks = blocks;
    weight.minimums = minimums;
    const ovround_integer_weight both[] = {weight, weight};
    const auto product = product_of(x, tokens, exact, isa, threads);
    return gated != 0 ? ovround_gated_product(both, &product, y) : ovround_integer_products(both, 1, &product, &y);
}

OVROUND_KERNELS_API int ovround_gated_linear(const uint8_t* codes, const uint8_t* scales, const uint8_t* zero_points,
                                             int64_t outputs, int64_t inputs, int64_t groups, int64_t bits,
                                             int64_t one_zero_point, const float* x, int64_t tokens, float* y,
                                             int exact, int isa, int64_t threads) {
    const auto weight = integer_weight(bits, codes, scales, zero_points, one_zero_point != 0, outputs, inputs, groups);
    const ovround_integer_weight both[] = {weight, weight};
    const auto product = product_of(x, tokens, exact, isa, threads);
    return ovround_gated_product(both, &product, y);
}

OVROUND_KERNELS_API int ovround_integer_linear(const uint8_t* codes, const uint8_t* scales, const uint8_t* zero_points,
                                               int64_t outputs, int64_t inputs, int64_t groups, int64_t bits,
                                               int64_t one_zero_point, const float* x, int64_t tokens, float* y,
                                               int exact, int isa, int64_t threads) {
    const auto weight = integer_weight(bits, codes, scales, zero_points, one_zero_point != 0, outputs, inputs, groups);
    const auto product = product_of(x, tokens, exact, isa, threads);
    return ovround_integer_products(&weight, 1, &product, &y);
}
}
