#include "utf8.hpp"

#include <cstdint>

namespace ovround {
namespace {

bool continues(char byte) { return (static_cast<uint8_t>(byte) & 0xC0U) == 0x80U; }

// The beginning of a non-empty `text`: a character, or the longest part that could have become one.
struct Beginning {
    std::size_t size;
    bool is_character;
};

Beginning beginning(std::string_view text) {
    const auto lead = static_cast<uint8_t>(text[0]);
    if (lead < 0x80) {
        return {1, true};
    }
    const std::size_t size = lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
    // Limits of the second byte: no overlong forms, no surrogates, no character beyond U+10FFFF.
    uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    for (std::size_t i = 1; i < size; ++i) {
        const auto byte = static_cast<uint8_t>(i < text.size() ? text[i] : '\0');
        if (byte < low || byte > high) {
            return {i, false};
        }
        low = 0x80;
        high = 0xBF;
    }
    return size == 0 ? Beginning{1, false} : Beginning{size, true};
}

}  // namespace

bool is_utf8(std::string_view text) {
    while (!text.empty()) {
        const Beginning first = beginning(text);
        if (!first.is_character) {
            return false;
        }
        text.remove_prefix(first.size);
    }
    return true;
}

void append_well_formed(std::string_view text, std::string& to) {
    while (!text.empty()) {
        const Beginning first = beginning(text);
        to += first.is_character ? text.substr(0, first.size) : kReplacement;
        text.remove_prefix(first.size);
    }
}

std::size_t count_characters(std::string_view text) {
    std::size_t count = 0;
    for (const char byte : text) {
        count += continues(byte) ? 0 : 1;
    }
    return count;
}

std::string_view skip_characters(std::string_view text, std::size_t count) {
    std::size_t index = 0;
    while (index < text.size() && (count > 0 || continues(text[index]))) {
        count -= continues(text[index++]) ? 0 : 1;
    }
    return text.substr(index);
}

}  // namespace ovround
