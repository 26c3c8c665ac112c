// Integer weights of 2 to 6 and 8 bits; kernels.inl includes this file.
//
// A run is 32 inputs of 16 rows. A quad is four consecutive inputs of 16 rows: 64 bytes, byte 4 * row + input. With 8
// bits, each quad has its own bytes. With 4 bits, two quads share bytes, the first in the lower bits; with 2 bits, four
// quads do. With 3 bits, the lower two bits are stored like 2 bits (128 bytes), followed by the third bits of all eight
// quads, quad 0 lowest (64 bytes). With 5 and 6 bits, the lower four are stored like 4 bits (256 bytes), followed by
// the fifth bits like third bits (64 bytes), or by the upper two like 2 bits (128 bytes).

template <int kBits, int kQuad>
inline typename Simd::I raw_quad(const uint8_t* at) {
    return Simd::load_i(at + kQuad * kBits / 8 * 64);
}

// The codes of a quad; with `kInPlace` they stay at their bit positions, that is, multiplied by 2^shift_of<kBits,
// kQuad>().
template <int kBits, int kQuad>
constexpr int shift_of() {
    return kBits == 8 ? 0 : kBits >= 4 ? 4 * (kQuad % 2) : 2 * (kQuad % 4);
}

template <int kBits, int kQuad, bool kInPlace>
inline typename Simd::I unpack_quad(const uint8_t* at) {
    constexpr int kShift = shift_of<kBits, kQuad>();
    if constexpr (kBits == 8) {
        return raw_quad<8, kQuad>(at);
    } else if constexpr (kBits == 3) {
        const typename Simd::I low = Simd::template shift_right16<kShift>(raw_quad<2, kQuad>(at));
        return Simd::template join_bits<3, 4>(low, Simd::template move_bits<2 - kQuad>(Simd::load_i(at + 128)));
    } else if constexpr (kBits == 5) {
        const typename Simd::I low = Simd::template shift_right16<kShift>(raw_quad<4, kQuad>(at));
        return Simd::template join_bits<15, 16>(low, Simd::template move_bits<4 - kQuad>(Simd::load_i(at + 256)));
    } else if constexpr (kBits == 6) {
        const typename Simd::I low = Simd::template shift_right16<kShift>(raw_quad<4, kQuad>(at));
        const typename Simd::I upper = raw_quad<2, kQuad>(at + 256);
        return Simd::template join_bits<15, 48>(low, Simd::template move_bits<4 - 2 * (kQuad % 4)>(upper));
    } else if constexpr (kInPlace) {
        return Simd::and_i(raw_quad<kBits, kQuad>(at), Simd::set8(static_cast<char>(((1 << kBits) - 1) << kShift)));
    } else {
        const typename Simd::I low = Simd::template shift_right16<kShift>(raw_quad<kBits, kQuad>(at));
        return Simd::and_i(low, Simd::set8(static_cast<char>((1 << kBits) - 1)));
    }
}

// The integer sums of one tile's products with kTokens quantised rows within a span.
//
// kAccumulators sums for each token hide the latency of a product. If codes stay in place, sum c holds position c's.
template <int kBits, int kTokens>
struct Dot {
    static constexpr int kAccumulators = Simd::kWide && kTokens <= Simd::kAccumulatorTokens ? 4 : 1;
    static constexpr bool kInPlace = kAccumulators == 4 && kBits != 3;
    typename Simd::I sums[kTokens][kAccumulators];

    Dot() {
        OVROUND_UNROLL
        for (auto& token : sums) {
            OVROUND_UNROLL
            for (auto& sum : token) {
                sum = Simd::zero_i();
            }
        }
    }

    template <int kQuad>
    inline void quad(const uint8_t* at, const int8_t* levels) {
        const typename Simd::I codes = unpack_quad<kBits, kQuad, kInPlace>(at);
        OVROUND_UNROLL
        for (int token = 0; token < kTokens; ++token) {
            auto& sum = sums[token][kQuad % kAccumulators];
            sum = Simd::add_products8(sum, codes, Simd::broadcast32(levels + (kQuad * kTokens + token) * 4));
        }
    }

    // Without 32-bit sums of products, 16 bits hold the sums of a run: eight products of at most 2 * 15 * 127.
    template <int kQuad>
    static inline void narrow_quad(const uint8_t* at, const int8_t* levels, typename Simd::I* narrow,
                                   typename Simd::I* upper) {
        const typename Simd::I codes = unpack_quad<kBits, kQuad, false>(at);
        OVROUND_UNROLL
        for (int token = 0; token < kTokens; ++token) {
            const typename Simd::I inputs = Simd::broadcast32(levels + (kQuad * kTokens + token) * 4);
            if constexpr (kBits == 8) {
                const typename Simd::I nibble = Simd::set8(15);
                narrow[token] = Simd::add_products8(narrow[token], Simd::and_i(codes, nibble), inputs);
                upper[token] = Simd::add_products8(upper[token],
                                                   Simd::and_i(Simd::template shift_right16<4>(codes), nibble), inputs);
            } else {
                narrow[token] = Simd::add_products8(narrow[token], codes, inputs);
            }
        }
    }

    inline void run(const uint8_t* at, const int8_t* levels) {
        if constexpr (Simd::kWide) {
            quad<0>(at, levels);
            quad<1>(at, levels);
            quad<2>(at, levels);
            quad<3>(at, levels);
            quad<4>(at, levels);
            quad<5>(at, levels);
            quad<6>(at, levels);
            quad<7>(at, levels);
        } else {
            typename Simd::I narrow[kTokens], upper[kTokens];
            OVROUND_UNROLL
            for (int token = 0; token < kTokens; ++token) {
                narrow[token] = upper[token] = Simd::zero_i();
            }
            narrow_quad<0>(at, levels, narrow, upper);
            narrow_quad<1>(at, levels, narrow, upper);
            narrow_quad<2>(at, levels, narrow, upper);
            narrow_quad<3>(at, levels, narrow, upper);
            narrow_quad<4>(at, levels, narrow, upper);
            narrow_quad<5>(at, levels, narrow, upper);
            narrow_quad<6>(at, levels, narrow, upper);
            narrow_quad<7>(at, levels, narrow, upper);
            OVROUND_UNROLL
            for (int token = 0; token < kTokens; ++token) {
                sums[token][0] = Simd::add_pairs16(sums[token][0], narrow[token]);
                if constexpr (kBits == 8) {
                    const typename Simd::I more = Simd::add_pairs16(Simd::zero_i(), upper[token]);
                    sums[token][0] = Simd::add32(sums[token][0], Simd::template shift_left32<4>(more));
                }
            }
        }
    }

    inline typename Simd::F total(int token) const {
        if constexpr (kAccumulators == 1) {
            return Simd::to_float(sums[token][0]);
        } else if constexpr (!kInPlace || kBits == 8) {
            return Simd::to_float(
                Simd::add32(Simd::add32(sums[token][0], sums[token][1]), Simd::add32(sums[token][2], sums[token][3])));
        } else if constexpr (kBits == 4) {
            const typename Simd::I upper = Simd::add32(sums[token][1], sums[token][3]);
            return Simd::to_float(
                Simd::add32(Simd::add32(sums[token][0], sums[token][2]), Simd::template shift_right32<4>(upper)));
        } else {
            const typename Simd::I low = Simd::add32(sums[token][0], Simd::template shift_right32<2>(sums[token][1]));
            const typename Simd::I high = Simd::add32(sums[token][2], Simd::template shift_right32<2>(sums[token][3]));
            return Simd::to_float(Simd::add32(low, Simd::template shift_right32<4>(high)));
        }
    }
};

template <int kBits, int kTokens>
void dot_tile(const IntegerTile& tile, const QuantizedRows& rows, float* y) {
    constexpr int64_t kRunBytes = kBits * kTileRows * kRun / 8;
    for (int64_t part = 0; part < 64; part += Simd::kBytes) {  // one vector of sums for each part of the rows
        typename Simd::F products[kTokens];
        OVROUND_UNROLL
        for (auto& sum : products) {
            sum = Simd::zero();
        }
        const int64_t first = part / 4;
        const uint8_t* codes = tile.codes + part;
        const int8_t* levels = rows.levels;
        typename Simd::F zero = Simd::set(tile.zero_points[0]);
        const uint8_t* scales = tile.scales + first * 2;
        const uint8_t* zero_points = tile.zero_points + first;
        int64_t left = tile.group_spans;
        for (int64_t span = 0; span < rows.spans; ++span) {
            Dot<kBits, kTokens> dot;
            const int64_t last = (span + 1) * rows.span_runs < rows.runs ? (span + 1) * rows.span_runs : rows.runs;
            for (int64_t run = span * rows.span_runs; run < last; ++run) {
                Simd::prefetch(codes + kPrefetch, kRunBytes);
                dot.run(codes, levels);
                codes += kRunBytes;
                levels += kRun * kTokens;
            }
            const typename Simd::F scale = Simd::halves(scales);
            if (!tile.one_zero_point) {
                zero = Simd::bytes(zero_points);
            }
            if (--left == 0) {
                left = tile.group_spans;
                scales += 2 * kTileRows;
                zero_points += kTileRows;
            }
            OVROUND_UNROLL
            for (int token = 0; token < kTokens; ++token) {
                // y += (sum - zero point * sum of inputs) * scale of the weight * scale of the inputs; the difference
                // is exact
                const int64_t at = span * kTokens + token;
                const typename Simd::F sum = Simd::fma(zero, Simd::set(-rows.sums[at]), dot.total(token));
                products[token] = Simd::fma(sum, Simd::multiply(scale, Simd::set(rows.scales[at])), products[token]);
            }
        }
        OVROUND_UNROLL
        for (int token = 0; token < kTokens; ++token) {
            Simd::store(y + token * kTileRows + first, products[token]);
        }
    }
}

template <int kBits>
void dot_tokens(const IntegerTile& tile, const QuantizedRows& rows, float* y) {
    switch (rows.tokens) {
        case 1: return dot_tile<kBits, 1>(tile, rows, y);
        case 2: return dot_tile<kBits, 2>(tile, rows, y);
        case 3: return dot_tile<kBits, 3>(tile, rows, y);
        case 4: return dot_tile<kBits, 4>(tile, rows, y);
        case 8:
            if constexpr (Simd::kDotTokens >= 8) {
                return dot_tile<kBits, 8>(tile, rows, y);
            }
            break;
        default:
            if constexpr (Simd::kDotTokens >= 16) {
                return dot_tile<kBits, 16>(tile, rows, y);
            }
    }
}

#include "affine.inl"

void dot(const IntegerTile& tile, const QuantizedRows& rows, float* y) {
    if (tile.block_groups > 0) {
        return affine_dot(tile, rows, y);
    }
    switch (tile.bits) {
        case 2: return dot_tokens<2>(tile, rows, y);
        case 3: return dot_tokens<3>(tile, rows, y);
        case 4: return dot_tokens<4>(tile, rows, y);
        default: return dot_tokens<8>(tile, rows, y);
    }
}

void quantize(const float* x, int64_t inputs, int64_t span_inputs, int64_t tokens, int8_t* levels, float* scale,
              float* sum) {
    for (int64_t start = 0, span = 0; start < inputs; start += span_inputs, ++span) {
        const int64_t count = inputs - start < span_inputs ? inputs - start : span_inputs;
        const int64_t whole_runs = (count + kRun - 1) / kRun * kRun;
        const int64_t padded = whole_runs < span_inputs ? whole_runs : span_inputs;
        float values[kMostSpan];
        std::memcpy(values, x + start, static_cast<size_t>(count) * sizeof(float));
        for (int64_t index = count; index < padded; ++index) {
            values[index] = 0;
        }
        uint32_t most_bits = 0;  // of absolute values, which have the same order; NaN is above all numbers
        for (int64_t index = 0; index < padded; ++index) {
            uint32_t bits = 0;
            std::memcpy(&bits, values + index, 4);
            bits &= 0x7FFFFFFFU;
            most_bits = bits > most_bits ? bits : most_bits;
        }
        float most = 0;
        std::memcpy(&most, &most_bits, 4);
        int32_t each[kMostSpan] = {};
        int32_t total = 0;
        if (most_bits >= 0x7F800000U) {
            scale[span * tokens] = most - most;
        } else {
            const float by = most > 0 ? 127.0F / most : 0;
            for (int64_t index = 0; index < padded; ++index) {
                each[index] = static_cast<int32_t>(rounded(values[index] * by));
                total += each[index];
            }
            scale[span * tokens] = most / 127.0F;
        }
        sum[span * tokens] = static_cast<float>(total);
        int8_t* to = levels + start * tokens;
        for (int64_t index = 0; index < padded; index += 4) {
            const uint32_t quad =
                (static_cast<uint32_t>(each[index]) & 255U) | (static_cast<uint32_t>(each[index + 1]) & 255U) << 8 |
                (static_cast<uint32_t>(each[index + 2]) & 255U) << 16 | static_cast<uint32_t>(each[index + 3]) << 24;
            std::memcpy(to + index * tokens, &quad, 4);
        }
    }
}

inline int code_at(int64_t bits, const uint8_t* at, int64_t row, int64_t input) {
    const int64_t quad = input / 4, byte = 4 * row + input % 4;
    switch (bits) {
        case 2: return (at[quad / 4 * 64 + byte] >> (2 * (quad % 4))) & 3;
        case 3: return ((at[quad / 4 * 64 + byte] >> (2 * (quad % 4))) & 3) | (((at[128 + byte] >> quad) & 1) << 2);
        case 4: return (at[quad / 2 * 64 + byte] >> (4 * (quad % 2))) & 15;
        default: return at[quad * 64 + byte];
    }
}

void expand(const IntegerTile& tile, int64_t runs, int64_t groups, int64_t first, int64_t last, float* to, int64_t ld) {
    if (tile.block_groups > 0) {
        return affine_expand(tile, runs, groups, first, last, to, ld);
    }
    for (int64_t run = first; run < last; ++run) {
        const uint8_t* at = tile.codes + run * tile.bits * kTileRows * kRun / 8;
        const int64_t group = run * groups / runs;
        float by[kTileRows];
        widen(tile.scales + group * kTileRows * 2, by, kTileRows);
        for (int64_t row = 0; row < kTileRows; ++row) {
            const float zero = tile.zero_points[tile.one_zero_point ? 0 : group * kTileRows + row];
            float* values = to + row * ld + (run - first) * kRun;
            for (int64_t input = 0; input < kRun; ++input) {
                values[input] = (static_cast<float>(code_at(tile.bits, at, row, input)) - zero) * by[row];
            }
        }
    }
}
