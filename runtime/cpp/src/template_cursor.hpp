// A position in the tokens of a chat template.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "template_lexer.hpp"

namespace ovround {

// Parsers move it forward; its last token is always `end`.
class Cursor {
public:
    explicit Cursor(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

    // Exists while a parser is one level deeper; too many levels are refused.
    class Nested {
    public:
        explicit Nested(Cursor& cursor) : cursor_(cursor) {
            if (++cursor.depth_ > kMaxNesting) {
                unreadable(cursor.now().line, "it is nested too deeply");
            }
        }
        ~Nested() { --cursor_.depth_; }
        Nested(const Nested&) = delete;
        Nested& operator=(const Nested&) = delete;

    private:
        Cursor& cursor_;
    };

    const Token& now() const { return tokens_[position_]; }
    const Token& next() const { return tokens_[std::min(position_ + 1, tokens_.size() - 1)]; }
    bool at(Token::Kind kind, std::string_view value) const { return now().kind == kind && now().value == value; }
    // Advances if the current token is this one.
    bool take(Token::Kind kind, std::string_view value) {
        const bool there = at(kind, value);
        position_ += there ? 1 : 0;
        return there;
    }
    bool sign(std::string_view value) { return take(Token::sign, value); }
    bool word(std::string_view value) { return take(Token::name, value); }
    std::string expect(Token::Kind kind, const char* what) {
        if (now().kind != kind) {
            unreadable(now().line, std::string(what) + " is needed, not `" + now().value + "`");
        }
        return tokens_[position_++].value;
    }
    void expect_sign(const char* value) {
        if (!sign(value)) {
            unreadable(now().line, std::string("`") + value + "` is needed, not `" + now().value + "`");
        }
    }
    std::string take_any() { return tokens_[position_++].value; }

private:
    static constexpr int kMaxNesting = 64;

    std::vector<Token> tokens_;
    std::size_t position_ = 0;
    int depth_ = 0;
};

}  // namespace ovround
