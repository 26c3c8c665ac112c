// Splits the text of a chat template into tokens.
#pragma once

#include <string>
#include <vector>

namespace ovround {

struct Token {
    enum Kind { text, name, string, number, sign, open_value, close_value, open_block, close_block, end } kind;
    std::string value;
    std::size_t line;
};

// With trim_blocks and lstrip_blocks, and without the last newline: transformers' settings of Jinja.
std::vector<Token> template_tokens(const std::string& source);

// Throws Error(artifact) that names the line.
[[noreturn]] void unreadable(std::size_t line, const std::string& what);

}  // namespace ovround
