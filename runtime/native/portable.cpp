// Kernels for any processor.
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
    template <typename Halves>
    static bool sum_half8(const Halves&, int64_t, float*) {
        return false;
    }

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

    // Four bytes for each row of a tile form one 32-bit sum.
    static I zero_i() { return I{}; }
    static I load_i(const uint8_t* from) {
        I loaded;
        std::memcpy(loaded.bytes, from, kBytes);
        return loaded;
    }
    static void store_i(uint8_t* to, I value) { std::memcpy(to, value.bytes, kBytes); }
    static I broadcast32(const int8_t* from) {
        I spread;
        for (int byte = 0; byte < kBytes; ++byte) {
            spread.bytes[byte] = static_cast<uint8_t>(from[byte % 4]);
        }
        return spread;
    }
    static constexpr int64_t kDotTokens = 2;
    static constexpr int kAccumulatorTokens = 0;
    static constexpr bool kWide = true;  // products are summed directly in 32 bits
    static void prefetch(const uint8_t*, int64_t) {}
    static F halves(const uint8_t* at);
    static F bytes(const uint8_t* at) { return F{{float(at[0]), float(at[1]), float(at[2]), float(at[3])}}; }
    static F multiply(F a, F b) {
        for (int lane = 0; lane < kFloats; ++lane) {
            a.lanes[lane] *= b.lanes[lane];
        }
        return a;
    }
    static I set8(char value) {
        I spread;
        std::memset(spread.bytes, value, kBytes);
        return spread;
    }
    static I and_i(I a, I b) {
        for (int byte = 0; byte < kBytes; ++byte) {
            a.bytes[byte] = a.bytes[byte] & b.bytes[byte];
        }
        return a;
    }
    template <int kBits>
    static I shift_right16(I value) {
        for (auto& byte : value.bytes) {
            byte = static_cast<uint8_t>(byte >> kBits);
        }
        return value;
    }
    // Moves bits to the left by kBy, or to the right by -kBy, within each byte.
    template <int kBy>
    static I move_bits(I value) {
        for (auto& byte : value.bytes) {
            byte = static_cast<uint8_t>(kBy >= 0 ? byte << (kBy >= 0 ? kBy : 0) : byte >> (kBy < 0 ? -kBy : 0));
        }
        return value;
    }
    template <int kLow, int kHigh>
    static I join_bits(I low, I high) {
        for (int byte = 0; byte < kBytes; ++byte) {
            low.bytes[byte] = static_cast<uint8_t>((low.bytes[byte] & kLow) | (high.bytes[byte] & kHigh));
        }
        return low;
    }
    static F signed_bytes(const uint8_t* at) {
        F result;
        for (int lane = 0; lane < kFloats; ++lane) {
            result.lanes[lane] = static_cast<float>(static_cast<int8_t>(at[lane]));
        }
        return result;
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
    template <typename Operation>
    static I each32(I a, I b, Operation operation) {
        int32_t first[4], second[4];
        std::memcpy(first, a.bytes, kBytes);
        std::memcpy(second, b.bytes, kBytes);
        for (int lane = 0; lane < 4; ++lane) {
            first[lane] = operation(first[lane], second[lane]);
        }
        std::memcpy(a.bytes, first, kBytes);
        return a;
    }
    static I add32(I a, I b) {
        return each32(a, b, [](int32_t x, int32_t other) { return x + other; });
    }
    template <int kBits>
    static I shift_right32(I value) {
        return each32(value, value, [](int32_t x, int32_t) { return x >> kBits; });
    }
    template <int kBits>
    static I shift_left32(I value) {
        return each32(value, value, [](int32_t x, int32_t) { return x << kBits; });
    }
    static I add_pairs16(I sum, I) { return sum; }  // not needed, because sums have 32 bits
    static F to_float(I value) {
        int32_t sums[4];
        std::memcpy(sums, value.bytes, kBytes);
        F result;
        for (int lane = 0; lane < 4; ++lane) {
            result.lanes[lane] = static_cast<float>(sums[lane]);
        }
        return result;
    }
};

}  // namespace
}  // namespace ovround::native

#include "kernels.inl"

namespace ovround::native {
namespace {

Simd::F Simd::halves(const uint8_t* at) {
    F result;
    native::widen(at, result.lanes, kFloats);  // the free function, not the member
    return result;
}

}  // namespace

const Kernels& portable_kernels() { return kKernels; }
}  // namespace ovround::native
