// The random numbers of sampling: xoshiro256**, seeded by splitmix64, as in runtime/decoding/random_source.py.
#pragma once

#include <array>
#include <cstdint>

namespace ovround {

class Xoshiro256 {
public:
    explicit Xoshiro256(uint64_t seed) {
        for (uint64_t step = 1; step <= 4; ++step) {
            uint64_t z = seed + step * 0x9E3779B97F4A7C15U;
            z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
            z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
            state_[step - 1] = z ^ (z >> 31);
        }
    }

    uint64_t next_u64() {
        auto& [s0, s1, s2, s3] = state_;
        const uint64_t result = rotate_left(s1 * 5, 7) * 9;
        const uint64_t shifted = s1 << 17;
        s2 ^= s0;
        s3 ^= s1;
        s1 ^= s2;
        s0 ^= s3;
        s2 ^= shifted;
        s3 = rotate_left(s3, 45);
        return result;
    }

    // A double in [0, 1): the upper 53 bits, times 2^-53.
    double uniform() { return static_cast<double>(next_u64() >> 11) * 0x1p-53; }

private:
    static uint64_t rotate_left(uint64_t x, int bits) { return (x << bits) | (x >> (64 - bits)); }

    std::array<uint64_t, 4> state_;
};

}  // namespace ovround
