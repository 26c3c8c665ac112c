#include <algorithm>
#include <cstring>

#include "matrix.hpp"

namespace ovround::native {
namespace {

constexpr int64_t kTilesATask = 4;
constexpr int64_t kDotTokens[] = {16, 8, 4, 3, 2, 1};

// Inputs that share a scale: the largest of 128, 64 and 32 that divides a group
// (ovround/tensors/activation_rounding.py); of affine weights 32, or a group of 16.
int64_t span_inputs(const IntegerWeight& weight) {
    const int64_t group = weight.inputs / weight.groups;
    if (weight.blocks > 0) {
        return std::min(group, kIntegerRun);
    }
    return group % 128 == 0 ? 128 : group % 64 == 0 ? 64 : kIntegerRun;
}

// Rows of x in 8 bits, in blocks of as many tokens as one call of the kernel processes.
class Quantized {
public:
    Quantized(const IntegerWeight& weight, const float* x, int64_t tokens, const Kernels& kernels,
              const Threads& threads)
        : runs_(pieces(weight.inputs, kIntegerRun)), span_(span_inputs(weight)),
          spans_(pieces(runs_ * kIntegerRun, span_)), most_(kernels.dot_tokens) {
        const int64_t width = runs_ * kIntegerRun;
        scratch_.reserve(tokens * width, tokens * spans_ * 4, tokens * spans_ * 4);
        levels_ = scratch_.take<int8_t>(tokens * width);
        scales_ = scratch_.take<float>(tokens * spans_);
        sums_ = scratch_.take<float>(tokens * spans_);
        const auto fill = [&](int64_t token) {
            const int64_t start = start_of(token, tokens), size = block(tokens - start), index = token - start;
            kernels.quantize(x + token * weight.inputs, weight.inputs, span_, size, levels_ + start * width + 4 * index,
                             scales_ + start * spans_ + index, sums_ + start * spans_ + index);
        };
        if (tokens < kFewTokens) {
            for (int64_t token = 0; token < tokens; ++token) {
                fill(token);
            }
        } else {
            parallel(threads, tokens, fill);
        }
    }

    // The size of the next block when `left` tokens remain.
    int64_t block(int64_t left) const {
        const auto fits = [&](int64_t size) { return size <= left && size <= most_; };
        return *std::find_if(std::begin(kDotTokens), std::end(kDotTokens), fits);
    }
    QuantizedRows rows(int64_t start, int64_t count) const {
        return {count,
                runs_,
                spans_,
                span_ / kIntegerRun,
                levels_ + start * runs_ * kIntegerRun,
                scales_ + start * spans_,
                sums_ + start * spans_};
    }
    int64_t runs() const { return runs_; }
    int64_t spans() const { return spans_; }

private:
    static constexpr int64_t kFewTokens = 8;

    int64_t start_of(int64_t token, int64_t tokens) const {
        int64_t start = token - token % most_;
        for (int64_t size = block(tokens - start); start + size <= token; size = block(tokens - start)) {
            start += size;
        }
        return start;
    }

    int64_t runs_, span_, spans_, most_;
    Scratch scratch_;
    int8_t* levels_ = nullptr;
    float* scales_ = nullptr;
    float* sums_ = nullptr;
};

int64_t tiles_of(const IntegerWeight& weight) { return pieces(weight.outputs, kIntegerRows); }

IntegerTile tile_of(const IntegerWeight& weight, int64_t tile, int64_t spans) {
    const int64_t runs = pieces(weight.inputs, kIntegerRun), grid = tile * weight.groups * kIntegerRows;
    const uint8_t* codes = weight.codes + tile * runs * weight.bits * kIntegerRows * kIntegerRun / 8;
    if (weight.blocks > 0) {
        const int64_t block_groups = weight.groups / weight.blocks;
        const int64_t at = tile * weight.blocks * block_bytes(block_groups);
        const uint8_t* minimums = weight.minimums == nullptr ? nullptr : weight.minimums + at;
        return {weight.bits,  codes,   weight.scales + at, weight.zero_points, true, spans / weight.groups,
                block_groups, minimums};
    }
    return {weight.bits,
            codes,
            weight.scales + 2 * grid,
            weight.zero_points + (weight.one_zero_point != 0 ? 0 : grid),
            weight.one_zero_point != 0,
            spans / weight.groups};
}

// Computes tiles [low, high) of one weight for all tokens; with `up`, they gate the products of that weight.
void dot_tiles(const IntegerWeight& weight, const IntegerWeight* up, const Quantized& quantized, int64_t low,
               int64_t high, int64_t tokens, float* y, const Kernels& kernels) {
    alignas(kCacheLine) float products[kDotTokens[0] * kIntegerRows], other[kDotTokens[0] * kIntegerRows];
    for (int64_t start = 0; start < tokens;) {
        const int64_t count = quantized.block(tokens - start);
        const QuantizedRows rows = quantized.rows(start, count);
        for (int64_t tile = low; tile < high; ++tile) {
            kernels.dot(tile_of(weight, tile, quantized.spans()), rows, products);
            if (up != nullptr) {
                kernels.dot(tile_of(*up, tile, quantized.spans()), rows, other);
                kernels.gate(products, other, count * kIntegerRows);
            }
            const int64_t first = tile * kIntegerRows, width = std::min(kIntegerRows, weight.outputs - first);
            for (int64_t token = 0; token < count; ++token) {
                const float* from = products + token * kIntegerRows;
                std::copy(from, from + width, y + (start + token) * weight.outputs + first);
            }
        }
        start += count;
    }
}

// Computes tiles [low, high) of one weight two at a time; with `up`, each together with its tile of `up`, which it
// gates.
void matrix_tiles(const IntegerWeight& weight, const IntegerWeight* up, const MatrixRows& rows, int64_t low,
                  int64_t high, float* y, const Kernels& kernels) {
    const int64_t runs = rows.runs(), values = runs * kIntegerRun * kIntegerRows, count = high - low;
    const int64_t decoded_values = weight.blocks > 0 ? values : 0;
    Scratch scratch;
    scratch.reserve(2 * count * values * 2, 2 * kMatrixAnswers * 4, decoded_values * 4);
    auto* widened = scratch.take<uint16_t>(2 * count * values);
    auto* products = scratch.take<float>(2 * kMatrixAnswers);
    auto* decoded = scratch.take<float>(decoded_values);
    const auto widen = [&](const IntegerWeight& source, uint16_t* to) {
        static constexpr float kOnes[kIntegerRows] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
        for (int64_t tile = low; tile < high; ++tile, to += values) {
            const IntegerTile from = tile_of(source, tile, source.groups);
            if (source.blocks > 0) {
                kernels.expand(from, runs, source.groups, 0, runs, decoded, source.inputs);
                kernels.matrix->floats(decoded, source.inputs, kOnes, kIntegerRows, source.inputs, to);
                continue;
            }
            kernels.matrix->integers(from, runs, runs / source.groups, to);
        }
    };
    widen(weight, widened);
    if (up != nullptr) {
        widen(*up, widened + count * values);
    }
    for (int64_t step = 0; step < rows.steps(); ++step) {
        for (int64_t tile = low; tile < high; tile += up == nullptr ? 2 : 1) {
            const uint16_t* weight_tile = widened + (tile - low) * values;
            const int64_t first = tile * kIntegerRows, outputs = weight.outputs - first;
            if (up == nullptr) {
                rows.multiply(step, weight_tile, tile + 1 < high ? weight_tile + values : weight_tile,
                              std::min(outputs, 2 * kIntegerRows), y + first, weight.outputs, products);
                continue;
            }
            rows.multiply(step, weight_tile, weight_tile + count * values, products);
            kernels.gate(products, products + kMatrixAnswers, rows.count(step) * kIntegerRows);
            rows.store_rows(step, products, std::min(outputs, kIntegerRows),
                            y + rows.first(step) * weight.outputs + first, weight.outputs);
        }
    }
}

// The same with weights decoded to float32.
void expand_tiles(const IntegerWeight& weight, const float* x, int64_t low, int64_t high, int64_t tokens, float* y,
                  const Kernels& kernels) {
    constexpr int64_t kStep = kDepth / kIntegerRun;
    const int64_t runs = pieces(weight.inputs, kIntegerRun), start = low * kIntegerRows;
    const int64_t rows = std::min(high * kIntegerRows, weight.outputs) - start;
    Scratch scratch;
    scratch.reserve(kTilesATask * kIntegerRows * kDepth * 4);
    auto* decoded = scratch.take<float>(kTilesATask * kIntegerRows * kDepth);
    for (int64_t first = 0; first < runs; first += kStep) {
        const int64_t last = std::min(first + kStep, runs);
        for (int64_t tile = low; tile < high; ++tile) {
            kernels.expand(tile_of(weight, tile, weight.groups), runs, weight.groups, first, last,
                           decoded + (tile - low) * kIntegerRows * kDepth, kDepth);
        }
        const int64_t depth = std::min(last * kIntegerRun, weight.inputs) - first * kIntegerRun;
        kernels.multiply(x + first * kIntegerRun, weight.inputs, tokens, decoded, kDepth, rows, depth, y + start,
                         weight.outputs, first > 0);
    }
}

}  // namespace

void linear(const IntegerWeight* weights, int64_t count, const float* x, int64_t tokens, float* const* y, bool exact,
            Isa isa, const Threads& threads) {
    if (tokens == 0) {
        return;
    }
    const Kernels& kernels = kernels_of(isa);
    int64_t tasks = 0;
    for (int64_t weight = 0; weight < count; ++weight) {
        tasks += pieces(tiles_of(weights[weight]), kTilesATask);
    }
    const auto each = [&](const auto& body) {
        parallel(threads, tasks, [&](int64_t task) {
            int64_t weight = 0;
            for (int64_t its = 0; task >= (its = pieces(tiles_of(weights[weight]), kTilesATask)); ++weight) {
                task -= its;
            }
            body(weights[weight], task * kTilesATask, std::min((task + 1) * kTilesATask, tiles_of(weights[weight])),
                 y[weight]);
        });
    };
    if (exact || tokens > kernels.most_dot_tokens) {
        each([&](const IntegerWeight& weight, int64_t low, int64_t high, float* to) {
            expand_tiles(weight, x, low, high, tokens, to, kernels);
        });
        return;
    }
    if (by_matrix(kernels, tokens)) {
        const MatrixRows rows(x, weights[0].inputs, tokens, *kernels.matrix, threads);
        each([&](const IntegerWeight& weight, int64_t low, int64_t high, float* to) {
            matrix_tiles(weight, nullptr, rows, low, high, to, kernels);
        });
        return;
    }
    const Quantized quantized(weights[0], x, tokens, kernels, threads);
    each([&](const IntegerWeight& weight, int64_t low, int64_t high, float* to) {
        dot_tiles(weight, nullptr, quantized, low, high, tokens, to, kernels);
    });
}

void gated_linear(const IntegerWeight* weights, const float* x, int64_t tokens, float* y, bool exact, Isa isa,
                  const Threads& threads) {
    if (tokens == 0) {
        return;
    }
    const Kernels& kernels = kernels_of(isa);
    const IntegerWeight &gate = weights[0], &up = weights[1];
    const int64_t tiles = tiles_of(gate), tasks = pieces(tiles, kTilesATask);
    if (exact || tokens > kernels.most_dot_tokens) {
        Scratch scratch;
        scratch.reserve(tokens * up.outputs * 4);
        auto* ups = scratch.take<float>(tokens * up.outputs);
        parallel(threads, tasks, [&](int64_t task) {
            const int64_t low = task * kTilesATask, high = std::min(low + kTilesATask, tiles),
                          start = low * kIntegerRows;
            expand_tiles(gate, x, low, high, tokens, y, kernels);
            expand_tiles(up, x, low, high, tokens, ups, kernels);
            for (int64_t token = 0; token < tokens; ++token) {
                const int64_t at = token * gate.outputs + start;
                kernels.gate(y + at, ups + at, std::min(high * kIntegerRows, gate.outputs) - start);
            }
        });
        return;
    }
    if (by_matrix(kernels, tokens)) {
        const MatrixRows rows(x, gate.inputs, tokens, *kernels.matrix, threads);
        parallel(threads, tasks, [&](int64_t task) {
            const int64_t low = task * kTilesATask;
            matrix_tiles(gate, &up, rows, low, std::min(low + kTilesATask, tiles), y, kernels);
        });
        return;
    }
    const Quantized quantized(gate, x, tokens, kernels, threads);
    parallel(threads, tasks, [&](int64_t task) {
        const int64_t low = task * kTilesATask;
        dot_tiles(gate, &up, quantized, low, std::min(low + kTilesATask, tiles), tokens, y, kernels);
    });
}

}  // namespace ovround::native
