// The readers of what comes with a model: whatever the bytes, they give an object or an Error.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "manifest.hpp"
#include "ovround/ovround.hpp"

ovround::Error::Error(ErrorCode code, const std::string& message, std::string hint)
    : std::runtime_error(message), code_(code), hint_(std::move(hint)) {}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
    try {
        ovround::parse_manifest({reinterpret_cast<const char*>(data), size}, "fuzz");
    } catch (const ovround::Error&) {
    }
    return 0;
}
