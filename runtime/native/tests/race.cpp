// Several callers at once, each with several threads, on every instruction set, for ThreadSanitizer and other
// sanitizers. The results must equal those of one thread bit for bit.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

extern "C" {
int ovround_has(int isa);
int ovround_codebook_linear(const uint8_t*, const uint8_t*, const uint8_t*, int64_t, int64_t, int64_t, int64_t, int64_t,
                            int64_t, const float*, int64_t, float*, int, int, int64_t);
int ovround_integer_linear(const uint8_t*, const uint8_t*, const uint8_t*, int64_t, int64_t, int64_t, int64_t, int64_t,
                           const float*, int64_t, float*, int, int, int64_t);
int ovround_affine_linear(const uint8_t*, const uint8_t*, const uint8_t*, const uint8_t*, int64_t, int64_t, int64_t,
                          int64_t, int64_t, int64_t, const float*, int64_t, float*, int, int, int64_t);
int ovround_gated_linear(const uint8_t*, const uint8_t*, const uint8_t*, int64_t, int64_t, int64_t, int64_t, int64_t,
                         const float*, int64_t, float*, int, int, int64_t);
}

namespace {

constexpr int64_t kOutputs = 300, kInputs = 416, kBooks = 2, kMostTokens = 40;

std::vector<uint8_t> random_bytes(std::mt19937& random, std::size_t count, int mask) {
    std::vector<uint8_t> bytes(count);
    for (auto& byte : bytes) {
        byte = static_cast<uint8_t>(random() & static_cast<unsigned>(mask));
    }
    return bytes;
}

// Bytes with 0x3B at odd positions are float16 values between 0.875 and 1.
std::vector<uint8_t> random_halves(std::mt19937& random, std::size_t count) {
    auto bytes = random_bytes(random, 2 * count, 0xFF);
    for (std::size_t index = 1; index < bytes.size(); index += 2) {
        bytes[index] = static_cast<uint8_t>(0x3B | (random() & 0x80U));
    }
    return bytes;
}

}  // namespace

int main() {
    std::mt19937 random(1);
    const auto codes = random_bytes(random, 5 * 64 * kBooks * (kInputs / 8), 0xFF);
    const auto codebooks = random_halves(random, kBooks * 256 * 8), scales = random_halves(random, kOutputs);
    const auto packed = random_bytes(random, 19 * 8 * 64 * (kInputs / 32), 0xFF);
    const auto grid = random_halves(random, 19 * 16), zero_points = random_bytes(random, 19 * 16, 3);
    // Blocks of a float16 and two groups of 16 inputs, or of one group of 32 without factors.
    constexpr int64_t kRuns = kInputs / 32;
    const auto blocks = random_halves(random, 19 * kRuns * 32), minimums = random_halves(random, 19 * kRuns * 16);
    constexpr uint8_t kZero[] = {0};
    std::vector<float> x(kMostTokens * kInputs);
    for (auto& value : x) {
        value = static_cast<float>(random() % 2001) / 1000.0F - 1.0F;
    }
    int failures = 0;
    const auto compute = [&](int isa, int64_t tokens, int exact, int64_t bits, int64_t threads) {
        std::vector<float> y(static_cast<std::size_t>(tokens * kOutputs));
        if (bits == 0) {
            ovround_codebook_linear(codes.data(), codebooks.data(), scales.data(), kOutputs, kInputs, kBooks, 256, 1, 8,
                                    x.data(), tokens, y.data(), exact, isa, threads);
        } else if (bits == 5) {  // groups of 32 with minimums, as a gate
            ovround_affine_linear(packed.data(), minimums.data(), kZero, minimums.data(), kOutputs, kInputs, kRuns,
                                  kRuns, bits, 1, x.data(), tokens, y.data(), exact, isa, threads);
        } else if (bits == 6) {  // groups of 16 with a zero point
            ovround_affine_linear(packed.data(), blocks.data(), zero_points.data(), nullptr, kOutputs, kInputs,
                                  2 * kRuns, kRuns, bits, 0, x.data(), tokens, y.data(), exact, isa, threads);
        } else if (bits == 8) {  // as a gate, so that both products run
            ovround_gated_linear(packed.data(), grid.data(), zero_points.data(), kOutputs, kInputs, 1, bits, 0,
                                 x.data(), tokens, y.data(), exact, isa, threads);
        } else {
            ovround_integer_linear(packed.data(), grid.data(), zero_points.data(), kOutputs, kInputs, 1, bits, 0,
                                   x.data(), tokens, y.data(), exact, isa, threads);
        }
        return y;
    };
    for (int isa = 0; isa < 6; ++isa) {
        for (const int64_t tokens : {int64_t{1}, int64_t{5}, kMostTokens}) {
            for (int form = 0; form < 14; ++form) {
                constexpr int64_t kBits[] = {0, 2, 3, 4, 8, 5, 6};
                const int64_t bits = kBits[form / 2];
                if (!ovround_has(isa)) {
                    continue;
                }
                const auto expected = compute(isa, tokens, form % 2, bits, 1);
                std::vector<std::vector<float>> answers(3);
                std::vector<std::thread> callers;
                for (auto& answer : answers) {
                    callers.emplace_back([&] { answer = compute(isa, tokens, form % 2, bits, 4); });
                }
                for (auto& caller : callers) {
                    caller.join();
                }
                for (const auto& answer : answers) {
                    failures += std::memcmp(answer.data(), expected.data(), expected.size() * sizeof(float)) != 0;
                }
            }
        }
    }
    std::printf("%d answers differ\n", failures);
    return failures == 0 ? 0 : 1;
}
