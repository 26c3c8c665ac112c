#include "template_lexer.hpp"

#include <algorithm>
#include <cctype>
#include <map>

#include "ovround/ovround.hpp"
#include "template_value.hpp"

namespace ovround {
namespace {

class Lexer {
public:
    explicit Lexer(std::string source) : source_(std::move(source)) {
        if (ends_with(source_, "\n")) {
            source_.pop_back();
        }
    }

    std::vector<Token> tokens() {
        while (position_ < source_.size()) {
            take_text();
            if (position_ < source_.size()) {
                take_tag();
            }
        }
        add(Token::end, "");
        return std::move(tokens_);
    }

private:
    void add(Token::Kind kind, std::string value) { tokens_.push_back({kind, std::move(value), line_}); }

    void advance(std::size_t to) {
        line_ += static_cast<std::size_t>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(position_),
                                                     source_.begin() + static_cast<std::ptrdiff_t>(to), '\n'));
        position_ = to;
    }

    void take_text() {
        std::size_t tag = source_.find('{', position_);
        while (tag + 1 < source_.size() && tag != std::string::npos &&
               std::string("{%#").find(source_[tag + 1]) == std::string::npos) {
            tag = source_.find('{', tag + 1);
        }
        tag = tag + 1 >= source_.size() || tag == std::string::npos ? source_.size() : tag;
        std::string text = source_.substr(position_, tag - position_);
        if (trim_) {
            text = trimmed(text, true, false);
        }
        if (tag < source_.size()) {
            const char mark = tag + 2 < source_.size() ? source_[tag + 2] : ' ';
            const std::size_t line = text.find_last_of('\n');
            const bool at_start = line != std::string::npos || position_ == 0 || source_[position_ - 1] == '\n';
            if (mark == '-') {
                text = trimmed(text, false, true);
            } else if (mark != '+' && source_[tag + 1] != '{' && at_start &&
                       text.find_first_not_of(" \t", line == std::string::npos ? 0 : line + 1) == std::string::npos) {
                text.erase(line == std::string::npos ? 0 : line + 1);
            }
        }
        if (!text.empty()) {
            add(Token::text, text);
        }
        advance(tag);
    }

    void take_tag() {
        const char kind = source_[position_ + 1];
        const std::string close = kind == '{' ? "}}" : kind == '%' ? "%}" : "#}";
        advance(position_ + 2);
        if (kind == '#') {
            const std::size_t end = source_.find(close, position_);
            if (end == std::string::npos) {
                unreadable(line_, "a comment does not end");
            }
            trim_ = end > position_ && source_[end - 1] == '-';
            advance(end + 2);
        } else {
            if (position_ < source_.size() && (source_[position_] == '-' || source_[position_] == '+')) {
                advance(position_ + 1);
            }
            add(kind == '{' ? Token::open_value : Token::open_block, "");
            take_expression(close);
            add(kind == '{' ? Token::close_value : Token::close_block, "");
        }
        if (kind != '{' && !trim_ && position_ < source_.size() && source_[position_] == '\n') {
            advance(position_ + 1);
        }
    }

    void take_expression(const std::string& close) {
        int braces = 0;
        while (true) {
            const std::size_t start = source_.find_first_not_of(" \t\r\n", position_);
            if (start == std::string::npos) {
                unreadable(line_, "a tag does not end");
            }
            advance(start);
            const std::string_view rest = std::string_view(source_).substr(position_);
            trim_ = begins_with(rest, "-" + close);
            if (braces == 0 && (trim_ || begins_with(rest, close))) {
                advance(position_ + close.size() + (trim_ ? 1 : 0));
                return;
            }
            const char first = rest[0];
            braces += first == '{' ? 1 : first == '}' ? -1 : 0;
            if (first == '\'' || first == '"') {
                take_string(first);
            } else if (std::isdigit(static_cast<unsigned char>(first)) != 0) {
                take_run(Token::number, "0123456789.");
            } else if (std::isalpha(static_cast<unsigned char>(first)) != 0 || first == '_') {
                take_run(Token::name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");
            } else {
                const bool two =
                    rest.size() > 1 && (rest[1] == '=' ? std::string("=!<>").find(first) != std::string::npos
                                                       : first == '/' && rest[1] == '/');
                add(Token::sign, std::string(rest.substr(0, two ? 2 : 1)));
                advance(position_ + (two ? 2 : 1));
            }
        }
    }

    void take_run(Token::Kind kind, const char* characters) {
        const std::size_t end = std::min(source_.find_first_not_of(characters, position_), source_.size());
        add(kind, source_.substr(position_, end - position_));
        advance(end);
    }

    void take_string(char quote) {
        static const std::map<char, char> escapes{{'n', '\n'},  {'t', '\t'},  {'r', '\r'},
                                                  {'\\', '\\'}, {'\'', '\''}, {'"', '"'}};
        std::string text;
        std::size_t index = position_ + 1;
        for (; index < source_.size() && source_[index] != quote; ++index) {
            if (source_[index] == '\\' && ++index < source_.size()) {
                const auto known = escapes.find(source_[index]);
                if (known == escapes.end()) {
                    unreadable(line_, std::string("the escape \\") + source_[index]);
                }
                text += known->second;
            } else {
                text += source_[index];
            }
        }
        if (index >= source_.size()) {
            unreadable(line_, "a text does not end");
        }
        add(Token::string, text);
        advance(index + 1);
    }

    std::string source_;
    std::size_t position_ = 0;
    std::size_t line_ = 1;
    bool trim_ = false;
    std::vector<Token> tokens_;
};

}  // namespace

[[noreturn]] void unreadable(std::size_t line, const std::string& what) {
    throw Error(ErrorCode::artifact, "the chat template cannot be read, line " + std::to_string(line) + ": " + what,
                "docs/guides/cpp.md lists what can; render the prompt elsewhere, and use encode and generate_ids");
}

std::vector<Token> template_tokens(const std::string& source) { return Lexer(source).tokens(); }

}  // namespace ovround
