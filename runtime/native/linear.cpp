#include "linear.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <vector>

#include "kernels.hpp"

namespace ovround::native {
namespace {

constexpr int64_t kDepth = 512;  // inputs of a decoded tile: 64 rows of so many float32 fit a second-level cache
constexpr int64_t kTilesAtOnce = 4;
constexpr int64_t kTokensAtOnce = 32;  // whose tables are in memory together: 128 KB each for 2x8 and 2048 inputs
constexpr int64_t kCacheLine = 64;

const Kernels& kernels_of(Isa isa) {
    switch (isa) {
#ifdef OVROUND_X86
        case Isa::avx2: return avx2_kernels();
        case Isa::avx512: return avx512_kernels();
        case Isa::avx512vbmi: return avx512vbmi_kernels();
#endif
        default: return portable_kernels();
    }
}

template <typename Body>
void parallel(const Threads& threads, int64_t tasks, const Body& body) {
    if (tasks == 1) {
        body(int64_t{0});
        return;
    }
    threads.run(
        threads.self, tasks, [](const void* context, int64_t index) { (*static_cast<const Body*>(context))(index); }, &body);
}

int64_t pieces(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

// Memory that calls use again: no allocation in the decode loop. Each call has one of its own while it lasts.
class Scratch {
public:
    Scratch() {
        const std::lock_guard<std::mutex> lock(mutex());
        if (!idle().empty()) {
            bytes_ = std::move(idle().back());
            idle().pop_back();
        }
    }
    ~Scratch() {
        const std::lock_guard<std::mutex> lock(mutex());
        idle().push_back(std::move(bytes_));
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    // Room for all parts at once; each begins at a cache line.
    template <typename... Sizes>
    void reserve(Sizes... sizes) {
        const std::size_t size = (... + (static_cast<std::size_t>(sizes) + kCacheLine)) + kCacheLine;
        if (bytes_.size() < size) {
            bytes_.resize(size);
        }
        used_ = 0;
    }
    template <typename Value>
    Value* take(int64_t count) {
        const auto at = reinterpret_cast<std::uintptr_t>(bytes_.data() + used_);
        used_ += (kCacheLine - at % kCacheLine) % kCacheLine;
        auto* part = reinterpret_cast<Value*>(bytes_.data() + used_);
        used_ += static_cast<std::size_t>(count) * sizeof(Value);
        return part;
    }

private:
    static std::mutex& mutex() {
        static std::mutex one;
        return one;
    }
    static std::vector<std::vector<uint8_t>>& idle() {
        static std::vector<std::vector<uint8_t>> all;
        return all;
    }
    std::vector<uint8_t> bytes_;
    std::size_t used_ = 0;
};

// Codebooks [M, entries, V] of float16 as int16 pairs [M, pairs, 256, 2], in units of the largest of them over 32767.
float pair_books(const CodebookWeight& weight, const Kernels& kernels, int64_t pairs, float* values, int16_t* to) {
    const int64_t width = weight.vector_inputs, count = weight.books * weight.entries * width;
    kernels.widen(weight.codebooks, values, count);
    float most = 0;
    for (int64_t place = 0; place < count; ++place) {
        most = std::max(most, std::fabs(values[place]));
    }
    const float by = most > 0 && std::isfinite(most) ? 32767.0F / most : 0;
    std::memset(to, 0, static_cast<std::size_t>(weight.books * pairs * kTableEntries * 2) * sizeof(int16_t));
    for (int64_t book = 0; book < weight.books; ++book) {
        for (int64_t entry = 0; entry < weight.entries; ++entry) {
            const float* from = values + (book * weight.entries + entry) * width;
            for (int64_t place = 0; place < width; ++place) {
                int16_t* pair = to + ((book * pairs + place / 2) * kTableEntries + entry) * 2;
                pair[place % 2] = static_cast<int16_t>(std::lrint(from[place] * by));
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
    const int64_t table_bytes = groups * books * kTableEntries, book_values = books * weight.entries * weight.vector_inputs;
    const int64_t pair_values = books * pairs * kTableEntries * 2;
    Scratch scratch;
    scratch.reserve(book_values * 4, pair_values * 2, tokens * table_bytes, tokens * blocks * 4, weight.outputs * 4);
    auto* values = scratch.take<float>(book_values);
    auto* paired = scratch.take<int16_t>(pair_values);
    auto* tables = scratch.take<uint8_t>(tokens * table_bytes);
    auto* table_scales = scratch.take<float>(tokens * blocks);
    auto* scales = scratch.take<float>(weight.outputs);
    const PairedBooks paired_books{paired, pair_books(weight, kernels, pairs, values, paired), books, pairs, weight.vector_inputs};
    kernels.widen(weight.scales, scales, weight.outputs);
    parallel(threads, tokens * blocks, [&](int64_t task) {
        const int64_t token = task / blocks, block = task % blocks, first = block * block_groups;
        table_scales[task] = kernels.build_tables(
            paired_books, x + token * weight.inputs + first * weight.vector_inputs, std::min(block_groups, groups - first),
            tables + token * table_bytes + first * books * kTableEntries);
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
                kernels.expand_codes(weight.codes + tile * tile_bytes, code_bytes, weight.codebooks, weight.books, weight.entries,
                                     weight.vector_outputs, weight.vector_inputs, output, rows, first, last, decoded, depth);
                kernels.multiply(x + first * weight.vector_inputs, weight.inputs, tokens, decoded, depth, rows,
                                 (last - first) * weight.vector_inputs, sums, kCodeRows, first > 0);
            }
            for (int64_t token = 0; token < tokens; ++token) {
                for (int64_t row = 0; row < rows; ++row) {
                    const int64_t place = (start + row) * weight.vector_outputs + output;
                    y[token * weight.outputs + place] = scales[start + row] * sums[token * kCodeRows + row];
                }
            }
        }
    });
}

constexpr int64_t kThreeBitBytes = 3 * kThreeBitRows * kThreeBitRun / 8;

void dot_rows(const ThreeBitWeight& weight, const float* x, int64_t tokens, float* y, const Kernels& kernels, const Threads& threads) {
    const int64_t runs = pieces(weight.inputs, kThreeBitRun), tiles = pieces(weight.outputs, kThreeBitRows);
    Scratch scratch;
    scratch.reserve(tokens * runs * kThreeBitRun, tokens * runs * 4, tokens * runs * 4);
    auto* levels = scratch.take<int8_t>(tokens * runs * kThreeBitRun);
    auto* scales = scratch.take<float>(tokens * runs);
    auto* sums = scratch.take<float>(tokens * runs);
    for (int64_t token = 0; token < tokens; ++token) {
        kernels.quantize(x + token * weight.inputs, weight.inputs, levels + token * runs * kThreeBitRun, scales + token * runs,
                         sums + token * runs);
    }
    constexpr int64_t kTilesATask = 4;
    parallel(threads, pieces(tiles, kTilesATask), [&](int64_t task) {
        for (int64_t tile = task * kTilesATask; tile < std::min((task + 1) * kTilesATask, tiles); ++tile) {
            const int64_t start = tile * kThreeBitRows, stop = std::min(start + kThreeBitRows, weight.outputs);
            const int64_t grid = tile * weight.groups * kThreeBitRows;
            for (int64_t token = 0; token < tokens; ++token) {
                float found[kThreeBitRows];
                kernels.dot_three_bit(weight.codes + tile * runs * kThreeBitBytes, weight.scales + 2 * grid,
                                      weight.zero_points + grid, runs, weight.groups, levels + token * runs * kThreeBitRun,
                                      scales + token * runs, sums + token * runs, found);
                std::copy(found, found + (stop - start), y + token * weight.outputs + start);
            }
        }
    });
}

void expand_rows(const ThreeBitWeight& weight, const float* x, int64_t tokens, float* y, const Kernels& kernels,
                 const Threads& threads) {
    constexpr int64_t kTilesATask = 4, kStep = kDepth / kThreeBitRun;
    const int64_t runs = pieces(weight.inputs, kThreeBitRun), tiles = pieces(weight.outputs, kThreeBitRows);
    parallel(threads, pieces(tiles, kTilesATask), [&](int64_t task) {
        Scratch scratch;
        scratch.reserve(kTilesATask * kThreeBitRows * kDepth * 4);
        auto* decoded = scratch.take<float>(kTilesATask * kThreeBitRows * kDepth);
        const int64_t low = task * kTilesATask, high = std::min(low + kTilesATask, tiles);
        const int64_t start = low * kThreeBitRows, rows = std::min(high * kThreeBitRows, weight.outputs) - start;
        for (int64_t first = 0; first < runs; first += kStep) {
            const int64_t last = std::min(first + kStep, runs);
            for (int64_t tile = low; tile < high; ++tile) {
                const int64_t grid = tile * weight.groups * kThreeBitRows;
                kernels.expand_three_bit(weight.codes + tile * runs * kThreeBitBytes, weight.scales + 2 * grid,
                                         weight.zero_points + grid, runs, weight.groups, first, last,
                                         decoded + (tile - low) * kThreeBitRows * kDepth, kDepth);
            }
            const int64_t depth = std::min(last * kThreeBitRun, weight.inputs) - first * kThreeBitRun;
            kernels.multiply(x + first * kThreeBitRun, weight.inputs, tokens, decoded, kDepth, rows, depth, y + start,
                             weight.outputs, first > 0);
        }
    });
}

}  // namespace

const char* name(Isa isa) {
    constexpr const char* kNames[] = {"portable", "avx2", "avx512", "avx512vbmi"};
    return kNames[static_cast<int>(isa)];
}

bool has(Isa isa) {
#ifdef OVROUND_X86
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    switch (isa) {
        case Isa::avx2: return avx2;
        case Isa::avx512: return avx512;
        case Isa::avx512vbmi: return avx512 && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni");
        default: return true;
    }
#else
    return isa == Isa::portable;
#endif
}

Isa best_isa() {
    static const Isa best = [] {
        for (const Isa isa : {Isa::avx512vbmi, Isa::avx512, Isa::avx2}) {
            if (has(isa)) {
                return isa;
            }
        }
        return Isa::portable;
    }();
    return best;
}

void linear(const CodebookWeight& weight, const float* x, int64_t tokens, float* y, bool exact, Isa isa, const Threads& threads) {
    if (tokens == 0) {
        return;
    }
    const Kernels& kernels = kernels_of(isa);
    const bool tables = !exact && tokens <= kernels.most_lookup_tokens && weight.entries <= kTableEntries && weight.vector_outputs == 1;
    if (!tables) {
        expand_rows(weight, x, tokens, y, kernels, threads);
        return;
    }
    for (int64_t token = 0; token < tokens; token += kTokensAtOnce) {
        look_up_rows(weight, x + token * weight.inputs, std::min(kTokensAtOnce, tokens - token), y + token * weight.outputs,
                     kernels, threads);
    }
}

void linear(const ThreeBitWeight& weight, const float* x, int64_t tokens, float* y, bool exact, Isa isa, const Threads& threads) {
    if (tokens == 0) {
        return;
    }
    const Kernels& kernels = kernels_of(isa);
    const bool levels = !exact && tokens <= kernels.most_dot_tokens;
    if (levels) {
        dot_rows(weight, x, tokens, y, kernels, threads);
    } else {
        expand_rows(weight, x, tokens, y, kernels, threads);
    }
}

}  // namespace ovround::native
