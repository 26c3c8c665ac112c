// AVX2, FMA and F16C; with OVROUND_VNNI also AVX-VNNI.
#include <immintrin.h>

#include <cstdint>

#include "kernels.hpp"

#define OVROUND_TABLES

namespace ovround::native {
namespace {

struct Simd {
    static constexpr int kFloats = 8, kBytes = 32, kTokens = 3;
    static constexpr int64_t kMostLookupTokens = 32, kMostDotTokens = kAnyNumber;
    using F = __m256;
    using I = __m256i;

    static int64_t widen(const uint8_t* halves, float* to, int64_t count) {
        int64_t done = 0;
        for (; done + 8 <= count; done += 8) {
            _mm256_storeu_ps(to + done, half8(halves + 2 * done));
        }
        return done;
    }
    static __m256 half8(const uint8_t* halves) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(halves)));
    }
    // The sum of `count` times 8 float16.
    template <typename Halves>
    static bool sum_half8(const Halves& halves, int64_t count, float* to) {
        __m256 sum = half8(halves(0));
        for (int64_t number = 1; number < count; ++number) {
            sum = _mm256_add_ps(sum, half8(halves(number)));
        }
        _mm256_storeu_ps(to, sum);
        return true;
    }

    static F zero() { return _mm256_setzero_ps(); }
    static F set(float value) { return _mm256_set1_ps(value); }
    static F load(const float* from) { return _mm256_loadu_ps(from); }
    static void store(float* to, F value) { _mm256_storeu_ps(to, value); }
    static F fma(F a, F b, F sum) { return _mm256_fmadd_ps(a, b, sum); }
    static float sum(F value) {
        __m128 half = _mm_add_ps(_mm256_castps256_ps128(value), _mm256_extractf128_ps(value, 1));
        half = _mm_add_ps(half, _mm_movehl_ps(half, half));
        return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
    }

    static I zero_i() { return _mm256_setzero_si256(); }
    static I load_i(const void* from) { return _mm256_loadu_si256(static_cast<const I*>(from)); }
    static void store_i(void* to, I value) { _mm256_storeu_si256(static_cast<I*>(to), value); }
    static I broadcast32(const void* from) {
        int32_t value = 0;
        __builtin_memcpy(&value, from, 4);
        return _mm256_set1_epi32(value);
    }
    static I set16(int16_t value) { return _mm256_set1_epi16(value); }
    static I set8(char value) { return _mm256_set1_epi8(value); }
    static I xor_i(I a, I b) { return _mm256_xor_si256(a, b); }
    static I add16(I a, I b) { return _mm256_add_epi16(a, b); }
    static I high_byte16(I value) { return _mm256_srli_epi16(value, 8); }
    static I add_products16(I sum, I a, I b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }
    static I shift15(I value) { return _mm256_srai_epi32(value, 15); }
    static I pack32(I low, I high) { return _mm256_packs_epi32(low, high); }
    static I pack16(I low, I high) { return _mm256_packs_epi16(low, high); }
    static I max_abs16(I most, I value) { return _mm256_max_epu16(most, _mm256_abs_epi16(value)); }
    static I multiply_round16(I a, I b) { return _mm256_mulhrs_epi16(a, b); }
    static I in_order(I packed) {
        return _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    }

    // 256 bytes as 16 tables of 16: the lower four bits of the code index each table, and the upper four bits select
    // the table, bit by bit.
    struct Table {
        const uint8_t* values;
        explicit Table(const uint8_t* from) : values(from) {}
        I part(int number, I low) const {
            const __m128i sixteen = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values + 16 * number));
            return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(sixteen), low);
        }
        I look_up(I codes) const {
            const I low = _mm256_and_si256(codes, _mm256_set1_epi8(15));
            const I bit6 = _mm256_slli_epi16(codes, 1), bit5 = _mm256_slli_epi16(codes, 2),
                    bit4 = _mm256_slli_epi16(codes, 3);
            const auto four = [&](int start) {
                const I first = _mm256_blendv_epi8(part(start, low), part(start + 1, low), bit4);
                const I second = _mm256_blendv_epi8(part(start + 2, low), part(start + 3, low), bit4);
                return _mm256_blendv_epi8(first, second, bit5);
            };
            const I lower = _mm256_blendv_epi8(four(0), four(4), bit6);
            const I upper = _mm256_blendv_epi8(four(8), four(12), bit6);
            return _mm256_blendv_epi8(lower, upper, codes);
        }
    };

    static constexpr int64_t kDotTokens = 4;
    static constexpr int kAccumulatorTokens = 1;
    static void prefetch(const uint8_t* at, int64_t bytes) {
        for (int64_t line = 0; line < bytes; line += 64) {
            _mm_prefetch(reinterpret_cast<const char*>(at + line), _MM_HINT_T0);
        }
    }
    static F halves(const uint8_t* at) { return half8(at); }
    static F bytes(const uint8_t* at) {
        return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at))));
    }
    static F multiply(F a, F b) { return _mm256_mul_ps(a, b); }
    static F to_float(I value) { return _mm256_cvtepi32_ps(value); }
    static I and_i(I a, I b) { return _mm256_and_si256(a, b); }
    static I add32(I a, I b) { return _mm256_add_epi32(a, b); }
    template <int kBits>
    static I shift_right16(I value) {
        return kBits == 0 ? value : _mm256_srli_epi16(value, kBits);
    }
    template <int kBits>
    static I shift_right32(I value) {
        return _mm256_srai_epi32(value, kBits);
    }
    template <int kBits>
    static I shift_left32(I value) {
        return _mm256_slli_epi32(value, kBits);
    }
    // Moves bits to the left by kBy, or to the right by -kBy, across the bytes of 16 bits.
    template <int kBy>
    static I move_bits(I value) {
        return kBy >= 0 ? _mm256_slli_epi16(value, kBy >= 0 ? kBy : 0) : _mm256_srli_epi16(value, kBy < 0 ? -kBy : 0);
    }
    template <int kLow, int kHigh>
    static I join_bits(I low, I high) {
        return _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi8(kLow)),
                               _mm256_and_si256(high, _mm256_set1_epi8(kHigh)));
    }
    static F signed_bytes(const uint8_t* at) {
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(at))));
    }
    static I add_pairs16(I sum, I pairs) {
        return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
#ifdef OVROUND_VNNI
    static constexpr bool kWide = true;  // products are summed directly in 32 bits
    static I add_products8(I sum, I codes, I levels) { return _mm256_dpbusd_avx_epi32(sum, codes, levels); }
#else
    static constexpr bool kWide = false;
    static I add_products8(I sum, I codes, I levels) {
        return _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes, levels));
    }
#endif
};

}  // namespace
}  // namespace ovround::native

#include "kernels.inl"
