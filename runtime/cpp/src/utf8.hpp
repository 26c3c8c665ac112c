// The UTF-8 functions that the runtime needs.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace ovround {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD, for bytes that are not (yet) a character

// Whether `text` is well-formed UTF-8 (Unicode 15, table 3-7).
bool is_utf8(std::string_view text);

// Appends `text` with U+FFFD for each maximal subpart of an ill-formed subsequence (Unicode 15, section 3.9), as Rust
// and Python do.
void append_well_formed(std::string_view text, std::string& to);

std::size_t count_characters(std::string_view text);

// `text` without its first `count` characters.
std::string_view skip_characters(std::string_view text, std::size_t count);

}  // namespace ovround
