#include "sha256.hpp"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <vector>

#include "ovround/ovround.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace ovround {
namespace {

using State = std::array<uint32_t, 8>;

alignas(16) constexpr std::array<uint32_t, 64> kRound{
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

constexpr uint32_t rotate_right(uint32_t x, int bits) { return (x >> bits) | (x << (32 - bits)); }

void compress_block(State& state, const uint8_t* block) {
    std::array<uint32_t, 64> w;
    for (std::size_t i = 0; i < 16; ++i) {
        w[i] = uint32_t{block[4 * i]} << 24 | uint32_t{block[4 * i + 1]} << 16 | uint32_t{block[4 * i + 2]} << 8 |
               uint32_t{block[4 * i + 3]};
    }
    for (std::size_t i = 16; i < 64; ++i) {
        const uint32_t s0 = rotate_right(w[i - 15], 7) ^ rotate_right(w[i - 15], 18) ^ (w[i - 15] >> 3);
        const uint32_t s1 = rotate_right(w[i - 2], 17) ^ rotate_right(w[i - 2], 19) ^ (w[i - 2] >> 10);
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    auto [a, b, c, d, e, f, g, h] = state;
    for (std::size_t i = 0; i < 64; ++i) {
        const uint32_t s1 = rotate_right(e, 6) ^ rotate_right(e, 11) ^ rotate_right(e, 25);
        const uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + kRound[i] + w[i];
        const uint32_t s0 = rotate_right(a, 2) ^ rotate_right(a, 13) ^ rotate_right(a, 22);
        const uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
        h = g;
        g = f;
        f = e;
        e = d + t1;
        d = c;
        c = b;
        b = a;
        a = t1 + t2;
    }
    const std::array<uint32_t, 8> gained{a, b, c, d, e, f, g, h};
    for (std::size_t i = 0; i < 8; ++i) {
        state[i] += gained[i];
    }
}

#if defined(__x86_64__)
// Intel's SHA extensions keep the state as the rows A, B, E, F and C, D, G, H, and compute two rounds in one
// instruction.
__attribute__((target("sha,sse4.1"))) void compress_by_instructions(State& state, const uint8_t* blocks,
                                                                    std::size_t count) {
    const __m128i big_endian = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    auto* rows = reinterpret_cast<__m128i*>(state.data());
    const __m128i badc = _mm_shuffle_epi32(_mm_loadu_si128(rows), 0xB1);
    const __m128i hgfe = _mm_shuffle_epi32(_mm_loadu_si128(rows + 1), 0x1B);
    __m128i abef = _mm_alignr_epi8(badc, hgfe, 8);
    __m128i cdgh = _mm_blend_epi16(hgfe, badc, 0xF0);
    for (; count > 0; --count, blocks += 64) {
        const __m128i old_abef = abef;
        const __m128i old_cdgh = cdgh;
        __m128i w[4];  // the last 16 words of the schedule
        for (std::size_t i = 0; i < 16; ++i) {
            __m128i& next = w[i % 4];
            if (i < 4) {
                next = _mm_loadu_si128(reinterpret_cast<const __m128i*>(blocks) + i);
                next = _mm_shuffle_epi8(next, big_endian);
            } else {
                const __m128i newest = w[(i + 3) % 4];
                const __m128i seventh = _mm_alignr_epi8(newest, w[(i + 2) % 4], 4);
                next = _mm_add_epi32(_mm_sha256msg1_epu32(next, w[(i + 1) % 4]), seventh);
                next = _mm_sha256msg2_epu32(next, newest);
            }
            const auto* round = reinterpret_cast<const __m128i*>(kRound.data()) + i;
            const __m128i sum = _mm_add_epi32(next, _mm_load_si128(round));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0E));
        }
        abef = _mm_add_epi32(abef, old_abef);
        cdgh = _mm_add_epi32(cdgh, old_cdgh);
    }
    const __m128i feba = _mm_shuffle_epi32(abef, 0x1B);
    const __m128i dchg = _mm_shuffle_epi32(cdgh, 0xB1);
    _mm_storeu_si128(rows, _mm_blend_epi16(feba, dchg, 0xF0));
    _mm_storeu_si128(rows + 1, _mm_alignr_epi8(dchg, feba, 8));
}
#endif

}  // namespace

bool Sha256::has_instructions() {
#if defined(__x86_64__)
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    constexpr unsigned kSha = 1U << 29;  // in EBX of leaf 7
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b & kSha) != 0;
#else
    return false;
#endif
}

void Sha256::compress(const uint8_t* blocks, std::size_t count) {
#if defined(__x86_64__)
    if (instructions_) {
        compress_by_instructions(state_, blocks, count);
        return;
    }
#endif
    for (; count > 0; --count, blocks += 64) {
        compress_block(state_, blocks);
    }
}

void Sha256::update(const void* data, std::size_t size) {
    const auto* bytes = static_cast<const uint8_t*>(data);
    std::size_t held = size_ % 64;
    size_ += size;
    while (size > 0) {
        if (held == 0 && size >= 64) {
            const std::size_t whole = size / 64;
            compress(bytes, whole);
            bytes += 64 * whole;
            size -= 64 * whole;
            continue;
        }
        const std::size_t taken = std::min(size, 64 - held);
        std::memcpy(block_.data() + held, bytes, taken);
        bytes += taken;
        size -= taken;
        held += taken;
        if (held == 64) {
            compress(block_.data(), 1);
            held = 0;
        }
    }
}

std::string Sha256::finish() {
    const uint64_t bits = size_ * 8;
    const std::array<uint8_t, 64> padding{0x80};
    update(padding.data(), 1 + (119 - size_ % 64) % 64);
    std::array<uint8_t, 8> length;
    for (std::size_t i = 0; i < 8; ++i) {
        length[i] = static_cast<uint8_t>(bits >> (56 - 8 * i));
    }
    update(length.data(), length.size());
    std::string digits;
    for (const uint32_t word : state_) {
        for (int shift = 28; shift >= 0; shift -= 4) {
            digits += "0123456789abcdef"[word >> shift & 15U];
        }
    }
    return digits;
}

std::string sha256_file(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    std::vector<char> chunk(std::size_t{1} << 20);
    Sha256 digest;
    while (file) {
        file.read(chunk.data(), static_cast<std::streamsize>(chunk.size()));
        digest.update(chunk.data(), static_cast<std::size_t>(file.gcount()));
    }
    if (!file.eof()) {
        throw Error(ErrorCode::artifact, "`" + path.string() + "` cannot be read");
    }
    return digest.finish();
}

}  // namespace ovround
