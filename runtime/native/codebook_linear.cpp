#include <algorithm>
#include <cmath>
#include <cstring>

#include "matrix.hpp"

namespace ovround::native {
namespace {

constexpr int64_t kTilesAtOnce = 4;
constexpr int64_t kTokensAtOnce = 32;  // their tables are in memory together: 128 KB each for 2x8 and 2048 inputs

// Codebooks [M, entries, V] of float16 as int16 pairs [M, pairs, 256, 2], in units of their largest value over 32767.
float pair_books(const CodebookWeight& weight, const Kernels& kernels, int64_t pairs, float* values, int16_t* to) {
    const int64_t width = weight.vector_inputs, count = weight.books * weight.entries * width;
    kernels.widen(weight.codebooks, values, count);
    float most = 0;
    for (int64_t index = 0; index < count; ++index) {
        most = std::max(most, std::fabs(values[index]));
    }
    const float by = most > 0 && std::isfinite(most) ? 32767.0F / most : 0;
    std::memset(to, 0, static_cast<std::size_t>(weight.books * pairs * kTableEntries * 2) * sizeof(int16_t));
    for (int64_t book = 0; book < weight.books; ++book) {
        for (int64_t entry = 0; entry < weight.entries; ++entry) {
            const float* from = values + (book * weight.entries + entry) * width;
            for (int64_t index = 0; index < width; ++index) {
                int16_t* pair = to + ((book * pairs + index / 2) * kTableEntries + entry) * 2;
                pair[index % 2] = static_cast<int16_t>(std::lrint(from[index] * by));
            }
        }
    }
    return most / 32767.0F;
}

void look_up_rows(const CodebookWeight& weight, const float* x, int64_t tokens, float* y, const Kernels& kernels,
                  const Threads& threads) {
    const int64_t groups = weight.inputs / weight.vector_inputs, books = weight.books;
    const int64_t block_groups = std::min(kBlockGroups, kBlockLookups / books), blocks = pieces(groups, block_groups);
    const int64_t pairs = pieces(weight.vector_inputs, 2), tiles = pieces(weight.outputs, kCodeRows);
    const int64_t table_bytes = groups * books * kTableEntries,
                  book_values = books * weight.entries * weight.vector_inputs;
    const int64_t pair_values = books * pairs * kTableEntries * 2;
    Scratch scratch;
    scratch.reserve(book_values * 4, pair_values * 2, tokens * table_bytes, tokens * blocks * 4, weight.outputs * 4);
    auto* values = scratch.take<float>(book_values);
    auto* paired = scratch.take<int16_t>(pair_values);
    auto* tables = scratch.take<uint8_t>(tokens * table_bytes);
    auto* table_scales = scratch.take<float>(tokens * blocks);
    auto* scales = scratch.take<float>(weight.outputs);
    const PairedBooks paired_books{paired, pair_books(weight, kernels, pairs, values, paired), books, pairs,
                                   weight.vector_inputs};
    kernels.widen(weight.scales, scales, weight.outputs);
    parallel(threads, tokens * blocks, [&](int64_t task) {
        const int64_t token = task / blocks, block = task % blocks, first = block * block_groups;
        table_scales[task] = kernels.build_tables(
            paired_books, x + token * weight.inputs + first * weight.vector_inputs,
            std::min(block_groups, groups - first), tables + token * table_bytes + first * books * kTableEntries);
    });
    const int64_t tile_bytes = groups * books * kCodeRows;
    parallel(threads, pieces(tiles, kTilesAtOnce), [&](int64_t task) {
        alignas(kCacheLine) float sums[kTilesAtOnce * kCodeRows];
        const int64_t first = task * kTilesAtOnce, last = std::min(first + kTilesAtOnce, tiles);
        for (int64_t token = 0; token < tokens; ++token) {
            for (int64_t tile = first; tile < last;) {
                const int64_t left = last - tile, count = left >= 4 ? 4 : left >= 2 ? 2 : 1;
                kernels.look_up(weight.codes + tile * tile_bytes, tile_bytes, count, tables + token * table_bytes,
                                table_scales + token * blocks, groups, books, block_groups, sums);
                const int64_t start = tile * kCodeRows, stop = std::min(start + count * kCodeRows, weight.outputs);
                for (int64_t row = start; row < stop; ++row) {
                    y[token * weight.outputs + row] = scales[row] * sums[row - start];
                }
                tile += count;
            }
        }
    });
}

void expand_rows(const CodebookWeight& weight, const float* x, int64_t tokens, float* y, const Kernels& kernels,
                 const Threads& threads) {
    const int64_t groups = weight.inputs / weight.vector_inputs, code_bytes = weight.entries > kTableEntries ? 2 : 1;
    const int64_t vectors = weight.outputs / weight.vector_outputs, tiles = pieces(vectors, kCodeRows);
    const int64_t step = std::max<int64_t>(1, kDepth / weight.vector_inputs), depth = step * weight.vector_inputs;
    const int64_t tile_bytes = groups * weight.books * kCodeRows * code_bytes;
    Scratch scale_memory;
    scale_memory.reserve(vectors * 4);
    auto* scales = scale_memory.take<float>(vectors);
    kernels.widen(weight.scales, scales, vectors);
    parallel(threads, tiles, [&](int64_t tile) {
        Scratch scratch;
        const int64_t start = tile * kCodeRows, rows = std::min(kCodeRows, vectors - start);
        scratch.reserve(kCodeRows * depth * 4, tokens * kCodeRows * 4);
        auto* decoded = scratch.take<float>(kCodeRows * depth);
        auto* sums = scratch.take<float>(tokens * kCodeRows);
        for (int64_t output = 0; output < weight.vector_outputs; ++output) {
            for (int64_t first = 0; first < groups; first += step) {
                const int64_t last = std::min(first + step, groups);
                kernels.expand_codes(weight.codes + tile * tile_bytes, code_bytes, weight.codebooks, weight.books,
                                     weight.entries, weight.vector_outputs, weight.vector_inputs, output, rows, first,
                                     last, decoded, depth);
                kernels.multiply(x + first * weight.vector_inputs, weight.inputs, tokens, decoded, depth, rows,
                                 (last - first) * weight.vector_inputs, sums, kCodeRows, first > 0);
            }
            for (int64_t token = 0; token < tokens; ++token) {
                for (int64_t row = 0; row < rows; ++row) {
                    const int64_t index = (start + row) * weight.vector_outputs + output;
                    y[token * weight.outputs + index] = scales[start + row] * sums[token * kCodeRows + row];
                }
            }
        }
    });
}

// Decodes tiles of codes to bfloat16 and multiplies by matrix instructions; for vectors of one output.
void matrix_rows(const CodebookWeight& weight, const float* x, int64_t tokens, float* y, const Kernels& kernels,
                 const Threads& threads) {
    constexpr int64_t kParts = kCodeRows / kIntegerRows,
                      kNear = 256;  // inputs of a tile that fit a first-level cache
    const int64_t width = weight.inputs, vector = weight.vector_inputs, groups = width / vector;
    const int64_t depth = kNear % vector == 0 ? kNear : kIntegerRun * vector, ld = depth + kIntegerRows;
    const int64_t code_bytes = weight.entries > kTableEntries ? 2 : 1;
    const int64_t tile_bytes = groups * weight.books * kCodeRows * code_bytes;
    Scratch scale_memory;
    scale_memory.reserve(weight.outputs * 4);
    auto* scales = scale_memory.take<float>(weight.outputs);
    kernels.widen(weight.scales, scales, weight.outputs);
    const MatrixRows rows(x, width, tokens, *kernels.matrix, threads);
    const int64_t values = rows.runs() * kIntegerRun * kIntegerRows;
    parallel(threads, pieces(weight.outputs, kCodeRows), [&](int64_t tile) {
        const int64_t start = tile * kCodeRows, outputs = std::min(kCodeRows, weight.outputs - start);
        Scratch scratch;
        scratch.reserve(kCodeRows * ld * 4, kParts * values * 2, 2 * kMatrixAnswers * 4);
        auto* decoded = scratch.take<float>(kCodeRows * ld);
        auto* widened = scratch.take<uint16_t>(kParts * values);
        auto* products = scratch.take<float>(2 * kMatrixAnswers);
        for (int64_t input = 0; input < width; input += depth) {
            const int64_t count = std::min(depth, width - input);
            kernels.expand_codes(weight.codes + tile * tile_bytes, code_bytes, weight.codebooks, weight.books,
                                 weight.entries, 1, vector, 0, outputs, input / vector, (input + count) / vector,
                                 decoded, ld);
            for (int64_t row = 0; row < outputs; row += kIntegerRows) {
                kernels.matrix->floats(decoded + row * ld, ld, scales + start + row, outputs - row, count,
                                       widened + row / kIntegerRows * values + input * kIntegerRows);
            }
        }
        for (int64_t step = 0; step < rows.steps(); ++step) {
            for (int64_t first = 0; first < outputs; first += 2 * kIntegerRows) {
                const uint16_t* pair = widened + first / kIntegerRows * values;
                rows.multiply(step, pair, outputs - first > kIntegerRows ? pair + values : pair,
                              std::min(outputs - first, 2 * kIntegerRows), y + start + first, weight.outputs, products);
            }
        }
    });
}

}  // namespace

void linear(const CodebookWeight& weight, const float* x, int64_t tokens, float* y, bool exact, Isa isa,
            const Threads& threads) {
    if (tokens == 0) {
        return;
    }
    const Kernels& kernels = kernels_of(isa);
    const bool tables = !exact && weight.entries <= kTableEntries && weight.vector_outputs == 1;
    if (!exact && weight.vector_outputs == 1 && by_matrix(kernels, tokens)) {
        matrix_rows(weight, x, tokens, y, kernels, threads);
        return;
    }
    if (!tables || tokens > kernels.most_lookup_tokens) {
        expand_rows(weight, x, tokens, y, kernels, threads);
        return;
    }
    for (int64_t token = 0; token < tokens; token += kTokensAtOnce) {
        look_up_rows(weight, x + token * weight.inputs, std::min(kTokensAtOnce, tokens - token),
                     y + token * weight.outputs, kernels, threads);
    }
}

}  // namespace ovround::native
