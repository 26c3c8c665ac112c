// The versions of OpenVINO with which a library works that was compiled for any of them.
//
// What these libraries use of OpenVINO's C++ interface is the same in the headers of all of them, and they are not
// linked to a version's file (libopenvino.so.2641): its symbols are found in the process, which has loaded one
// OpenVINO. tools/wheel_check.py runs the operator in each version; runtime/engines/native/openvino_versions.py says
// the same.
#pragma once

#include <cstdlib>
#include <openvino/core/version.hpp>
#include <string>

namespace ovround::native {

constexpr long kYear = 2026, kOldestRelease = 1, kNewestRelease = 4;

inline std::string openvino_range() {
    const std::string year = std::to_string(kYear);
    return year + "." + std::to_string(kOldestRelease) + " to " + year + "." + std::to_string(kNewestRelease);
}

// `build`: such as "2026.4.1-22982-...".
inline bool openvino_fits(const char* build) {
    char* end = nullptr;
    const long year = std::strtol(build, &end, 10), release = *end == '.' ? std::strtol(end + 1, nullptr, 10) : -1;
    const bool compiled_for = year == OPENVINO_VERSION_MAJOR && release == OPENVINO_VERSION_MINOR;
    return compiled_for || (year == kYear && release >= kOldestRelease && release <= kNewestRelease);
}

}  // namespace ovround::native
