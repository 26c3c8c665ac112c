// The functions for UTF-8 that the runtime needs.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace ovround {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD, for bytes that are no character, or not yet

// Whether `text` is well-formed UTF-8 (Unicode 15, table 3-7).
bool is_utf8(std::string_view text);

// Append `text` with U+FFFD for each maximal subpart of an ill-formed subsequence (Unicode 15, section 3.9), as Rust
// and Python do it.
void append_well_formed(std::string_view text, std::string& to);

std::size_t count_characters(std::string_view text);

// `text` without its first `count` characters.
std::string_view skip_characters(std::string_view text, std::size_t count);

}  // namespace ovround
