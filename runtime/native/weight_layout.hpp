// The sizes in bytes of a weight's parts, which an operator checks before it reads a file's data.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>

#include "linear.hpp"

namespace ovround::native {

constexpr int64_t kMostSize = int64_t{1} << 27;  // of outputs and inputs: no product of sizes overflows
constexpr int64_t kSmallestGroup = 16;           // of affine weights
constexpr const char* kAffine = "affine";
constexpr int64_t kMostBooks = 64, kMostEntries = 65536, kMostVectorInputs = 1024;

inline int64_t tiles(int64_t whole, int64_t tile) { return (whole + tile - 1) / tile; }

inline bool sizes_fit(int64_t outputs, int64_t inputs) {
    return outputs > 0 && inputs > 0 && outputs <= kMostSize && inputs <= kMostSize;
}

// Whether the kernels have integers of this many bits, of affine weights or others.
inline bool bits_fit(int64_t bits, bool affine) {
    return affine ? bits >= 2 && bits <= 6 : (bits >= 2 && bits <= 4) || bits == 8;
}

// Bits of the integers of an operator's attribute `weights`, such as "int4" or "affine6"; 0 for others.
inline int64_t bits_of(const std::string& weights) {
    const bool affine = weights.rfind(kAffine, 0) == 0;
    const std::string digit = weights.substr(affine                         ? std::strlen(kAffine)
                                             : weights.rfind("int", 0) == 0 ? 3
                                                                            : weights.size());
    return digit.size() == 1 && bits_fit(digit[0] - '0', affine) ? digit[0] - '0' : 0;
}

inline bool is_affine(const std::string& weights) { return weights.rfind(kAffine, 0) == 0; }

// Whether `groups` groups of a row in `blocks` blocks are those of an affine weight: 16 inputs each, or whole runs.
inline bool affine_groups_fit(int64_t inputs, int64_t groups, int64_t blocks) {
    return inputs % kIntegerRun == 0 && groups > 0 && blocks > 0 && groups % blocks == 0 && inputs % groups == 0 &&
           (inputs / groups == kSmallestGroup || inputs / groups % kIntegerRun == 0);
}

// The number of groups of a row of an affine weight with these parts, scales [tiles, B, bytes of a block]; 0 if they do
// not fit [outputs, inputs]. `last` is the size of the minimums, or 1 for a zero point.
inline int64_t affine_groups(int64_t bits, int64_t outputs, int64_t inputs, int64_t codes, const int64_t* scales,
                             int64_t last) {
    if (!sizes_fit(outputs, inputs)) {
        return 0;
    }
    const int64_t factors = scales[2] / kIntegerRows - 2, groups = scales[1] * std::max<int64_t>(factors, 1);
    const bool fits =
        scales[0] == tiles(outputs, kIntegerRows) && scales[1] > 0 && scales[1] <= inputs && factors <= inputs &&
        factors != 1 && scales[2] == block_bytes(factors) && codes == scales[0] * kIntegerRows * (inputs * bits / 8) &&
        (last == 1 || last == scales[0] * scales[1] * scales[2]) && affine_groups_fit(inputs, groups, scales[1]);
    return fits ? groups : 0;
}

// An integer weight of these parts, scales and zero points a group each.
inline IntegerWeight integer_weight(int64_t bits, const uint8_t* codes, const uint8_t* scales,
                                    const uint8_t* zero_points, bool one_zero_point, int64_t outputs, int64_t inputs,
                                    int64_t groups) {
    return {
        sizeof(IntegerWeight), bits, codes, scales, zero_points, one_zero_point, outputs, inputs, groups, 0, nullptr};
}

// An affine weight of these parts; `last` is its minimums, or its zero point.
inline IntegerWeight affine_weight(int64_t bits, const uint8_t* codes, const uint8_t* scales, const uint8_t* last,
                                   bool symmetric, int64_t outputs, int64_t inputs, int64_t groups, int64_t blocks) {
    static constexpr uint8_t kZero = 0;
    return {
        sizeof(IntegerWeight),     bits, codes, scales, symmetric ? last : &kZero, 1, outputs, inputs, groups, blocks,
        symmetric ? nullptr : last};
}

// The number of groups of a row of integers whose parts have these sizes; 0 if they do not fit [outputs, inputs].
inline int64_t integer_groups(int64_t bits, int64_t outputs, int64_t inputs, int64_t codes, int64_t scales,
                              int64_t zero_points) {
    if (!sizes_fit(outputs, inputs)) {
        return 0;
    }
    const int64_t rows = tiles(outputs, kIntegerRows) * kIntegerRows, runs = tiles(inputs, kIntegerRun);
    const int64_t groups = scales / (2 * rows);
    const bool fits = groups > 0 && scales == 2 * rows * groups && codes == rows * runs * (kIntegerRun * bits / 8) &&
                      (zero_points == 1 || zero_points == rows * groups) && runs % groups == 0 &&
                      (groups == 1 || inputs % (groups * kIntegerRun) == 0);
    return fits ? groups : 0;
}

// Whether these sizes are those of the codes and scales of [outputs, inputs]; books [M, entries, O, V].
inline bool codebooks_fit(int64_t outputs, int64_t inputs, int64_t codes, const int64_t* books, int64_t scales) {
    if (!sizes_fit(outputs, inputs) || books[0] < 1 || books[0] > kMostBooks || books[1] < 1 ||
        books[1] > kMostEntries || books[2] < 1 || books[3] < 1 || books[3] > kMostVectorInputs) {
        return false;
    }
    const int64_t rows = outputs / books[2], code_bytes = books[1] > 256 ? 2 : 1;
    return outputs % books[2] == 0 && inputs % books[3] == 0 && scales == 2 * rows &&
           codes == tiles(rows, kCodeRows) * (inputs / books[3]) * books[0] * kCodeRows * code_bytes;
}

}  // namespace ovround::native
