#include "template_marker.hpp"

#include <algorithm>

namespace ovround {
namespace {

constexpr std::string_view kBlank = " \t\n\r\f\v";
constexpr std::string_view kPunctuation = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

std::string_view without_blanks(std::string_view text) {
    const std::size_t first = text.find_first_not_of(kBlank);
    return first == std::string_view::npos ? std::string_view()
                                           : text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

bool begins(std::string_view text, std::string_view prefix) { return text.substr(0, prefix.size()) == prefix; }

bool ends(std::string_view text, std::string_view suffix) {
    return text.size() >= suffix.size() && text.substr(text.size() - suffix.size()) == suffix;
}

std::string_view last_line(std::string_view text) {
    text = without_blanks(text);
    return without_blanks(text.substr(text.rfind('\n') + 1));  // npos + 1: all of it
}

// A plain word is no mark: a user may write it.
bool is_mark(std::string_view line) { return line.find_first_of(kPunctuation) != std::string_view::npos; }

std::string_view leading_token(std::string_view text, const std::vector<std::string>& special_tokens) {
    std::string_view longest;
    for (const auto& token : special_tokens) {
        if (token.size() > longest.size() && !without_blanks(token).empty() && begins(text, token)) {
            longest = token;
        }
    }
    return longest;
}

}  // namespace

std::string template_marker(std::string_view text, const std::vector<std::string>& special_tokens,
                            std::string_view rendered) {
    text = without_blanks(text);
    if (const auto token = leading_token(text, special_tokens); !token.empty()) {
        return std::string(token);
    }
    const std::size_t probe = rendered.rfind(kProbe);
    if (probe == std::string_view::npos) {
        return {};
    }
    std::string_view before = last_line(rendered.substr(0, probe));
    for (auto token = leading_token(before, special_tokens); !token.empty();
         token = leading_token(before, special_tokens)) {
        before = without_blanks(before.substr(token.size()));
    }
    const bool has_token = std::any_of(special_tokens.begin(), special_tokens.end(), [&](const std::string& token) {
        return !without_blanks(token).empty() && before.find(token) != std::string_view::npos;
    });
    if (!has_token && is_mark(before) && begins(text, before)) {
        return std::string(before);
    }
    const std::string_view after = last_line(rendered.substr(probe + kProbe.size()));
    return std::string(is_mark(after) && ends(text, after) ? after : std::string_view());
}

}  // namespace ovround
