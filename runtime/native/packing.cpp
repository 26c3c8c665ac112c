// Repacks codes of an engine's constants to the layout of the kernels, when a model is loaded.
#include <cstdint>
#include <cstring>

#include "linear.hpp"

namespace ovround::native {
namespace {

constexpr int64_t kQuadBytes = 4 * kIntegerRows;

uint32_t load32(const uint8_t* at) {
    uint32_t value = 0;
    std::memcpy(&value, at, 4);
    return value;
}

// Spreads 16 bits to four bytes with four bits each.
uint32_t nibbles(uint32_t bits) {
    bits = (bits | bits << 8) & 0x00FF00FFU;
    return (bits | bits << 4) & 0x0F0F0F0FU;
}

// Spreads 8 bits to four bytes with two bits each.
uint32_t crumbs(uint32_t bits) {
    bits = (bits | bits << 12) & 0x000F000FU;
    return (bits | bits << 6) & 0x03030303U;
}

// Writes four of each 64 bytes of a run, which belong to one row. `from`: 32 codes of the row, lowest bits first.
void pack_run(int64_t bits, const uint8_t* from, uint32_t flip, uint8_t* to) {
    for (int64_t part = 0; part < bits; ++part) {
        uint32_t word = 0;
        if (bits == 8) {
            word = load32(from + 4 * part) ^ flip;
        } else if (bits == 4) {
            const uint32_t codes = load32(from + 4 * part) ^ flip;
            word = nibbles(codes & 0xFFFFU) | nibbles(codes >> 16) << 4;
        } else {
            for (int64_t quad = 0; quad < 4; ++quad) {
                word |= crumbs(from[4 * part + quad]) << (2 * quad);
            }
        }
        std::memcpy(to + part * kQuadBytes, &word, 4);
    }
}

}  // namespace
}  // namespace ovround::native

void ovround_pack_integers(int64_t bits, const uint8_t* from, int is_signed, int64_t rows, int64_t columns,
                           uint8_t* to) {
    using namespace ovround::native;
    const int64_t runs = columns / kIntegerRun, row_bytes = columns * bits / 8, run_bytes = bits * kQuadBytes;
    const uint32_t flip = is_signed == 0 ? 0 : bits == 4 ? 0x88888888U : 0x80808080U;
    for (int64_t tile = 0; tile * kIntegerRows < rows; ++tile) {
        for (int64_t run = 0; run < runs; ++run) {
            uint8_t* at = to + (tile * runs + run) * run_bytes;
            for (int64_t row = 0; row < kIntegerRows; ++row) {
                const int64_t source = tile * kIntegerRows + row;
                if (source < rows) {
                    pack_run(bits, from + source * row_bytes + run * kIntegerRun * bits / 8, flip, at + 4 * row);
                } else {
                    for (int64_t part = 0; part < bits; ++part) {
                        std::memset(at + part * kQuadBytes + 4 * row, 0, 4);
                    }
                }
            }
        }
    }
}
