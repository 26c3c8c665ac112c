// SHA-256 (FIPS 180-4), for the comparison of files with the manifest.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>

namespace ovround {

class Sha256 {
public:
    // `instructions`: use the processor's SHA-256 instructions if it has them, which are several times faster.
    explicit Sha256(bool instructions = has_instructions()) : instructions_(instructions && has_instructions()) {}

    static bool has_instructions();
    void update(const void* data, std::size_t size);
    // The digest as 64 hexadecimal digits; ends the stream.
    std::string finish();

private:
    void compress(const uint8_t* blocks, std::size_t count);

    bool instructions_;
    std::array<uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                   0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    std::array<uint8_t, 64> block_{};
    uint64_t size_ = 0;
};

// The digest of a file; throws Error(artifact) if it cannot be read.
std::string sha256_file(const std::filesystem::path& path);

}  // namespace ovround
