// AMX (since Sapphire Rapids), for prompts: products of 16 tokens, 16 outputs and 32 inputs at once in bfloat16, with
// float32 sums. Few rows are computed by the AVX-512 VBMI kernels.
#include <immintrin.h>

#include "kernels.hpp"

namespace ovround::native {
namespace {

constexpr int64_t kRun = 32, kRunQuads = 8, kQuadBytes = 64;
constexpr int64_t kTileValues = 16 * kRun;
using V = __m512i;

struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

__mmask16 mask_of(int64_t left) {
    return static_cast<__mmask16>(left >= 16 ? 0xFFFF : left <= 0 ? 0 : (1 << left) - 1);
}

// Rounds float32 to the nearest bfloat16, ties to even: the lower half of each 32 bits from `even`, the upper from
// `odd`.
V interleaved(__m512 even, __m512 odd) {
    alignas(64) static constexpr uint16_t kOrder[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return _mm512_permutexvar_epi16(_mm512_load_si512(kOrder), reinterpret_cast<V>(_mm512_cvtne2ps_pbh(odd, even)));
}

// 32 inputs of a row; those from `left` on are zero.
V in_order(const float* from, int64_t left) {
    const __m512 low = _mm512_maskz_loadu_ps(mask_of(left), from);
    const __m512 high = _mm512_maskz_loadu_ps(mask_of(left - 16), from + 16);
    return reinterpret_cast<V>(_mm512_cvtne2ps_pbh(high, low));
}

void rows_of(const float* x, int64_t inputs, int64_t tokens, uint16_t* to) {
    for (int64_t start = 0; start < inputs; start += kRun) {
        for (int64_t token = 0; token < kMatrixTokens; ++token, to += kRun) {
            const V values =
                token < tokens ? in_order(x + token * inputs + start, inputs - start) : _mm512_setzero_si512();
            _mm512_storeu_si512(to, values);
        }
    }
}

template <int64_t kBits>
V codes_of(const uint8_t* at, int64_t quad) {
    const auto load = [&](int64_t index) { return _mm512_loadu_si512(at + index * kQuadBytes); };
    const auto shifted = [](V value, int64_t by) { return _mm512_srl_epi16(value, _mm_cvtsi64_si128(by)); };
    if constexpr (kBits == 8) {
        return load(quad);
    } else if constexpr (kBits == 4) {
        return _mm512_and_si512(shifted(load(quad / 2), 4 * (quad % 2)), _mm512_set1_epi8(15));
    } else {
        const V low = _mm512_and_si512(shifted(load(quad / 4), 2 * (quad % 4)), _mm512_set1_epi8(3));
        if constexpr (kBits == 2) {
            return low;
        } else {
            const V third = _mm512_and_si512(shifted(load(2), quad), _mm512_set1_epi8(1));
            return _mm512_or_si512(low, _mm512_slli_epi16(third, 2));
        }
    }
}

template <int64_t kBits>
void widen_bits(const IntegerTile& tile, int64_t runs, int64_t group_runs, uint16_t* to) {
    const V byte = _mm512_set1_epi32(255);
    __m512 zero = _mm512_set1_ps(tile.zero_points[0]), scale = _mm512_setzero_ps(), offset = scale;
    for (int64_t run = 0; run < runs; ++run) {
        if (run % group_runs == 0) {
            const int64_t group = run / group_runs;
            const auto* halves = reinterpret_cast<const __m256i*>(tile.scales + group * 32);
            scale = _mm512_cvtph_ps(_mm256_loadu_si256(halves));
            if (!tile.one_zero_point) {
                const auto* points = reinterpret_cast<const __m128i*>(tile.zero_points + group * 16);
                zero = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(points)));
            }
            offset = _mm512_mul_ps(zero, scale);
        }
        const uint8_t* at = tile.codes + run * kBits * kQuadBytes;
        for (int64_t quad = 0; quad < kRunQuads; ++quad, to += 4 * 16) {
            const V codes = codes_of<kBits>(at, quad);
            // The product is exact in float32: its factors have 8 and 11 bits.
            const auto value = [&](V code) { return _mm512_fmsub_ps(_mm512_cvtepi32_ps(code), scale, offset); };
            const __m512 first = value(_mm512_and_si512(codes, byte)),
                         second = value(_mm512_and_si512(_mm512_srli_epi32(codes, 8), byte)),
                         third = value(_mm512_and_si512(_mm512_srli_epi32(codes, 16), byte)),
                         fourth = value(_mm512_srli_epi32(codes, 24));
            _mm512_storeu_si512(to, interleaved(first, second));
            _mm512_storeu_si512(to + 32, interleaved(third, fourth));
        }
    }
}

void integers(const IntegerTile& tile, int64_t runs, int64_t group_runs, uint16_t* to) {
    switch (tile.bits) {
        case 2: return widen_bits<2>(tile, runs, group_runs, to);
        case 3: return widen_bits<3>(tile, runs, group_runs, to);
        case 4: return widen_bits<4>(tile, runs, group_runs, to);
        default: return widen_bits<8>(tile, runs, group_runs, to);
    }
}

// Transposes 16 x 16 values of 32 bits.
void transpose(V (&rows)[16]) {
    V parts[16];
    for (int64_t row = 0; row < 16; row += 2) {
        parts[row] = _mm512_unpacklo_epi32(rows[row], rows[row + 1]);
        parts[row + 1] = _mm512_unpackhi_epi32(rows[row], rows[row + 1]);
    }
    for (int64_t row = 0; row < 16; row += 4) {
        rows[row] = _mm512_unpacklo_epi64(parts[row], parts[row + 2]);
        rows[row + 1] = _mm512_unpackhi_epi64(parts[row], parts[row + 2]);
        rows[row + 2] = _mm512_unpacklo_epi64(parts[row + 1], parts[row + 3]);
        rows[row + 3] = _mm512_unpackhi_epi64(parts[row + 1], parts[row + 3]);
    }
    for (int64_t column = 0; column < 4; ++column) {  // rows[4 * r + c]: column 4 * lane + c of rows 4 * r to 4 * r + 3
        const V low = _mm512_shuffle_i32x4(rows[column], rows[4 + column], 0x88),
                odd = _mm512_shuffle_i32x4(rows[column], rows[4 + column], 0xDD);
        const V more = _mm512_shuffle_i32x4(rows[8 + column], rows[12 + column], 0x88),
                last = _mm512_shuffle_i32x4(rows[8 + column], rows[12 + column], 0xDD);
        parts[column] = _mm512_shuffle_i32x4(low, more, 0x88);
        parts[8 + column] = _mm512_shuffle_i32x4(low, more, 0xDD);
        parts[4 + column] = _mm512_shuffle_i32x4(odd, last, 0x88);
        parts[12 + column] = _mm512_shuffle_i32x4(odd, last, 0xDD);
    }
    for (int64_t row = 0; row < 16; ++row) {
        rows[row] = parts[row];
    }
}

void floats(const float* w, int64_t ldw, const float* scales, int64_t rows, int64_t inputs, uint16_t* to) {
    for (int64_t start = 0; start < inputs; start += kRun, to += kTileValues) {
        V values[16];
        for (int64_t row = 0; row < 16; ++row) {
            values[row] = _mm512_setzero_si512();
            if (row < rows) {
                const float* from = w + row * ldw + start;
                const int64_t left = inputs - start;
                const __m512 scale = _mm512_set1_ps(scales[row]);
                const __m512 low = _mm512_mul_ps(scale, _mm512_maskz_loadu_ps(mask_of(left), from));
                const __m512 high = _mm512_mul_ps(scale, _mm512_maskz_loadu_ps(mask_of(left - 16), from + 16));
                values[row] = reinterpret_cast<V>(_mm512_cvtne2ps_pbh(high, low));
            }
        }
        transpose(values);
        for (int64_t pair = 0; pair < 16; ++pair) {
            _mm512_storeu_si512(to + 32 * pair, values[pair]);
        }
    }
}

template <int kBlocks>
void multiply_blocks(const uint16_t* x, const uint16_t* w, const uint16_t* other, int64_t runs, float* y,
                     float* other_y, int64_t ldy) {
    static constexpr TileConfig config;  // whole in memory: GCC does not know that all of it is read
    _tile_loadconfig(&config);
    asm volatile("" ::: "memory");  // tells GCC that the tile loads read memory
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (kBlocks == 2) {
        _tile_zero(2);
        _tile_zero(3);
    }
    const uint16_t* second = x + runs * kTileValues;
    for (int64_t index = 0; index < runs * kTileValues; index += kTileValues) {
        _tile_loadd(4, x + index, 64);
        _tile_loadd(6, w + index, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, other + index, 64);
        _tile_dpbf16ps(1, 4, 7);
        if constexpr (kBlocks == 2) {
            _tile_loadd(5, second + index, 64);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, y, ldy * 4);
    _tile_stored(1, other_y, ldy * 4);
    if constexpr (kBlocks == 2) {
        _tile_stored(2, y + kMatrixTokens * ldy, ldy * 4);
        _tile_stored(3, other_y + kMatrixTokens * ldy, ldy * 4);
    }
    _tile_release();
}

void multiply(const uint16_t* x, int64_t blocks, const uint16_t* w, const uint16_t* other, int64_t runs, float* y,
              float* other_y, int64_t ldy) {
    blocks == 2 ? multiply_blocks<2>(x, w, other, runs, y, other_y, ldy)
                : multiply_blocks<1>(x, w, other, runs, y, other_y, ldy);
}

constexpr MatrixKernels kMatrix{rows_of, integers, floats, multiply};

}  // namespace

const Kernels& amx_kernels() {
    static const Kernels kernels = [] {
        Kernels with_matrix = avx512vbmi_kernels();
        with_matrix.matrix = &kMatrix;
        return with_matrix;
    }();
    return kernels;
}

}  // namespace ovround::native
