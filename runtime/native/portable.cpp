// Any processor.
#include <cstdint>
#include <cstring>

#include "kernels.hpp"

namespace ovround::native {
namespace {

struct Simd {
    static constexpr int kFloats = 4, kBytes = 16, kTokens = 2;
    static constexpr int64_t kMostLookupTokens = kAnyNumber, kMostDotTokens = 2;
    struct F {
        float lanes[kFloats];
    };
    struct I {
        uint8_t bytes[kBytes];
    };

    static int64_t widen(const uint8_t*, float*, int64_t) { return 0; }
    static bool add_half8(const uint8_t*, float*, bool) { return false; }

    static F zero() { return F{}; }
    static F set(float value) { return F{{value, value, value, value}}; }
    static F load(const float* from) {
        F loaded;
        std::memcpy(loaded.lanes, from, sizeof(loaded));
        return loaded;
    }
    static void store(float* to, F value) { std::memcpy(to, value.lanes, sizeof(value)); }
    static F fma(F a, F b, F sum) {
        for (int lane = 0; lane < kFloats; ++lane) {
            sum.lanes[lane] += a.lanes[lane] * b.lanes[lane];
        }
        return sum;
    }
    static float sum(F value) { return (value.lanes[0] + value.lanes[1]) + (value.lanes[2] + value.lanes[3]); }

    // Four bytes a row of a tile are one 32-bit sum.
    static I zero_i() { return I{}; }
    static I load_i(const uint8_t* from) {
        I loaded;
        std::memcpy(loaded.bytes, from, kBytes);
        return loaded;
    }
    static I broadcast32(const int8_t* from) {
        I spread;
        for (int byte = 0; byte < kBytes; ++byte) {
            spread.bytes[byte] = static_cast<uint8_t>(from[byte % 4]);
        }
        return spread;
    }
    template <int kBits>
    static I shift_right16(I value) {
        for (auto& byte : value.bytes) {
            byte = static_cast<uint8_t>(byte >> kBits);
        }
        return value;
    }
    template <int kQuad>
    static I place_third_bit(I value) {
        for (auto& byte : value.bytes) {
            byte = static_cast<uint8_t>(((byte >> kQuad) & 1) << 2);
        }
        return value;
    }
    static I join_bits(I low, I third) {
        for (int byte = 0; byte < kBytes; ++byte) {
            low.bytes[byte] = static_cast<uint8_t>((low.bytes[byte] & 3) | (third.bytes[byte] & 4));
        }
        return low;
    }
    static I add_products8(I sum, I codes, I levels) {
        int32_t sums[4];
        std::memcpy(sums, sum.bytes, kBytes);
        for (int byte = 0; byte < kBytes; ++byte) {
            sums[byte / 4] += codes.bytes[byte] * static_cast<int8_t>(levels.bytes[byte]);
        }
        std::memcpy(sum.bytes, sums, kBytes);
        return sum;
    }
    static F products_to_float(I one, I other) {
        int32_t first[4], second[4];
        std::memcpy(first, one.bytes, kBytes);
        std::memcpy(second, other.bytes, kBytes);
        F both;
        for (int lane = 0; lane < 4; ++lane) {
            both.lanes[lane] = static_cast<float>(first[lane] + second[lane]);
        }
        return both;
    }
};

}  // namespace
}  // namespace ovround::native

#include "kernels.inl"

namespace ovround::native {
const Kernels& portable_kernels() { return kKernels; }
}  // namespace ovround::native
