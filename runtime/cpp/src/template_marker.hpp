// Whether a prompt is rendered already: the marks that a chat template writes around a user's message.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace ovround {

// The user's message whose rendering shows the template's marks.
inline constexpr std::string_view kProbe = "ovround-probe";

// The mark in `text`: a special token or the line before a user's message at its begin, or the line before the answer
// at its end; empty if there is none. `rendered`: the template's text for the message kProbe; may be empty. The same as
// runtime/text/template_marker.py.
std::string template_marker(std::string_view text, const std::vector<std::string>& special_tokens,
                            std::string_view rendered);

}  // namespace ovround
