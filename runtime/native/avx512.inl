// AVX-512 (F, BW, DQ, VL); with OVROUND_VBMI also VBMI and VNNI.
#include <immintrin.h>

#include <cstdint>

#include "kernels.hpp"

#define OVROUND_TABLES

namespace ovround::native {
namespace {

struct Simd {
    static constexpr int kFloats = 16, kBytes = 64, kTokens = 6;
#ifdef OVROUND_VBMI
    static constexpr int64_t kMostLookupTokens = kAnyNumber;
#else
    static constexpr int64_t kMostLookupTokens = 64;
#endif
    static constexpr int64_t kMostDotTokens = kAnyNumber;
    using F = __m512;
    using I = __m512i;

    static int64_t widen(const uint8_t* halves, float* to, int64_t count) {
        int64_t done = 0;
        for (; done + 16 <= count; done += 16) {
            _mm512_storeu_ps(to + done,
                             _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves + 2 * done))));
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

    static F zero() { return _mm512_setzero_ps(); }
    static F set(float value) { return _mm512_set1_ps(value); }
    static F load(const float* from) { return _mm512_loadu_ps(from); }
    static void store(float* to, F value) { _mm512_storeu_ps(to, value); }
    static F fma(F a, F b, F sum) { return _mm512_fmadd_ps(a, b, sum); }
    static float sum(F value) { return _mm512_reduce_add_ps(value); }

    static I zero_i() { return _mm512_setzero_si512(); }
    static I load_i(const void* from) { return _mm512_loadu_si512(from); }
    static void store_i(void* to, I value) { _mm512_storeu_si512(to, value); }
    static I broadcast32(const void* from) {
        int32_t value = 0;
        __builtin_memcpy(&value, from, 4);
        return _mm512_set1_epi32(value);
    }
    static I set16(int16_t value) { return _mm512_set1_epi16(value); }
    static I set8(char value) { return _mm512_set1_epi8(value); }
    static I xor_i(I a, I b) { return _mm512_xor_si512(a, b); }
    static I add16(I a, I b) { return _mm512_add_epi16(a, b); }
    static I high_byte16(I value) { return _mm512_srli_epi16(value, 8); }
    static I add_products16(I sum, I a, I b) {
#ifdef OVROUND_VBMI
        return _mm512_dpwssd_epi32(sum, a, b);
#else
        return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
#endif
    }
    static I shift15(I value) { return _mm512_srai_epi32(value, 15); }
    static I pack32(I low, I high) { return _mm512_packs_epi32(low, high); }
    static I pack16(I low, I high) { return _mm512_packs_epi16(low, high); }
    static I max_abs16(I most, I value) { return _mm512_max_epu16(most, _mm512_abs_epi16(value)); }
    static I multiply_round16(I a, I b) { return _mm512_mulhrs_epi16(a, b); }
    static I in_order(I packed) {
        const I order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        return _mm512_permutexvar_epi32(order, packed);
    }

#ifdef OVROUND_VBMI
    // Two tables of 128; the code's top bit selects one.
    struct Table {
        I a, b, c, d;
        explicit Table(const uint8_t* from)
            : a(load_i(from)), b(load_i(from + 64)), c(load_i(from + 128)), d(load_i(from + 192)) {}
        I look_up(I codes) const {
            const I lower = _mm512_permutex2var_epi8(a, codes, b);
            const I upper = _mm512_permutex2var_epi8(c, codes, d);
            return _mm512_mask_blend_epi8(_mm512_movepi8_mask(codes), lower, upper);
        }
    };
#else
    // 16 tables of 16: the lower four bits of the code index each, and the upper four bits select the table, bit by
    // bit.
    struct Table {
        const uint8_t* values;
        explicit Table(const uint8_t* from) : values(from) {}
        I part(int number, I low) const {
            const __m128i sixteen = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values + 16 * number));
            return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(sixteen), low);
        }
        I look_up(I codes) const {
            const I low = _mm512_and_si512(codes, _mm512_set1_epi8(15));
            const __mmask64 bit7 = _mm512_movepi8_mask(codes), bit6 = _mm512_movepi8_mask(_mm512_slli_epi16(codes, 1));
            const __mmask64 bit5 = _mm512_movepi8_mask(_mm512_slli_epi16(codes, 2));
            const __mmask64 bit4 = _mm512_movepi8_mask(_mm512_slli_epi16(codes, 3));
            const auto four = [&](int start) {
                const I first = _mm512_mask_blend_epi8(bit4, part(start, low), part(start + 1, low));
                const I second = _mm512_mask_blend_epi8(bit4, part(start + 2, low), part(start + 3, low));
                return _mm512_mask_blend_epi8(bit5, first, second);
            };
            const I lower = _mm512_mask_blend_epi8(bit6, four(0), four(4));
            const I upper = _mm512_mask_blend_epi8(bit6, four(8), four(12));
            return _mm512_mask_blend_epi8(bit7, lower, upper);
        }
    };
#endif

    static constexpr int64_t kDotTokens = 16;
    static constexpr int kAccumulatorTokens = 4;
    static void prefetch(const uint8_t* at, int64_t bytes) {
        for (int64_t line = 0; line < bytes; line += 64) {
            _mm_prefetch(reinterpret_cast<const char*>(at + line), _MM_HINT_T0);
        }
    }
    static F halves(const uint8_t* at) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
    }
    static F bytes(const uint8_t* at) {
        return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at))));
    }
    static F multiply(F a, F b) { return _mm512_mul_ps(a, b); }
    static F to_float(I value) { return _mm512_cvtepi32_ps(value); }
    static I and_i(I a, I b) { return _mm512_and_si512(a, b); }
    static I add32(I a, I b) { return _mm512_add_epi32(a, b); }
    template <int kBits>
    static I shift_right16(I value) {
        return kBits == 0 ? value : _mm512_srli_epi16(value, kBits);
    }
    template <int kBits>
    static I shift_right32(I value) {
        return _mm512_srai_epi32(value, kBits);
    }
    template <int kBits>
    static I shift_left32(I value) {
        return _mm512_slli_epi32(value, kBits);
    }
    // Moves bits to the left by kBy, or to the right by -kBy, across the bytes of 16 bits.
    template <int kBy>
    static I move_bits(I value) {
        constexpr int kLeft = kBy >= 0 ? kBy : 0, kRight = kBy < 0 ? -kBy : 0;
        return kBy >= 0 ? _mm512_slli_epi16(value, kLeft) : _mm512_srli_epi16(value, kRight);
    }
    template <int kLow, int kHigh>
    static I join_bits(I low, I high) {
        const I both = _mm512_and_si512(low, _mm512_set1_epi8(kLow));
        return _mm512_ternarylogic_epi32(both, high, _mm512_set1_epi8(kHigh), 0xF8);  // both | (high & kHigh)
    }
    static F signed_bytes(const uint8_t* at) {
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at))));
    }
    static I add_pairs16(I sum, I pairs) {
        return _mm512_add_epi32(sum, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
    }
#ifdef OVROUND_VBMI
    static constexpr bool kWide = true;  // products are summed directly in 32 bits
    static I add_products8(I sum, I codes, I levels) { return _mm512_dpbusd_epi32(sum, codes, levels); }
#else
    static constexpr bool kWide = false;
    static I add_products8(I sum, I codes, I levels) {
        return _mm512_add_epi16(sum, _mm512_maddubs_epi16(codes, levels));
    }
#endif
};

}  // namespace
}  // namespace ovround::native

#include "kernels.inl"
