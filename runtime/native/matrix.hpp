// Products of many rows by matrix instructions: what both kinds of weight share.
#pragma once

#include <algorithm>
#include <cstring>

#include "calls.hpp"

namespace ovround::native {

constexpr int64_t kMatrixBlocks = 2;         // of rows, that a product takes at once
constexpr int64_t kFewestMatrixTokens = 40;  // from which on they are faster than dot products and tables (docs/log.md)
constexpr int64_t kMatrixAnswers = kMatrixBlocks * kMatrixTokens * kIntegerRows;

inline bool by_matrix(const Kernels& kernels, int64_t tokens) {
    return kernels.matrix != nullptr && tokens >= kFewestMatrixTokens;
}

// x [tokens, inputs] in blocks of 16 rows.
class MatrixRows {
public:
    MatrixRows(const float* x, int64_t inputs, int64_t tokens, const MatrixKernels& kernels, const Threads& threads)
        : tokens_(tokens), runs_(pieces(inputs, kIntegerRun)), kernels_(kernels) {
        const int64_t blocks = pieces(tokens, kMatrixTokens);
        scratch_.reserve(blocks * block_values() * 2);
        values_ = scratch_.take<uint16_t>(blocks * block_values());
        parallel(threads, blocks, [&](int64_t block) {
            const int64_t first = block * kMatrixTokens;
            kernels.rows(x + first * inputs, inputs, std::min(kMatrixTokens, tokens - first),
                         values_ + block * block_values());
        });
    }

    int64_t runs() const { return runs_; }
    int64_t steps() const { return pieces(tokens_, kMatrixBlocks * kMatrixTokens); }
    int64_t first(int64_t step) const { return step * kMatrixBlocks * kMatrixTokens; }
    int64_t count(int64_t step) const { return std::min(kMatrixBlocks * kMatrixTokens, tokens_ - first(step)); }

    // The rows of a step times two tiles: found [2, 32, 16].
    void multiply(int64_t step, const uint16_t* w, const uint16_t* other, float* found) const {
        product(step, w, other, found, found + kMatrixAnswers, kIntegerRows);
    }
    // The same for the first `outputs` (32 at most) to y [tokens, ldy]; by way of `found` where not all are wanted.
    void multiply(int64_t step, const uint16_t* w, const uint16_t* other, int64_t outputs, float* y, int64_t ldy,
                  float* found) const {
        float* to = y + first(step) * ldy;
        if (outputs == 2 * kIntegerRows && count(step) % kMatrixTokens == 0) {
            product(step, w, other, to, to + kIntegerRows, ldy);
            return;
        }
        multiply(step, w, other, found);
        place(step, found, std::min(outputs, kIntegerRows), to, ldy);
        place(step, found + kMatrixAnswers, std::max<int64_t>(outputs - kIntegerRows, 0), to + kIntegerRows, ldy);
    }
    // One tile's answers [32, 16] to where those of the step's rows are.
    void place(int64_t step, const float* found, int64_t outputs, float* to, int64_t ldy) const {
        for (int64_t token = 0; token < count(step); ++token) {
            std::memcpy(to + token * ldy, found + token * kIntegerRows,
                        static_cast<std::size_t>(outputs) * sizeof(float));
        }
    }

private:
    int64_t block_values() const { return kMatrixTokens * runs_ * kIntegerRun; }
    void product(int64_t step, const uint16_t* w, const uint16_t* other, float* y, float* other_y, int64_t ldy) const {
        kernels_.multiply(values_ + step * kMatrixBlocks * block_values(), pieces(count(step), kMatrixTokens), w, other,
                          runs_, y, other_y, ldy);
    }

    int64_t tokens_, runs_;
    const MatrixKernels& kernels_;
    Scratch scratch_;
    uint16_t* values_ = nullptr;
};

}  // namespace ovround::native
