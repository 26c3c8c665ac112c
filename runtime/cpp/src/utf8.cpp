#include "utf8.hpp"

#include <cstdint>

namespace ovround {
namespace {

bool continues(char byte) { return (static_cast<uint8_t>(byte) & 0xC0U) == 0x80U; }

// Bytes of the well-formed character that `text` begins with; 0 when it begins with none.
std::size_t character_size(std::string_view text) {
    const auto lead = static_cast<uint8_t>(text[0]);
    if (lead < 0x80) {
        return 1;
    }
    const std::size_t size = lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
    if (size == 0 || text.size() < size) {
        return 0;
    }
    for (std::size_t i = 1; i < size; ++i) {
        if (!continues(text[i])) {
            return 0;
        }
    }
    const auto second = static_cast<uint8_t>(text[1]);
    const bool overlong = (lead == 0xE0 && second < 0xA0) || (lead == 0xF0 && second < 0x90);
    const bool beyond = (lead == 0xED && second >= 0xA0) || (lead == 0xF4 && second >= 0x90);  // surrogates, U+110000
    return overlong || beyond ? 0 : size;
}

}  // namespace

bool is_utf8(std::string_view text) {
    while (!text.empty()) {
        const std::size_t size = character_size(text);
        if (size == 0) {
            return false;
        }
        text.remove_prefix(size);
    }
    return true;
}

std::size_t count_characters(std::string_view text) {
    std::size_t count = 0;
    for (const char byte : text) {
        count += continues(byte) ? 0 : 1;
    }
    return count;
}

std::string_view skip_characters(std::string_view text, std::size_t count) {
    std::size_t place = 0;
    while (place < text.size() && (count > 0 || continues(text[place]))) {
        count -= continues(text[place++]) ? 0 : 1;
    }
    return text.substr(place);
}

}  // namespace ovround
