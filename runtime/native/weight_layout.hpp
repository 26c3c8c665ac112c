// The sizes in bytes of a weight's parts, which an operator checks before it reads a file's data.
#pragma once

#include "linear.hpp"

namespace ovround::native {

constexpr int64_t kMostSize = int64_t{1} << 27;  // of outputs and inputs: no product of sizes overflows
constexpr int64_t kMostBooks = 64, kMostEntries = 65536, kMostVectorInputs = 1024;

inline int64_t tiles(int64_t whole, int64_t tile) { return (whole + tile - 1) / tile; }

inline bool sizes_fit(int64_t outputs, int64_t inputs) {
    return outputs > 0 && inputs > 0 && outputs <= kMostSize && inputs <= kMostSize;
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
