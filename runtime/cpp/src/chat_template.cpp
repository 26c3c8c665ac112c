#include "chat_template.hpp"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <map>

#include "json_object.hpp"

namespace ovround {

struct Rendering {
    std::vector<std::map<std::string, Value>> scopes{1};
    std::string text;
    std::size_t steps = 0;
};

namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxSteps = 10'000'000;
constexpr std::size_t kMaxBytes = std::size_t{16} << 20;
constexpr int kMaxNesting = 64;

using Expression = std::function<Value(Rendering&)>;
using Statement = std::function<void(Rendering&)>;
using Named = std::vector<std::pair<std::string, Expression>>;  // name empty for a positional argument

[[noreturn]] void refuse(const std::string& why) {
    throw Error(ErrorCode::generation, "the chat template refuses these messages: " + why,
                "render the prompt elsewhere, and use encode and generate_ids");
}

void check_bytes(std::size_t size) {
    if (size > kMaxBytes) {
        refuse("it writes too much");
    }
}

void step(Rendering& rendering, std::size_t cost = 1) {
    rendering.steps += cost;
    if (rendering.steps > kMaxSteps) {
        refuse("it takes too many steps");
    }
    check_bytes(rendering.text.size());
}

// Work and memory that a copy of `value` takes; texts are checked for their size.
std::size_t cost_of(const Value& value) {
    if (value.is_string()) {
        const std::size_t size = value.get_ref<const std::string&>().size();
        check_bytes(size);
        return 1 + size / 1024;
    }
    std::size_t cost = 1;
    if (value.is_structured()) {
        for (const auto& one : value) {
            cost += cost_of(one);
        }
    }
    return cost;
}

// `value`, paid for: whatever makes or copies values goes through here, so that none can double without end.
Value paid(Rendering& rendering, Value value) {
    step(rendering, cost_of(value));
    return value;
}

Value undefined() { return Value(Value::value_t::discarded); }

bool truth(const Value& value) {
    switch (value.type()) {
        case Value::value_t::discarded:
        case Value::value_t::null: return false;
        case Value::value_t::boolean: return value.get<bool>();
        case Value::value_t::string: return !value.get_ref<const std::string&>().empty();
        case Value::value_t::array:
        case Value::value_t::object: return !value.empty();
        default: return value != 0;
    }
}

// How Python's str writes it.
std::string written(const Value& value) {
    switch (value.type()) {
        case Value::value_t::discarded: return "";
        case Value::value_t::null: return "None";
        case Value::value_t::boolean: return value.get<bool>() ? "True" : "False";
        case Value::value_t::string: return value.get<std::string>();
        case Value::value_t::array:
        case Value::value_t::object: refuse("it writes a list or a mapping as text");
        default: return value.dump();
    }
}

// How json.dumps writes it, with its spaces.
std::string json_text(const Value& value) {
    if (!value.is_structured()) {
        return value.is_discarded() ? refuse("tojson of nothing"), "" : value.dump();
    }
    std::string text;
    for (const auto& [key, item] : value.items()) {
        text += (text.empty() ? "" : ", ") + (value.is_object() ? Value(key).dump() + ": " : "") + json_text(item);
    }
    return value.is_object() ? "{" + text + "}" : "[" + text + "]";
}

const std::string& text_of(const Value& value, const char* what) {
    if (!value.is_string()) {
        refuse(std::string(what) + " of what is no text");
    }
    return value.get_ref<const std::string&>();
}

bool begins(std::string_view text, std::string_view with) { return text.substr(0, with.size()) == with; }
bool ends(std::string_view text, std::string_view with) {
    return text.size() >= with.size() && text.substr(text.size() - with.size()) == with;
}

// The characters that `characters` lists, or Unicode's white space, taken off the sides that are asked for.
std::string stripped(std::string_view text, const std::vector<std::string>& characters, bool left, bool right) {
    const auto at = [&](auto test) {
        return std::find_if(characters.begin(), characters.end(), [&](const auto& one) { return test(text, one); });
    };
    for (auto found = characters.end(); left && (found = at(begins)) != characters.end();) {
        text.remove_prefix(found->size());
    }
    for (auto found = characters.end(); right && (found = at(ends)) != characters.end();) {
        text.remove_suffix(found->size());
    }
    return std::string(text);
}

const std::vector<std::string>& white_space() {
    static const std::vector<std::string> characters{
        " ", "\n", "\t", "\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x1f", "\u0085", "\u00a0", "\u1680", "\u2000", "\u2001",
        "\u2002", "\u2003", "\u2004", "\u2005", "\u2006", "\u2007", "\u2008", "\u2009", "\u200a", "\u2028", "\u2029",
        "\u202f", "\u205f", "\u3000"};
    return characters;
}

Value strip(const Value& from, const std::vector<Value>& arguments, bool left, bool right) {
    std::vector<std::string> characters = white_space();
    if (!arguments.empty()) {
        characters.clear();
        for (const char byte : text_of(arguments[0], "strip")) {
            if (static_cast<unsigned char>(byte) >= 0x80) {
                refuse("strip of characters beyond ASCII");
            }
            characters.emplace_back(1, byte);
        }
    }
    return stripped(text_of(from, "strip"), characters, left, right);
}

std::string replaced(std::string text, const std::string& old, const std::string& fresh) {
    if (old.empty()) {
        refuse("replace of an empty text");
    }
    for (std::size_t place = 0; (place = text.find(old, place)) != std::string::npos; place += fresh.size()) {
        text.replace(place, old.size(), fresh);
        check_bytes(text.size());
    }
    return text;
}

std::string cased(std::string text, int (*change)(int)) {
    for (char& byte : text) {
        if (static_cast<unsigned char>(byte) >= 0x80) {
            refuse("upper or lower of characters beyond ASCII");
        }
        byte = static_cast<char>(change(byte));
    }
    return text;
}

Value split(const Value& from, const std::vector<Value>& arguments) {
    if (arguments.size() != 1 || text_of(arguments[0], "split").empty()) {
        refuse("split needs one text");
    }
    const std::string& text = text_of(from, "split");
    const std::string& by = arguments[0].get_ref<const std::string&>();
    Value parts = Value::array();
    std::size_t start = 0;
    for (std::size_t place; (place = text.find(by, start)) != std::string::npos; start = place + by.size()) {
        parts.push_back(text.substr(start, place - start));
    }
    parts.push_back(text.substr(start));
    return parts;
}

Value pairs(const Value& mapping) {
    Value found = Value::array();
    for (const auto& [key, item] : mapping.items()) {
        found.push_back(Value::array({key, item}));
    }
    return found;
}

Value filtered(const std::string& name, const Value& value, const std::vector<Value>& arguments) {
    const auto argument = [&](std::size_t place) -> const Value& {
        return place < arguments.size() ? arguments[place] : (refuse("filter " + name + " needs an argument"), arguments[0]);
    };
    if (name == "trim") return strip(value, arguments, true, true);
    if (name == "tojson" && arguments.empty()) return json_text(value);
    if (name == "upper") return cased(text_of(value, "upper"), std::toupper);
    if (name == "lower") return cased(text_of(value, "lower"), std::tolower);
    if (name == "string") return written(value);
    if (name == "safe" || (name == "list" && value.is_array())) return value;
    if (name == "replace") return replaced(text_of(value, "replace"), written(argument(0)), written(argument(1)));
    if (name == "items" && value.is_object()) return pairs(value);
    if (name == "default" || name == "d") {
        const bool falsy = arguments.size() > 1 && truth(arguments[1]);
        return value.is_discarded() || (falsy && !truth(value)) ? argument(0) : value;
    }
    if ((name == "length" || name == "count") && value.is_structured()) return value.size();
    if ((name == "length" || name == "count") && value.is_string()) {
        const auto& text = value.get_ref<const std::string&>();
        return std::count_if(text.begin(), text.end(), [](char byte) { return (byte & 0xC0) != 0x80; });
    }
    if (value.is_array() && (name == "first" || name == "last")) {
        return value.empty() ? undefined() : name == "first" ? value.front() : value.back();
    }
    if (value.is_array() && name == "join") {
        std::string text;
        for (std::size_t place = 0; place < value.size(); ++place) {
            text += (place == 0 || arguments.empty() ? "" : written(arguments[0])) + written(value[place]);
            check_bytes(text.size());
        }
        return text;
    }
    refuse("filter `" + name + "` is not known here, or not for this value");
}

bool tested(const std::string& name, const Value& value) {
    if (name == "defined") return !value.is_discarded();
    if (name == "undefined") return value.is_discarded();
    if (name == "none") return value.is_null();
    if (name == "string") return value.is_string();
    if (name == "mapping") return value.is_object();
    if (name == "iterable" || name == "sequence") return value.is_structured() || value.is_string();
    if (name == "number") return value.is_number() || value.is_boolean();
    if (name == "integer") return value.is_number_integer();
    if (name == "boolean") return value.is_boolean();
    if (name == "true") return value == true;
    if (name == "false") return value == false;
    if ((name == "odd" || name == "even") && value.is_number_integer()) return (value.get<int64_t>() % 2 != 0) == (name == "odd");
    refuse("test `" + name + "` is not known here");
}

Value called(const std::string& name, const Value& on, const std::vector<Value>& arguments) {
    if (on.is_string()) {
        const auto& text = on.get_ref<const std::string&>();
        if (name == "strip") return strip(on, arguments, true, true);
        if (name == "lstrip") return strip(on, arguments, true, false);
        if (name == "rstrip") return strip(on, arguments, false, true);
        if (name == "split") return split(on, arguments);
        if (name == "upper") return cased(text, std::toupper);
        if (name == "lower") return cased(text, std::tolower);
        if (name == "startswith" && arguments.size() == 1) return begins(text, text_of(arguments[0], "startswith"));
        if (name == "endswith" && arguments.size() == 1) return ends(text, text_of(arguments[0], "endswith"));
        if (name == "replace" && arguments.size() == 2) return filtered(name, on, arguments);
    }
    if (on.is_object()) {
        if (name == "items" && arguments.empty()) return pairs(on);
        if (name == "get" && !arguments.empty()) {
            const auto found = on.find(text_of(arguments[0], "get"));
            return found != on.end() ? *found : arguments.size() > 1 ? arguments[1] : Value();
        }
    }
    refuse("method `" + name + "` is not known here, or not for this value");
}

Value item(const Value& from, const Value& key) {
    if (from.is_discarded()) {
        refuse("it looks into something that is undefined");
    }
    if (from.is_object() && key.is_string()) {
        const auto found = from.find(key.get_ref<const std::string&>());
        return found == from.end() ? undefined() : *found;
    }
    if (from.is_array() && key.is_number_integer()) {
        const auto size = static_cast<int64_t>(from.size());
        const auto place = key.get<int64_t>() + (key < 0 ? size : 0);
        return place < 0 || place >= size ? undefined() : from[static_cast<std::size_t>(place)];
    }
    if (from.is_string() && key.is_number_integer()) {
        refuse("it takes single characters of a text");
    }
    return undefined();
}

// Python's from[low:high:by]; undefined bounds are left out.
Value sliced(const Value& from, const Value& low, const Value& high, const Value& by) {
    if (!from.is_array()) {
        refuse("a slice of what is no list");
    }
    const auto size = static_cast<int64_t>(from.size());
    const int64_t stride = by.is_discarded() ? 1 : by.get<int64_t>();
    if (stride == 0) {
        refuse("a slice with step 0");
    }
    const auto bound = [&](const Value& given, int64_t otherwise) {
        if (given.is_discarded()) {
            return otherwise;
        }
        const auto place = given.get<int64_t>() + (given < 0 ? size : 0);
        return stride > 0 ? std::clamp<int64_t>(place, 0, size) : std::clamp<int64_t>(place, -1, size - 1);
    };
    Value found = Value::array();
    const int64_t end = bound(high, stride > 0 ? size : -1);
    for (int64_t place = bound(low, stride > 0 ? 0 : size - 1); stride > 0 ? place < end : place > end; place += stride) {
        found.push_back(from[static_cast<std::size_t>(place)]);
    }
    return found;
}

Value computed(const std::string& sign, const Value& left, const Value& right) {
    if (sign == "~") return written(left) + written(right);
    if (sign == "+" && left.is_string() && right.is_string()) return left.get<std::string>() + right.get<std::string>();
    if (sign == "+" && left.is_array() && right.is_array()) {
        Value both = left;
        both.insert(both.end(), right.begin(), right.end());
        return both;
    }
    if (!left.is_number_integer() || !right.is_number_integer()) {
        refuse("`" + sign + "` of values that do not go together");
    }
    const auto a = left.get<int64_t>();
    const auto b = right.get<int64_t>();
    constexpr int64_t kLarge = int64_t{1} << 31;
    if (std::max({a, b, -a, -b}) > kLarge) {
        refuse("a number is too large");
    }
    if (sign == "+") return a + b;
    if (sign == "-") return a - b;
    if (sign == "*") return a * b;
    if (b == 0) {
        refuse("a division by 0");
    }
    const int64_t rest = ((a % b) + b) % b;  // Python's: of the divisor's sign
    return sign == "%" ? rest : (a - rest) / b;
}

bool holds(const Value& in, const Value& what) {
    if (in.is_string()) return in.get_ref<const std::string&>().find(text_of(what, "in")) != std::string::npos;
    if (in.is_object()) return what.is_string() && in.contains(what.get_ref<const std::string&>());
    if (in.is_array()) return std::find(in.begin(), in.end(), what) != in.end();
    refuse("`in` of what holds nothing");
}

bool compared(const std::string& sign, const Value& left, const Value& right) {
    // To nlohmann's JSON a discarded value equals nothing; to Jinja two undefined ones are equal.
    const bool equal = left.is_discarded() || right.is_discarded() ? left.is_discarded() == right.is_discarded() : left == right;
    if (sign == "==") return equal;
    if (sign == "!=") return !equal;
    if (sign == "in") return holds(right, left);
    if (sign == "not in") return !holds(right, left);
    if (!(left.is_number() && right.is_number()) && !(left.is_string() && right.is_string())) {
        refuse("`" + sign + "` of values that have no order");
    }
    return sign == "<" ? left < right : sign == ">" ? left > right : sign == "<=" ? left <= right : left >= right;
}

struct Token {
    enum Kind { text, name, string, number, sign, open_value, close_value, open_block, close_block, end } kind;
    std::string value;
    std::size_t line;
};

[[noreturn]] void unreadable(std::size_t line, const std::string& what) {
    throw Error(ErrorCode::artifact, "the chat template cannot be read, line " + std::to_string(line) + ": " + what,
                "docs/guides/cpp.md lists what can; render the prompt elsewhere, and use encode and generate_ids");
}

// With trim_blocks and lstrip_blocks, and without the last newline, as transformers sets Jinja up.
class Lexer {
public:
    explicit Lexer(std::string source) : source_(std::move(source)) {
        if (ends(source_, "\n")) {
            source_.pop_back();
        }
    }

    std::vector<Token> tokens() {
        while (place_ < source_.size()) {
            take_text();
            if (place_ < source_.size()) {
                take_tag();
            }
        }
        add(Token::end, "");
        return std::move(tokens_);
    }

private:
    void add(Token::Kind kind, std::string value) { tokens_.push_back({kind, std::move(value), line_}); }

    void advance(std::size_t to) {
        line_ += static_cast<std::size_t>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(place_),
                                                     source_.begin() + static_cast<std::ptrdiff_t>(to), '\n'));
        place_ = to;
    }

    void take_text() {
        std::size_t tag = source_.find('{', place_);
        while (tag + 1 < source_.size() && tag != std::string::npos && std::string("{%#").find(source_[tag + 1]) == std::string::npos) {
            tag = source_.find('{', tag + 1);
        }
        tag = tag + 1 >= source_.size() || tag == std::string::npos ? source_.size() : tag;
        std::string text = source_.substr(place_, tag - place_);
        if (trim_) {
            text = stripped(text, white_space(), true, false);
        }
        if (tag < source_.size()) {
            const char mark = tag + 2 < source_.size() ? source_[tag + 2] : ' ';
            const std::size_t line = text.find_last_of('\n');
            const bool at_start = line != std::string::npos || place_ == 0 || source_[place_ - 1] == '\n';
            if (mark == '-') {
                text = stripped(text, white_space(), false, true);
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
        const char kind = source_[place_ + 1];
        const std::string close = kind == '{' ? "}}" : kind == '%' ? "%}" : "#}";
        advance(place_ + 2);
        if (kind == '#') {
            const std::size_t end = source_.find(close, place_);
            if (end == std::string::npos) {
                unreadable(line_, "a comment does not end");
            }
            trim_ = end > place_ && source_[end - 1] == '-';
            advance(end + 2);
        } else {
            if (place_ < source_.size() && (source_[place_] == '-' || source_[place_] == '+')) {
                advance(place_ + 1);
            }
            add(kind == '{' ? Token::open_value : Token::open_block, "");
            take_expression(close);
            add(kind == '{' ? Token::close_value : Token::close_block, "");
        }
        if (kind != '{' && !trim_ && place_ < source_.size() && source_[place_] == '\n') {
            advance(place_ + 1);
        }
    }

    void take_expression(const std::string& close) {
        int braces = 0;
        while (true) {
            const std::size_t start = source_.find_first_not_of(" \t\r\n", place_);
            if (start == std::string::npos) {
                unreadable(line_, "a tag does not end");
            }
            advance(start);
            const std::string_view rest = std::string_view(source_).substr(place_);
            trim_ = begins(rest, "-" + close);
            if (braces == 0 && (trim_ || begins(rest, close))) {
                advance(place_ + close.size() + (trim_ ? 1 : 0));
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
                const bool two = rest.size() > 1 && (rest[1] == '=' ? std::string("=!<>").find(first) != std::string::npos
                                                                     : first == '/' && rest[1] == '/');
                add(Token::sign, std::string(rest.substr(0, two ? 2 : 1)));
                advance(place_ + (two ? 2 : 1));
            }
        }
    }

    void take_run(Token::Kind kind, const char* characters) {
        const std::size_t end = std::min(source_.find_first_not_of(characters, place_), source_.size());
        add(kind, source_.substr(place_, end - place_));
        advance(end);
    }

    void take_string(char quote) {
        static const std::map<char, char> escapes{{'n', '\n'}, {'t', '\t'}, {'r', '\r'}, {'\\', '\\'}, {'\'', '\''}, {'"', '"'}};
        std::string text;
        std::size_t place = place_ + 1;
        for (; place < source_.size() && source_[place] != quote; ++place) {
            if (source_[place] == '\\' && ++place < source_.size()) {
                const auto known = escapes.find(source_[place]);
                if (known == escapes.end()) {
                    unreadable(line_, std::string("the escape \\") + source_[place]);
                }
                text += known->second;
            } else {
                text += source_[place];
            }
        }
        if (place >= source_.size()) {
            unreadable(line_, "a text does not end");
        }
        add(Token::string, text);
        advance(place + 1);
    }

    std::string source_;
    std::size_t place_ = 0;
    std::size_t line_ = 1;
    bool trim_ = false;
    std::vector<Token> tokens_;
};

// Recursive descent, in Jinja's order of precedence, to closures.
class Parser {
public:
    explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

    Statement whole() {
        auto body = statements({});
        if (now().kind != Token::end) {
            unreadable(now().line, "`" + now().value + "` has no beginning");
        }
        return body;
    }

private:
    class Nested {
    public:
        explicit Nested(Parser& parser) : parser_(parser) {
            if (++parser.depth_ > kMaxNesting) {
                unreadable(parser.now().line, "it is nested too deeply");
            }
        }
        ~Nested() { --parser_.depth_; }
        Nested(const Nested&) = delete;
        Nested& operator=(const Nested&) = delete;

    private:
        Parser& parser_;
    };

    const Token& now() const { return tokens_[place_]; }
    const Token& next() const { return tokens_[std::min(place_ + 1, tokens_.size() - 1)]; }
    bool at(Token::Kind kind, std::string_view value) const { return now().kind == kind && now().value == value; }
    bool take(Token::Kind kind, std::string_view value) {
        const bool there = at(kind, value);
        place_ += there ? 1 : 0;
        return there;
    }
    bool sign(std::string_view value) { return take(Token::sign, value); }
    bool word(std::string_view value) { return take(Token::name, value); }
    std::string expect(Token::Kind kind, const char* what) {
        if (now().kind != kind) {
            unreadable(now().line, std::string(what) + " is needed, not `" + now().value + "`");
        }
        return tokens_[place_++].value;
    }
    void expect_sign(const char* value) {
        if (!sign(value)) {
            unreadable(now().line, std::string("`") + value + "` is needed, not `" + now().value + "`");
        }
    }
    void close() { expect(Token::close_block, "the end of the tag"); }

    // Up to a tag that begins with one of `enders`, whose name is taken and kept in `ender_`.
    Statement statements(const std::vector<std::string>& enders) {
        const Nested nested(*this);
        std::vector<Statement> parts;
        while (now().kind != Token::end) {
            if (now().kind == Token::text) {
                parts.push_back([text = tokens_[place_++].value](Rendering& to) { to.text += text; });
            } else if (now().kind == Token::open_value) {
                ++place_;
                parts.push_back([value = expression()](Rendering& to) { to.text += written(value(to)); });
                expect(Token::close_value, "}}");
            } else {
                expect(Token::open_block, "a tag");
                ender_ = expect(Token::name, "the name of a tag");
                if (std::find(enders.begin(), enders.end(), ender_) != enders.end()) {
                    return sequence(std::move(parts));
                }
                parts.push_back(statement(ender_));
            }
        }
        if (!enders.empty()) {
            unreadable(now().line, enders.back() + " is missing");
        }
        return sequence(std::move(parts));
    }

    static Statement sequence(std::vector<Statement> parts) {
        return [parts = std::move(parts)](Rendering& to) {
            for (const auto& part : parts) {
                step(to);
                part(to);
            }
        };
    }

    Statement statement(const std::string& tag) {
        if (tag == "if") return condition();
        if (tag == "for") return loop();
        if (tag == "set") return assignment();
        if (tag == "generation") {
            close();
            auto body = statements({"endgeneration"});
            close();
            return body;
        }
        unreadable(now().line, "the tag `" + tag + "` is not known here");
    }

    Statement condition() {
        const Nested nested(*this);
        const auto test = expression();
        close();
        auto body = statements({"elif", "else", "endif"});
        Statement otherwise = [](Rendering&) {};
        if (ender_ == "elif") {
            otherwise = condition();
        } else if (ender_ == "else") {
            close();
            otherwise = statements({"endif"});
            close();
        } else {
            close();
        }
        return [=](Rendering& to) { truth(test(to)) ? body(to) : otherwise(to); };
    }

    Statement loop() {
        std::vector<std::string> names{expect(Token::name, "a name")};
        while (sign(",")) {
            names.push_back(expect(Token::name, "a name"));
        }
        if (!word("in")) {
            unreadable(now().line, "`in` is needed");
        }
        const auto over = either();
        const auto only = word("if") ? expression() : [](Rendering&) { return Value(true); };
        close();
        const auto body = statements({"else", "endfor"});
        Statement otherwise = [](Rendering&) {};
        const bool has_else = ender_ == "else";
        close();
        if (has_else) {
            otherwise = statements({"endfor"});
            close();
        }
        return [=](Rendering& to) {
            std::vector<Value> items;
            Value all = over(to);
            if (all.is_discarded()) {
                all = Value::array();
            }
            if (!all.is_structured()) {
                refuse("it goes through what is no list");
            }
            for (const auto& [key, one] : all.items()) {
                to.scopes.emplace_back();
                bind(to, names, all.is_object() ? Value(key) : one);
                if (truth(only(to))) {
                    items.push_back(all.is_object() ? Value(key) : one);
                }
                to.scopes.pop_back();
            }
            for (std::size_t place = 0; place < items.size(); ++place) {
                step(to);
                to.scopes.emplace_back();
                bind(to, names, items[place]);
                to.scopes.back()["loop"] = {{"index", place + 1},
                                            {"index0", place},
                                            {"revindex", items.size() - place},
                                            {"revindex0", items.size() - place - 1},
                                            {"first", place == 0},
                                            {"last", place + 1 == items.size()},
                                            {"length", items.size()},
                                            {"previtem", place > 0 ? items[place - 1] : undefined()},
                                            {"nextitem", place + 1 < items.size() ? items[place + 1] : undefined()}};
                body(to);
                to.scopes.pop_back();
            }
            if (items.empty()) {
                otherwise(to);
            }
        };
    }

    static void bind(Rendering& to, const std::vector<std::string>& names, const Value& value) {
        if (names.size() == 1) {
            to.scopes.back()[names[0]] = value;
            return;
        }
        if (!value.is_array() || value.size() != names.size()) {
            refuse("a list of " + std::to_string(names.size()) + " is needed");
        }
        for (std::size_t place = 0; place < names.size(); ++place) {
            to.scopes.back()[names[place]] = value[place];
        }
    }

    Statement assignment() {
        const std::string name = expect(Token::name, "a name");
        const std::string attribute = sign(".") ? expect(Token::name, "a name") : "";
        expect_sign("=");
        const auto value = expression();
        close();
        if (attribute.empty()) {
            return [=](Rendering& to) { to.scopes.back()[name] = value(to); };
        }
        return [=](Rendering& to) {  // of a namespace, in whichever scope it is
            Value given = value(to);
            for (auto scope = to.scopes.rbegin(); scope != to.scopes.rend(); ++scope) {
                if (const auto found = scope->find(name); found != scope->end()) {
                    if (!found->second.is_object() || name == "loop") {
                        refuse("`" + name + "` is no namespace");
                    }
                    found->second[attribute] = std::move(given);
                    return;
                }
            }
            refuse("`" + name + "` is undefined");
        };
    }

    Expression expression() {
        const Nested nested(*this);
        const auto value = either();
        if (!word("if")) {
            return value;
        }
        const auto test = either();
        const auto otherwise = word("else") ? expression() : [](Rendering&) { return undefined(); };
        return [=](Rendering& to) { return truth(test(to)) ? value(to) : otherwise(to); };
    }

    Expression either() {
        auto left = both();
        while (word("or")) {
            left = [left, right = both()](Rendering& to) {
                Value value = left(to);
                return truth(value) ? value : right(to);
            };
        }
        return left;
    }

    Expression both() {
        auto left = negation();
        while (word("and")) {
            left = [left, right = negation()](Rendering& to) {
                Value value = left(to);
                return truth(value) ? right(to) : value;
            };
        }
        return left;
    }

    Expression negation() {
        const Nested nested(*this);
        if (word("not")) {
            return [value = negation()](Rendering& to) { return Value(!truth(value(to))); };
        }
        auto left = sum();
        bool chained = false;  // of a < b < c Jinja makes another thing: refused
        while (true) {
            std::string comparison;
            for (const char* known : {"==", "!=", "<=", ">=", "<", ">"}) {
                comparison = comparison.empty() && sign(known) ? known : comparison;
            }
            if (comparison.empty() && word("in")) {
                comparison = "in";
            } else if (comparison.empty() && at(Token::name, "not") && next().value == "in") {
                place_ += 2;
                comparison = "not in";
            }
            if (comparison.empty()) {
                return left;
            }
            if (std::exchange(chained, true)) {
                unreadable(now().line, "a chain of comparisons");
            }
            left = [left, comparison, right = sum()](Rendering& to) {
                step(to);
                return Value(compared(comparison, left(to), right(to)));
            };
        }
    }

    Expression binary(const std::vector<std::string>& signs, Expression (Parser::*part)()) {
        auto left = (this->*part)();
        while (now().kind == Token::sign && std::find(signs.begin(), signs.end(), now().value) != signs.end()) {
            const std::string operation = tokens_[place_++].value;
            left = [left, operation, right = (this->*part)()](Rendering& to) {
                return paid(to, computed(operation, left(to), right(to)));
            };
        }
        return left;
    }

    Expression sum() { return binary({"+", "-"}, &Parser::concatenation); }
    Expression concatenation() { return binary({"~"}, &Parser::product); }
    Expression product() { return binary({"*", "//", "%"}, &Parser::unary); }

    Expression unary() {
        const Nested nested(*this);
        if (sign("-")) {
            return [value = unary()](Rendering& to) { return computed("-", 0, value(to)); };
        }
        return postfix(primary());
    }

    Expression postfix(Expression value) {
        while (true) {
            if (sign(".")) {
                const std::string name = expect(Token::name, "a name");
                if (sign("(")) {
                    value = [value, name, given = positional()](Rendering& to) {
                        return paid(to, called(name, value(to), evaluated(given, to)));
                    };
                } else {
                    value = [value, name](Rendering& to) { return item(value(to), name); };
                }
            } else if (sign("[")) {
                value = subscript(value);
            } else if (sign("|")) {
                const std::string name = expect(Token::name, "a filter");
                const auto given = sign("(") ? positional() : std::vector<Expression>();
                value = [=](Rendering& to) {
                    return paid(to, filtered(name, value(to), evaluated(given, to)));
                };
            } else if (word("is")) {
                const bool negative = word("not");
                const std::string name = expect(Token::name, "a test");
                value = [=](Rendering& to) { return Value(tested(name, value(to)) != negative); };
            } else {
                return value;
            }
        }
    }

    Expression subscript(const Expression& value) {
        std::vector<Expression> bounds(3, [](Rendering&) { return undefined(); });
        std::size_t colons = 0;
        while (!sign("]")) {
            if (sign(":") && ++colons < 3) {
                continue;
            }
            if (colons > 2) {
                unreadable(now().line, "a slice has three parts");
            }
            bounds[colons] = expression();
            if (!at(Token::sign, ":") && !at(Token::sign, "]")) {
                unreadable(now().line, "`]` is needed, not `" + now().value + "`");
            }
        }
        if (colons == 0) {
            return [value, key = bounds[0]](Rendering& to) { return item(value(to), key(to)); };
        }
        return [=](Rendering& to) { return paid(to, sliced(value(to), bounds[0](to), bounds[1](to), bounds[2](to))); };
    }

    Expression primary() {
        const Token token = now();
        ++place_;
        if (token.kind == Token::string) {
            std::string text = token.value;
            while (now().kind == Token::string) {
                text += tokens_[place_++].value;
            }
            return [text](Rendering&) { return Value(text); };
        }
        if (token.kind == Token::number) {
            int64_t number = 0;
            const char* last = token.value.data() + token.value.size();
            if (std::from_chars(token.value.data(), last, number).ptr != last) {
                unreadable(token.line, "the number " + token.value);
            }
            return [number](Rendering&) { return Value(number); };
        }
        if (token.kind == Token::name) {
            return named(token);
        }
        if (token.value == "(") {
            auto inner = expression();
            expect_sign(")");
            return inner;
        }
        if (token.value == "[") {
            std::vector<Expression> items;
            while (!sign("]")) {
                items.push_back(expression());
                if (!sign(",") && !at(Token::sign, "]")) {
                    unreadable(now().line, "`]` is needed");
                }
            }
            return [items](Rendering& to) { return paid(to, Value(evaluated(items, to))); };
        }
        if (token.value == "{") {
            return mapping();
        }
        --place_;
        unreadable(token.line, "`" + token.value + "` begins no value");
    }

    Expression mapping() {
        std::vector<std::pair<Expression, Expression>> items;
        while (!sign("}")) {
            auto key = expression();
            expect_sign(":");
            items.emplace_back(std::move(key), expression());
            if (!sign(",") && !at(Token::sign, "}")) {
                unreadable(now().line, "`}` is needed");
            }
        }
        return [items](Rendering& to) {
            Value made = Value::object();
            for (const auto& [key, value] : items) {
                made[text_of(key(to), "a key")] = value(to);
            }
            return paid(to, std::move(made));
        };
    }

    Expression named(const Token& token) {
        static const std::map<std::string, Value> literals{{"true", true}, {"True", true}, {"false", false}, {"False", false},
                                                           {"none", {}},   {"None", {}}};
        if (const auto found = literals.find(token.value); found != literals.end()) {
            return [value = found->second](Rendering&) { return value; };
        }
        if (!sign("(")) {
            return [name = token.value](Rendering& to) {
                for (auto scope = to.scopes.rbegin(); scope != to.scopes.rend(); ++scope) {
                    if (const auto found = scope->find(name); found != scope->end()) {
                        return paid(to, found->second);
                    }
                }
                return undefined();
            };
        }
        const auto given = arguments();
        if (token.value == "raise_exception" && given.size() == 1) {
            return [=](Rendering& to) -> Value { refuse(written(given[0].second(to))); };
        }
        if (token.value == "namespace") {
            return [=](Rendering& to) {
                Value made = Value::object();
                for (const auto& [name, value] : given) {
                    made[name] = value(to);
                }
                return paid(to, std::move(made));
            };
        }
        if (token.value == "range" && !given.empty() && given.size() < 3) {
            return [=](Rendering& to) {
                const Value low = given.size() > 1 ? given[0].second(to) : Value(0);
                const Value high = given.back().second(to);
                Value made = Value::array();
                for (auto number = low.get<int64_t>(); number < high.get<int64_t>(); ++number) {
                    step(to);
                    made.push_back(number);
                }
                return made;
            };
        }
        unreadable(token.line, "the function `" + token.value + "` is not known here");
    }

    Named arguments() {
        Named given;
        while (!sign(")")) {
            std::string name;
            if (now().kind == Token::name && next().kind == Token::sign && next().value == "=") {
                name = now().value;
                place_ += 2;
            }
            given.emplace_back(name, expression());
            if (!sign(",") && !at(Token::sign, ")")) {
                unreadable(now().line, "`)` is needed, not `" + now().value + "`");
            }
        }
        return given;
    }

    std::vector<Expression> positional() {
        std::vector<Expression> given;
        for (auto& [name, value] : arguments()) {
            if (!name.empty()) {
                unreadable(now().line, "the argument `" + name + "` is not known here");
            }
            given.push_back(std::move(value));
        }
        return given;
    }

    static std::vector<Value> evaluated(const std::vector<Expression>& expressions, Rendering& to) {
        std::vector<Value> values;
        for (const auto& one : expressions) {
            values.push_back(one(to));
        }
        return values;
    }

    std::vector<Token> tokens_;
    std::size_t place_ = 0;
    int depth_ = 0;
    std::string ender_;
};

// The text of the template, of the first file that has one.
std::optional<std::string> template_source(const fs::path& folder) {
    if (fs::is_regular_file(folder / "chat_template.jinja")) {
        return read_text(folder / "chat_template.jinja");
    }
    for (const char* name : {"tokenizer_config.json", "chat_template.json"}) {
        const auto config = read_object(folder / name, true);
        nlohmann::json found = config.value("chat_template", nlohmann::json());
        if (found.is_array()) {
            nlohmann::json chosen;
            for (const auto& one : found) {
                if (chosen.is_null() && one.is_object() && one.value("name", nlohmann::json()) == "default") {
                    chosen = one.value("template", nlohmann::json());
                }
            }
            found = chosen;
        }
        if (found.is_string()) {
            return found.get<std::string>();
        }
    }
    return std::nullopt;
}

// The named special tokens: of tokenizer_config.json, in older folders also of special_tokens_map.json.
Value special_tokens(const fs::path& folder) {
    auto config = read_object(folder / "tokenizer_config.json", true);
    if (!config.contains("added_tokens_decoder")) {
        config.update(read_object(folder / "special_tokens_map.json", true));
    }
    Value found = Value::object();
    for (const char* name : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
        const auto token = config.value(name, nlohmann::json());
        const auto text = token.is_object() ? token.value("content", nlohmann::json()) : token;
        if (text.is_string() && text != "") {
            found[name] = text.get<std::string>();
        }
    }
    return found;
}

}  // namespace

ChatTemplate::ChatTemplate(const std::string& source, Value special_tokens)
    : body_(Parser(Lexer(source).tokens()).whole()), special_tokens_(std::move(special_tokens)) {}

std::string ChatTemplate::render(const std::vector<Message>& messages, bool add_generation_prompt) const {
    if (messages.empty()) {
        throw Error(ErrorCode::usage, "messages is empty; a list of at least one message is needed");
    }
    Rendering rendering;
    auto& names = rendering.scopes.front();
    for (const auto& [name, value] : special_tokens_.items()) {
        names[name] = value;
    }
    names["tools"] = names["documents"] = Value();
    names["add_generation_prompt"] = add_generation_prompt;
    names["messages"] = Value::array();
    for (const auto& message : messages) {
        names["messages"].push_back({{"role", message.role}, {"content", message.content}});
    }
    try {
        rendering.scopes.emplace_back();
        body_(rendering);
    } catch (const nlohmann::json::exception& error) {
        refuse(error.what());
    }
    return rendering.text;
}

std::optional<ChatTemplate> read_chat_template(const fs::path& folder) {
    const auto source = template_source(folder);
    return source ? std::optional<ChatTemplate>(ChatTemplate(*source, special_tokens(folder))) : std::nullopt;
}

}  // namespace ovround
