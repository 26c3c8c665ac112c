// A C interface to the products with its own threads, which the tests call through ctypes.
#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "linear.hpp"

namespace native = ovround::native;

namespace {

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

}  // namespace

extern "C" {

int ovround_has(int isa) { return native::has(static_cast<native::Isa>(isa)); }

void ovround_codebook_linear(const uint8_t* codes, const uint8_t* codebooks, const uint8_t* scales, int64_t outputs,
                             int64_t inputs, int64_t books, int64_t entries, int64_t vector_outputs,
                             int64_t vector_inputs, const float* x, int64_t tokens, float* y, int exact, int isa,
                             int64_t threads) {
    const native::CodebookWeight weight{codes, codebooks, scales,         outputs,      inputs,
                                        books, entries,   vector_outputs, vector_inputs};
    native::linear(weight, x, tokens, y, exact != 0, static_cast<native::Isa>(isa), {run_on_threads, &threads});
}

// `minimums` is null for a weight with one zero point; `gated` multiplies the product by its silu.
void ovround_affine_linear(const uint8_t* codes, const uint8_t* scales, const uint8_t* zero_point,
                           const uint8_t* minimums, int64_t outputs, int64_t inputs, int64_t groups, int64_t blocks,
                           int64_t bits, int64_t gated, const float* x, int64_t tokens, float* y, int exact, int isa,
                           int64_t threads) {
    const native::IntegerWeight weight{bits,    codes,  scales, zero_point, true,
                                       outputs, inputs, groups, blocks,     minimums};
    const native::Threads pool{run_on_threads, &threads};
    if (gated != 0) {
        const native::IntegerWeight both[] = {weight, weight};
        native::gated_linear(both, x, tokens, y, exact != 0, static_cast<native::Isa>(isa), pool);
    } else {
        native::linear(&weight, 1, x, tokens, &y, exact != 0, static_cast<native::Isa>(isa), pool);
    }
}

void ovround_gated_linear(const uint8_t* codes, const uint8_t* scales, const uint8_t* zero_points, int64_t outputs,
                          int64_t inputs, int64_t groups, int64_t bits, int64_t one_zero_point, const float* x,
                          int64_t tokens, float* y, int exact, int isa, int64_t threads) {
    const native::IntegerWeight weight{bits, codes, scales, zero_points, one_zero_point != 0, outputs, inputs, groups};
    const native::IntegerWeight both[] = {weight, weight};
    native::gated_linear(both, x, tokens, y, exact != 0, static_cast<native::Isa>(isa), {run_on_threads, &threads});
}

void ovround_integer_linear(const uint8_t* codes, const uint8_t* scales, const uint8_t* zero_points, int64_t outputs,
                            int64_t inputs, int64_t groups, int64_t bits, int64_t one_zero_point, const float* x,
                            int64_t tokens, float* y, int exact, int isa, int64_t threads) {
    const native::IntegerWeight weight{bits, codes, scales, zero_points, one_zero_point != 0, outputs, inputs, groups};
    native::linear(&weight, 1, x, tokens, &y, exact != 0, static_cast<native::Isa>(isa), {run_on_threads, &threads});
}
}
