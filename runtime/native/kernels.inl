// The inner loops, written with the vectors that the including file defines as `Simd`; kernels.hpp documents them.

#include <cstring>

#include "kernels.hpp"

// Clang leaves sums in memory if it does not unroll a loop over them at first: prompts took twice the time.
#if defined(__clang__)
#define OVROUND_UNROLL _Pragma("clang loop unroll(full)")
#else
#define OVROUND_UNROLL
#endif

namespace ovround::native {
namespace {

constexpr int64_t kRows = 64;
constexpr int64_t kRun = 32;
constexpr int64_t kTileRows = 16;
constexpr int64_t kPrefetch = 4096;      // prefetch distance in bytes
constexpr float kRounder = 12582912.0F;  // 1.5 * 2^23: adding and subtracting it rounds to nearest, ties to even

constexpr float kLargest = 3.4028234663852886e38F;

inline float absolute(float value) { return value < 0 ? -value : value; }
inline float rounded(float value) { return (value + kRounder) - kRounder; }

inline uint16_t load16(const uint8_t* at) { return static_cast<uint16_t>(at[0] | (at[1] << 8)); }

void widen(const uint8_t* halves, float* to, int64_t count) {
    int64_t done = Simd::widen(halves, to, count);
    for (; done < count; ++done) {
        const uint32_t half = load16(halves + 2 * done);
        uint32_t bits = (half & 0x7FFFU) << 13;  // exponent and fraction at the bits of float32
        float value = 0;
        std::memcpy(&value, &bits, 4);
        value *= 5.192296858534828e+33F;  // 2^112, the difference of the biases; this is right for subnormal halves too
        std::memcpy(&bits, &value, 4);
        if ((half & 0x7C00U) == 0x7C00U) {
            bits = 0x7F800000U | ((half & 0x3FFU) << 13);
        }
        bits |= (half & 0x8000U) << 16;
        std::memcpy(to + done, &bits, 4);
    }
}

// ---- codebooks: tables ----

#ifdef OVROUND_TABLES
// Products of one group with every entry of one book, in units of 2^-15 of the 30-bit range: int16 [256] in the order
// that `packs32` gives. The largest absolute value is written to `most`.
template <int kPairs>
inline typename Simd::I products(const int16_t* book, const int16_t* x, int64_t pairs, int16_t* to,
                                 typename Simd::I most) {
    const int64_t steps = kPairs > 0 ? kPairs : pairs;
    for (int64_t entry = 0; entry < kTableEntries; entry += Simd::kBytes / 2) {
        typename Simd::I low = Simd::zero_i(), high = Simd::zero_i();
        for (int64_t pair = 0; pair < steps; ++pair) {
            const int16_t* values = book + (pair * kTableEntries + entry) * 2;
            const typename Simd::I inputs = Simd::broadcast32(x + 2 * pair);
            low = Simd::add_products16(low, Simd::load_i(values), inputs);
            high = Simd::add_products16(high, Simd::load_i(values + Simd::kBytes / 2), inputs);
        }
        const typename Simd::I packed = Simd::pack32(Simd::shift15(low), Simd::shift15(high));
        Simd::store_i(to + entry, packed);
        most = Simd::max_abs16(most, packed);
    }
    return most;
}

// Converts int16 products to bytes around 128, in the order of the entries.
inline void to_bytes(const int16_t* from, int16_t factor, uint8_t* to) {
    const typename Simd::I by = Simd::set16(factor), offset = Simd::set8(static_cast<char>(0x80));
    for (int64_t entry = 0; entry < kTableEntries; entry += Simd::kBytes) {
        const typename Simd::I low = Simd::multiply_round16(Simd::load_i(from + entry), by);
        const typename Simd::I high = Simd::multiply_round16(Simd::load_i(from + entry + Simd::kBytes / 2), by);
        Simd::store_i(to + entry, Simd::xor_i(Simd::in_order(Simd::pack16(low, high)), offset));
    }
}

inline int32_t largest(typename Simd::I most) {
    alignas(64) int16_t each[Simd::kBytes / 2];
    Simd::store_i(each, most);
    int32_t top = 0;
    for (const int16_t value : each) {
        const int32_t size = static_cast<uint16_t>(value);
        top = size > top ? size : top;
    }
    return top;
}
#else
inline int32_t products(const int16_t* book, const int16_t* x, int64_t pairs, int16_t* to, int32_t most) {
    for (int64_t entry = 0; entry < kTableEntries; ++entry) {
        int32_t sum = 0;
        for (int64_t pair = 0; pair < pairs; ++pair) {
            const int16_t* values = book + (pair * kTableEntries + entry) * 2;
            sum += values[0] * x[2 * pair] + values[1] * x[2 * pair + 1];
        }
        const int32_t part = sum >> 15;
        const int32_t size = part < 0 ? -part : part;
        to[entry] = static_cast<int16_t>(part > 32767 ? 32767 : part);
        most = size > most ? size : most;
    }
    return most;
}

inline void to_bytes(const int16_t* from, int16_t factor, uint8_t* to) {
    for (int64_t entry = 0; entry < kTableEntries; ++entry) {
        int32_t value = (from[entry] * factor + (1 << 14)) >> 15;
        value = value > 127 ? 127 : value < -128 ? -128 : value;
        to[entry] = static_cast<uint8_t>(value + 128);
    }
}
#endif

float build_tables(const PairedBooks& books, const float* x, int64_t groups, uint8_t* tables) {
    const int64_t width = books.vector_inputs, padded = 2 * books.pairs;
    float most_sum = 0;
    for (int64_t group = 0; group < groups; ++group) {
        float sum = 0;
        for (int64_t index = 0; index < width; ++index) {
            sum += absolute(x[group * width + index]);
        }
        if (!(sum <= kLargest)) {
            most_sum = sum - sum;  // if a value is infinite or NaN, the result is NaN
            break;
        }
        most_sum = sum > most_sum ? sum : most_sum;
    }
    if (!(most_sum > 0) || !(books.scale > 0)) {
        std::memset(tables, 128, static_cast<size_t>(groups * books.books * kTableEntries));
        return most_sum == most_sum ? 0 : most_sum;
    }
    // A group's products sum to at most 32767 * 32767, so the sums shifted by 15 bits fit 16.
    const float factor = 32767.0F / most_sum;
    alignas(64) int16_t parts[kBlockLookups * kTableEntries];
    alignas(64) int16_t inputs[1024];
#ifdef OVROUND_TABLES
    typename Simd::I most = Simd::zero_i();
#else
    int32_t most = 0;
#endif
    for (int64_t group = 0; group < groups; ++group) {
        inputs[padded - 1] = 0;
        for (int64_t index = 0; index < width; ++index) {
            inputs[index] = static_cast<int16_t>(static_cast<int32_t>(rounded(x[group * width + index] * factor)));
        }
        for (int64_t book = 0; book < books.books; ++book) {
            const int16_t* values = books.values + book * padded * kTableEntries;
            int16_t* to = parts + (group * books.books + book) * kTableEntries;
#ifdef OVROUND_TABLES
            most = books.pairs == 4 ? products<4>(values, inputs, 4, to, most)
                                    : products<0>(values, inputs, books.pairs, to, most);
#else
            most = products(values, inputs, books.pairs, to, most);
#endif
        }
    }
#ifdef OVROUND_TABLES
    const int32_t top = largest(most);
#else
    const int32_t top = most;
#endif
    const int16_t by = top <= 127 ? int16_t{32767} : static_cast<int16_t>(127 * 32768 / top);
    for (int64_t table = 0; table < groups * books.books; ++table) {
        to_bytes(parts + table * kTableEntries, by, tables + table * kTableEntries);
    }
    return 32768.0F / by * 32768.0F / factor * books.scale;
}

#ifdef OVROUND_TABLES
// Even and odd rows are summed separately: one 16-bit lane sums even + 256 * odd, modulo 2^16, another sums odd alone.
template <int kTiles>
void look_up_tiles(const uint8_t* codes, int64_t tile_bytes, const uint8_t* tables, const float* table_scales,
                   int64_t groups, int64_t books, int64_t block_groups, float* sums) {
    constexpr int kVectors = kTiles * kRows / Simd::kBytes;
    constexpr int kLanes = Simd::kBytes / 2;
    alignas(64) float even_sums[kVectors][kLanes], odd_sums[kVectors][kLanes];
    std::memset(even_sums, 0, sizeof(even_sums));
    std::memset(odd_sums, 0, sizeof(odd_sums));
    for (int64_t start = 0; start < groups; start += block_groups) {
        const int64_t stop = start + block_groups < groups ? start + block_groups : groups;
        typename Simd::I both[kVectors], odd[kVectors];
        for (int vector = 0; vector < kVectors; ++vector) {
            both[vector] = odd[vector] = Simd::zero_i();
        }
        for (int64_t index = start * books; index < stop * books; ++index) {
            const typename Simd::Table table(tables + index * kTableEntries);
            for (int vector = 0; vector < kVectors; ++vector) {
                const uint8_t* at = codes + (vector * Simd::kBytes / kRows) * tile_bytes + index * kRows +
                                    vector * Simd::kBytes % kRows;
                const typename Simd::I values = table.look_up(Simd::load_i(at));
                both[vector] = Simd::add16(both[vector], values);
                odd[vector] = Simd::add16(odd[vector], Simd::high_byte16(values));
            }
        }
        const int32_t offset = static_cast<int32_t>(128 * (stop - start) * books);
        const float scale = table_scales[start / block_groups];
        for (int vector = 0; vector < kVectors; ++vector) {
            alignas(64) uint16_t evens[kLanes], odds[kLanes];
            Simd::store_i(evens, both[vector]);
            Simd::store_i(odds, odd[vector]);
            for (int lane = 0; lane < kLanes; ++lane) {
                const uint16_t even = static_cast<uint16_t>(evens[lane] - (odds[lane] << 8));
                even_sums[vector][lane] += scale * static_cast<float>(even - offset);
                odd_sums[vector][lane] += scale * static_cast<float>(odds[lane] - offset);
            }
        }
    }
    for (int vector = 0; vector < kVectors; ++vector) {
        for (int lane = 0; lane < kLanes; ++lane) {
            sums[vector * Simd::kBytes + 2 * lane] = even_sums[vector][lane];
            sums[vector * Simd::kBytes + 2 * lane + 1] = odd_sums[vector][lane];
        }
    }
}

void look_up(const uint8_t* codes, int64_t tile_bytes, int64_t tiles, const uint8_t* tables, const float* table_scales,
             int64_t groups, int64_t books, int64_t block_groups, float* sums) {
    const auto run = tiles == 1 ? look_up_tiles<1> : tiles == 2 ? look_up_tiles<2> : look_up_tiles<4>;
    run(codes, tile_bytes, tables, table_scales, groups, books, block_groups, sums);
}
#else
void look_up(const uint8_t* codes, int64_t tile_bytes, int64_t tiles, const uint8_t* tables, const float* table_scales,
             int64_t groups, int64_t books, int64_t block_groups, float* sums) {
    for (int64_t tile = 0; tile < tiles; ++tile) {
        const uint8_t* from = codes + tile * tile_bytes;
        float* to = sums + tile * kRows;
        std::memset(to, 0, kRows * sizeof(float));
        for (int64_t start = 0; start < groups; start += block_groups) {
            const int64_t stop = start + block_groups < groups ? start + block_groups : groups;
            int32_t totals[kRows] = {};
            for (int64_t index = start * books; index < stop * books; ++index) {
                const uint8_t* table = tables + index * kTableEntries;
                for (int64_t row = 0; row < kRows; ++row) {
                    totals[row] += table[from[index * kRows + row]];
                }
            }
            const int32_t offset = static_cast<int32_t>(128 * (stop - start) * books);
            for (int64_t row = 0; row < kRows; ++row) {
                to[row] += table_scales[start / block_groups] * static_cast<float>(totals[row] - offset);
            }
        }
    }
}
#endif

// ---- codebooks: values ----

// `kWhole`: codes of one byte and 256 entries, so that no code is beyond its book.
template <bool kWhole>
void expand_groups(const uint8_t* codes, int64_t code_bytes, const uint8_t* codebooks, int64_t books, int64_t entries,
                   int64_t vector_bytes, int64_t vector_inputs, int64_t rows, int64_t first, int64_t last, float* to,
                   int64_t ld) {
    const int64_t book_bytes = entries * vector_bytes;
    float value[1024];
    for (int64_t group = first; group < last; ++group) {
        for (int64_t row = 0; row < rows; ++row) {
            float* sum = to + row * ld + (group - first) * vector_inputs;
            const auto halves = [&](int64_t book) {
                const int64_t index = (group * books + book) * kRows + row;
                if constexpr (kWhole) {
                    return codebooks + book * book_bytes + codes[index] * vector_bytes;
                }
                const uint8_t* at = codes + index * code_bytes;
                const int64_t code = code_bytes == 1 ? *at : load16(at);
                // A damaged file may have a code beyond the book, which must not be read.
                return codebooks + book * book_bytes + (code < entries ? code : 0) * vector_bytes;
            };
            if (vector_inputs == 8 && Simd::sum_half8(halves, books, sum)) {
                continue;
            }
            widen(halves(0), sum, vector_inputs);
            for (int64_t book = 1; book < books; ++book) {
                widen(halves(book), value, vector_inputs);
                for (int64_t index = 0; index < vector_inputs; ++index) {
                    sum[index] += value[index];
                }
            }
        }
    }
}

void expand_codes(const uint8_t* codes, int64_t code_bytes, const uint8_t* codebooks, int64_t books, int64_t entries,
                  int64_t vector_outputs, int64_t vector_inputs, int64_t output, int64_t rows, int64_t first,
                  int64_t last, float* to, int64_t ld) {
    const bool whole = code_bytes == 1 && entries == kTableEntries;
    (whole ? expand_groups<true> : expand_groups<false>)(codes, code_bytes, codebooks + output * vector_inputs * 2,
                                                         books, entries, 2 * vector_outputs * vector_inputs,
                                                         vector_inputs, rows, first, last, to, ld);
}

// ---- integers ----

#include "integers.inl"

// ---- gates ----

// e^x with a relative error of 2e-7: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]. Compilers vectorize loops over
// it.
inline float exponential(float x) {
    x = x < -87.0F ? -87.0F : x > 88.0F ? 88.0F : x;
    const float n = rounded(x * 1.44269504F);
    const float r = (x - n * 0.693359375F) + n * 2.12194440e-4F;
    const float fifth = 1.0F / 120 + r * (1.0F / 720);
    const float value = 1 + r * (1 + r * (1.0F / 2 + r * (1.0F / 6 + r * (1.0F / 24 + r * fifth))));
    const uint32_t bits = static_cast<uint32_t>(static_cast<int32_t>(n) + 127) << 23;
    float power = 0;
    std::memcpy(&power, &bits, 4);
    return value * power;
}

void gate(float* gates, const float* up, int64_t count) {
    for (int64_t index = 0; index < count; ++index) {
        gates[index] = gates[index] / (1 + exponential(-gates[index])) * up[index];
    }
}

// ---- float32 ----

template <int kTokens, int kWeights>
inline void multiply_tile(const float* x, int64_t ldx, const float* w, int64_t ldw, int64_t depth, float* y,
                          int64_t ldy, bool add) {
    typename Simd::F sums[kTokens][kWeights];
    for (int token = 0; token < kTokens; ++token) {
        for (int row = 0; row < kWeights; ++row) {
            sums[token][row] = Simd::zero();
        }
    }
    const int64_t whole = depth - depth % Simd::kFloats;
    for (int64_t k = 0; k < whole; k += Simd::kFloats) {
        typename Simd::F weights[kWeights];
        for (int row = 0; row < kWeights; ++row) {
            weights[row] = Simd::load(w + row * ldw + k);
        }
        for (int token = 0; token < kTokens; ++token) {
            const typename Simd::F inputs = Simd::load(x + token * ldx + k);
            for (int row = 0; row < kWeights; ++row) {
                sums[token][row] = Simd::fma(inputs, weights[row], sums[token][row]);
            }
        }
    }
    for (int token = 0; token < kTokens; ++token) {
        for (int row = 0; row < kWeights; ++row) {
            float sum = Simd::sum(sums[token][row]);
            for (int64_t k = whole; k < depth; ++k) {
                sum += x[token * ldx + k] * w[row * ldw + k];
            }
            y[token * ldy + row] = add ? y[token * ldy + row] + sum : sum;
        }
    }
}

template <int kTokens>
void multiply_tokens(const float* x, int64_t ldx, const float* w, int64_t ldw, int64_t rows, int64_t depth, float* y,
                     int64_t ldy, bool add) {
    int64_t row = 0;
    for (; row + 4 <= rows; row += 4) {
        multiply_tile<kTokens, 4>(x, ldx, w + row * ldw, ldw, depth, y + row, ldy, add);
    }
    for (; row < rows; ++row) {
        multiply_tile<kTokens, 1>(x, ldx, w + row * ldw, ldw, depth, y + row, ldy, add);
    }
}

void multiply(const float* x, int64_t ldx, int64_t tokens, const float* w, int64_t ldw, int64_t rows, int64_t depth,
              float* y, int64_t ldy, bool add) {
    int64_t token = 0;
    for (; token + Simd::kTokens <= tokens; token += Simd::kTokens) {
        multiply_tokens<Simd::kTokens>(x + token * ldx, ldx, w, ldw, rows, depth, y + token * ldy, ldy, add);
    }
    for (; token < tokens; ++token) {
        multiply_tokens<1>(x + token * ldx, ldx, w, ldw, rows, depth, y + token * ldy, ldy, add);
    }
}

const Kernels kKernels{Simd::kMostLookupTokens,
                       Simd::kMostDotTokens,
                       Simd::kDotTokens,
                       widen,
                       build_tables,
                       look_up,
                       expand_codes,
                       quantize,
                       dot,
                       expand,
                       gate,
                       multiply,
                       nullptr};

}  // namespace
}  // namespace ovround::native
