#include "template_parser.hpp"

#include <algorithm>
#include <charconv>
#include <utility>

#include "template_lexer.hpp"

namespace ovround {
namespace {

constexpr int kMaxNesting = 64;

using Named = std::vector<std::pair<std::string, Expression>>;  // the name is empty for a positional argument

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
                value = [=](Rendering& to) { return paid(to, filtered(name, value(to), evaluated(given, to))); };
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
        static const std::map<std::string, Value> literals{{"true", true},   {"True", true}, {"false", false},
                                                           {"False", false}, {"none", {}},   {"None", {}}};
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

}  // namespace

Statement parse_template(const std::string& source) { return Parser(template_tokens(source)).whole(); }

}  // namespace ovround
