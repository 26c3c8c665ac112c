// Affine weights: (code - zero point) * scale - minimum, in groups of 16 inputs or whole runs; integers.inl includes
// this file. linear.hpp describes the blocks of scales and minimums.

inline int64_t affine_block_bytes(int64_t block_groups) {
    return 2 * kTileRows + (block_groups > 1 ? block_groups * kTileRows : 0);
}

// The scales and minimums of one vector of rows, group by group.
struct AffineGroups {
    const IntegerTile& tile;
    int64_t bytes, row, block = -1, group;  // `group` within the block
    typename Simd::F block_scale = Simd::zero(), block_minimum = Simd::zero();
    typename Simd::F scale = Simd::zero(), minimum = Simd::zero();

    AffineGroups(const IntegerTile& of, int64_t first_row)
        : tile(of), bytes(affine_block_bytes(of.block_groups)), row(first_row), group(of.block_groups) {}

    inline void next() {
        if (group == tile.block_groups) {
            group = 0;
            ++block;
            scale = block_scale = Simd::halves(tile.scales + block * bytes + 2 * row);
            if (tile.minimums != nullptr) {
                minimum = block_minimum = Simd::halves(tile.minimums + block * bytes + 2 * row);
            }
        }
        if (tile.block_groups > 1) {
            const int64_t at = block * bytes + (2 + group) * kTileRows + row;
            scale = Simd::multiply(block_scale, Simd::signed_bytes(tile.scales + at));  // exact: 11 and 8 bits
            if (tile.minimums != nullptr) {
                minimum = Simd::multiply(block_minimum, Simd::signed_bytes(tile.minimums + at));
            }
        }
        ++group;
    }
};

// The integer sums of one tile's products with kTokens quantised rows within a run or half of one.
//
// If codes stay in place, sum c holds those of position c.
template <int kBits, int kTokens>
struct AffineDot {
    static constexpr int kAccumulators = Simd::kWide && kTokens <= Simd::kAccumulatorTokens ? 2 : 1;
    static constexpr bool kInPlace = kAccumulators == 2 && kBits == 4;
    static constexpr int kNarrowQuads = kBits == 6 ? 2 : 4;  // whose products of at most 2 * 63 * 127 fit 16 bits
    typename Simd::I sums[kTokens][kAccumulators];

    inline void clear() {
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

    template <int kFirst, int kCount>
    inline void narrow_quads(const uint8_t* at, const int8_t* levels) {
        typename Simd::I narrow[kTokens];
        OVROUND_UNROLL
        for (auto& sum : narrow) {
            sum = Simd::zero_i();
        }
        narrow_quad<kFirst>(at, levels, narrow);
        narrow_quad<kFirst + 1>(at, levels, narrow);
        if constexpr (kCount == 4) {
            narrow_quad<kFirst + 2>(at, levels, narrow);
            narrow_quad<kFirst + 3>(at, levels, narrow);
        }
        OVROUND_UNROLL
        for (int token = 0; token < kTokens; ++token) {
            sums[token][0] = Simd::add_pairs16(sums[token][0], narrow[token]);
        }
    }

    template <int kQuad>
    static inline void narrow_quad(const uint8_t* at, const int8_t* levels, typename Simd::I* narrow) {
        const typename Simd::I codes = unpack_quad<kBits, kQuad, false>(at);
        OVROUND_UNROLL
        for (int token = 0; token < kTokens; ++token) {
            narrow[token] =
                Simd::add_products8(narrow[token], codes, Simd::broadcast32(levels + (kQuad * kTokens + token) * 4));
        }
    }

    // Adds the products of half a run: quads kFirst to kFirst + 3.
    template <int kFirst>
    inline void half(const uint8_t* at, const int8_t* levels) {
        if constexpr (Simd::kWide) {
            quad<kFirst>(at, levels);
            quad<kFirst + 1>(at, levels);
            quad<kFirst + 2>(at, levels);
            quad<kFirst + 3>(at, levels);
        } else if constexpr (kNarrowQuads == 4) {
            narrow_quads<kFirst, 4>(at, levels);
        } else {
            narrow_quads<kFirst, 2>(at, levels);
            narrow_quads<kFirst + 2, 2>(at, levels);
        }
    }

    inline typename Simd::F total(int token) const {
        if constexpr (kAccumulators == 1) {
            return Simd::to_float(sums[token][0]);
        } else if constexpr (kInPlace) {
            return Simd::to_float(Simd::add32(sums[token][0], Simd::template shift_right32<4>(sums[token][1])));
        } else {
            return Simd::to_float(Simd::add32(sums[token][0], sums[token][1]));
        }
    }
};

template <int kBits, int kTokens>
void affine_tile(const IntegerTile& tile, const QuantizedRows& rows, float* y) {
    constexpr int64_t kRunBytes = kBits * kTileRows * kRun / 8;
    const typename Simd::F zero = Simd::set(tile.zero_points[0]);
    for (int64_t part = 0; part < 64; part += Simd::kBytes) {  // one vector of sums for each part of the rows
        typename Simd::F products[kTokens];
        OVROUND_UNROLL
        for (auto& sum : products) {
            sum = Simd::zero();
        }
        AffineGroups groups(tile, part / 4);
        AffineDot<kBits, kTokens> dot;
        int64_t span = 0, left = 0;  // spans left in the group
        // y += (sum - zero point * sum of inputs) * scale of the weight * scale of the inputs
        //      - minimum * sum of inputs * scale of the inputs
        const auto add_span = [&] {
            if (left == 0) {
                left = tile.group_spans;
                groups.next();
            }
            --left;
            OVROUND_UNROLL
            for (int token = 0; token < kTokens; ++token) {
                const int64_t at = span * kTokens + token;
                const float by = rows.scales[at];
                const typename Simd::F sum = Simd::fma(zero, Simd::set(-rows.sums[at]), dot.total(token));
                products[token] = Simd::fma(sum, Simd::multiply(groups.scale, Simd::set(by)), products[token]);
                if (tile.minimums != nullptr) {
                    products[token] = Simd::fma(groups.minimum, Simd::set(-(rows.sums[at] * by)), products[token]);
                }
            }
            ++span;
        };
        const uint8_t* codes = tile.codes + part;
        const int8_t* levels = rows.levels;
        for (int64_t run = 0; run < rows.runs; ++run, codes += kRunBytes, levels += kRun * kTokens) {
            Simd::prefetch(codes + kPrefetch, kRunBytes);
            dot.clear();
            dot.template half<0>(codes, levels);
            if (rows.span_runs == 0) {
                add_span();
                dot.clear();
            }
            dot.template half<4>(codes, levels);
            add_span();
        }
        OVROUND_UNROLL
        for (int token = 0; token < kTokens; ++token) {
            Simd::store(y + token * kTileRows + part / 4, products[token]);
        }
    }
}

template <int kBits>
void affine_tokens(const IntegerTile& tile, const QuantizedRows& rows, float* y) {
    switch (rows.tokens) {
        case 1: return affine_tile<kBits, 1>(tile, rows, y);
        case 2: return affine_tile<kBits, 2>(tile, rows, y);
        case 3: return affine_tile<kBits, 3>(tile, rows, y);
        case 4: return affine_tile<kBits, 4>(tile, rows, y);
        case 8:
            if constexpr (Simd::kDotTokens >= 8) {
                return affine_tile<kBits, 8>(tile, rows, y);
            }
            break;
        default:
            if constexpr (Simd::kDotTokens >= 16) {
                return affine_tile<kBits, 16>(tile, rows, y);
            }
    }
}

void affine_dot(const IntegerTile& tile, const QuantizedRows& rows, float* y) {
    switch (tile.bits) {
        case 2: return affine_tokens<2>(tile, rows, y);
        case 3: return affine_tokens<3>(tile, rows, y);
        case 4: return affine_tokens<4>(tile, rows, y);
        case 5: return affine_tokens<5>(tile, rows, y);
        default: return affine_tokens<6>(tile, rows, y);
    }
}

// Writes the codes of a run, a byte each: [8 quads, 16 rows, 4 inputs].
template <int kBits>
void unpack_run(const uint8_t* at, uint8_t* to) {
    for (int64_t part = 0; part < 64; part += Simd::kBytes) {
        const uint8_t* from = at + part;
        uint8_t* codes = to + part;
        Simd::store_i(codes, unpack_quad<kBits, 0, false>(from));
        Simd::store_i(codes + 64, unpack_quad<kBits, 1, false>(from));
        Simd::store_i(codes + 128, unpack_quad<kBits, 2, false>(from));
        Simd::store_i(codes + 192, unpack_quad<kBits, 3, false>(from));
        Simd::store_i(codes + 256, unpack_quad<kBits, 4, false>(from));
        Simd::store_i(codes + 320, unpack_quad<kBits, 5, false>(from));
        Simd::store_i(codes + 384, unpack_quad<kBits, 6, false>(from));
        Simd::store_i(codes + 448, unpack_quad<kBits, 7, false>(from));
    }
}

// The 16 numbers of a group, from blocks of scales or minimums.
inline void group_values(const uint8_t* blocks, int64_t block_groups, int64_t group, float* to) {
    const uint8_t* block = blocks + group / block_groups * affine_block_bytes(block_groups);
    widen(block, to, kTileRows);
    if (block_groups > 1) {
        const uint8_t* factors = block + (2 + group % block_groups) * kTileRows;
        for (int64_t row = 0; row < kTileRows; ++row) {
            to[row] *= static_cast<float>(static_cast<int8_t>(factors[row]));
        }
    }
}

void affine_expand(const IntegerTile& tile, int64_t runs, int64_t groups, int64_t first, int64_t last, float* to,
                   int64_t ld) {
    const auto unpack = tile.bits == 2   ? unpack_run<2>
                        : tile.bits == 3 ? unpack_run<3>
                        : tile.bits == 4 ? unpack_run<4>
                        : tile.bits == 5 ? unpack_run<5>
                                         : unpack_run<6>;
    const float zero = tile.zero_points[0];
    const int64_t units = groups > runs ? 2 : 1, unit_quads = kRun / 4 / units;
    alignas(64) uint8_t codes[kRun * kTileRows];
    float scales[kTileRows], minimums[kTileRows] = {};
    for (int64_t run = first; run < last; ++run) {
        unpack(tile.codes + run * tile.bits * kTileRows * kRun / 8, codes);
        for (int64_t unit = 0; unit < units; ++unit) {
            const int64_t group = (run * units + unit) * groups / (runs * units);
            group_values(tile.scales, tile.block_groups, group, scales);
            if (tile.minimums != nullptr) {
                group_values(tile.minimums, tile.block_groups, group, minimums);
            }
            for (int64_t row = 0; row < kTileRows; ++row) {
                const float scale = scales[row], minimum = minimums[row];
                for (int64_t quad = unit * unit_quads; quad < (unit + 1) * unit_quads; ++quad) {
                    float* values = to + row * ld + (run - first) * kRun + 4 * quad;
                    const uint8_t* from = codes + 64 * quad + 4 * row;
                    for (int64_t input = 0; input < 4; ++input) {
                        values[input] = (static_cast<float>(from[input]) - zero) * scale - minimum;
                    }
                }
            }
        }
    }
}
