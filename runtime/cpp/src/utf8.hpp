// The little of UTF-8 that the runtime needs.
#pragma once

#include <cstddef>
#include <string_view>

namespace ovround {

// Whether `text` is well-formed UTF-8 (Unicode 15, table 3-7).
bool is_utf8(std::string_view text);

std::size_t count_characters(std::string_view text);

// `text` without its first `count` characters.
std::string_view skip_characters(std::string_view text, std::size_t count);

}  // namespace ovround
