#include "template_expression.hpp"

#include <algorithm>
#include <charconv>
#include <utility>

namespace ovround {
namespace {

using Named = std::vector<std::pair<std::string, Expression>>;  // the name is empty for a positional argument

// Recursive descent, in Jinja's order of precedence, to closures.
class ExpressionParser {
public:
    explicit ExpressionParser(Cursor& cursor) : cursor_(cursor) {}

    Expression expression() {
        const Cursor::Nested nested(cursor_);
        auto value = either();
        if (!cursor_.word("if")) {
            return value;
        }
        const auto test = either();
        const auto otherwise = cursor_.word("else") ? expression() : [](Rendering&) { return undefined(); };
        return [=](Rendering& to) { return truth(test(to)) ? value(to) : otherwise(to); };
    }

    Expression either() {
        auto left = both();
        while (cursor_.word("or")) {
            left = [left, right = both()](Rendering& to) {
                Value value = left(to);
                return truth(value) ? value : right(to);
            };
        }
        return left;
    }

private:
    Expression both() {
        auto left = negation();
        while (cursor_.word("and")) {
            left = [left, right = negation()](Rendering& to) {
                Value value = left(to);
                return truth(value) ? right(to) : value;
            };
        }
        return left;
    }

    Expression negation() {
        const Cursor::Nested nested(cursor_);
        if (cursor_.word("not")) {
            return [value = negation()](Rendering& to) { return Value(!truth(value(to))); };
        }
        auto left = sum();
        bool chained = false;  // Jinja reads a < b < c differently, so it is refused
        while (true) {
            std::string comparison;
            for (const char* known : {"==", "!=", "<=", ">=", "<", ">"}) {
                comparison = comparison.empty() && cursor_.sign(known) ? known : comparison;
            }
            if (comparison.empty() && cursor_.word("in")) {
                comparison = "in";
            } else if (comparison.empty() && cursor_.at(Token::name, "not") && cursor_.next().value == "in") {
                cursor_.take_any();
                cursor_.take_any();
                comparison = "not in";
            }
            if (comparison.empty()) {
                return left;
            }
            if (std::exchange(chained, true)) {
                unreadable(cursor_.now().line, "a chain of comparisons");
            }
            left = [left, comparison, right = sum()](Rendering& to) {
                step(to);
                return Value(compared(comparison, left(to), right(to)));
            };
        }
    }

    Expression binary(const std::vector<std::string>& signs, Expression (ExpressionParser::*part)()) {
        auto left = (this->*part)();
        while (cursor_.now().kind == Token::sign &&
               std::find(signs.begin(), signs.end(), cursor_.now().value) != signs.end()) {
            const std::string operation = cursor_.take_any();
            left = [left, operation, right = (this->*part)()](Rendering& to) {
                return paid(to, computed(operation, left(to), right(to)));
            };
        }
        return left;
    }

    Expression sum() { return binary({"+", "-"}, &ExpressionParser::concatenation); }
    Expression concatenation() { return binary({"~"}, &ExpressionParser::product); }
    Expression product() { return binary({"*", "//", "%"}, &ExpressionParser::unary); }

    Expression unary() {
        const Cursor::Nested nested(cursor_);
        if (cursor_.sign("-")) {
            return [value = unary()](Rendering& to) { return computed("-", 0, value(to)); };
        }
        return postfix(primary());
    }

    Expression postfix(Expression value) {
        while (true) {
            if (cursor_.sign(".")) {
                const std::string name = cursor_.expect(Token::name, "a name");
                if (cursor_.sign("(")) {
                    value = [value, name, given = positional()](Rendering& to) {
                        return paid(to, called(name, value(to), evaluated(given, to)));
                    };
                } else {
                    value = [value, name](Rendering& to) { return item(value(to), name); };
                }
            } else if (cursor_.sign("[")) {
                value = subscript(value);
            } else if (cursor_.sign("|")) {
                const std::string name = cursor_.expect(Token::name, "a filter");
                const auto given = cursor_.sign("(") ? positional() : std::vector<Expression>();
                value = [=](Rendering& to) { return paid(to, filtered(name, value(to), evaluated(given, to))); };
            } else if (cursor_.word("is")) {
                const bool negative = cursor_.word("not");
                const std::string name = cursor_.expect(Token::name, "a test");
                value = [=](Rendering& to) { return Value(tested(name, value(to)) != negative); };
            } else {
                return value;
            }
        }
    }

    Expression subscript(const Expression& value) {
        std::vector<Expression> bounds(3, [](Rendering&) { return undefined(); });
        std::size_t colons = 0;
        while (!cursor_.sign("]")) {
            if (cursor_.sign(":") && ++colons < 3) {
                continue;
            }
            if (colons > 2) {
                unreadable(cursor_.now().line, "a slice has three parts");
            }
            bounds[colons] = expression();
            if (!cursor_.at(Token::sign, ":") && !cursor_.at(Token::sign, "]")) {
                unreadable(cursor_.now().line, "`]` is needed, not `" + cursor_.now().value + "`");
            }
        }
        if (colons == 0) {
            return [value, key = bounds[0]](Rendering& to) { return item(value(to), key(to)); };
        }
        return [=](Rendering& to) { return paid(to, sliced(value(to), bounds[0](to), bounds[1](to), bounds[2](to))); };
    }

    Expression primary() {
        const Token token = cursor_.now();
        cursor_.take_any();
        if (token.kind == Token::string) {
            std::string text = token.value;
            while (cursor_.now().kind == Token::string) {
                text += cursor_.take_any();
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
            cursor_.expect_sign(")");
            return inner;
        }
        if (token.value == "[") {
            std::vector<Expression> items;
            while (!cursor_.sign("]")) {
                items.push_back(expression());
                if (!cursor_.sign(",") && !cursor_.at(Token::sign, "]")) {
                    unreadable(cursor_.now().line, "`]` is needed");
                }
            }
            return [items](Rendering& to) { return paid(to, Value(evaluated(items, to))); };
        }
        if (token.value == "{") {
            return mapping();
        }
        unreadable(token.line, "`" + token.value + "` begins no value");
    }

    Expression mapping() {
        std::vector<std::pair<Expression, Expression>> items;
        while (!cursor_.sign("}")) {
            auto key = expression();
            cursor_.expect_sign(":");
            items.emplace_back(std::move(key), expression());
            if (!cursor_.sign(",") && !cursor_.at(Token::sign, "}")) {
                unreadable(cursor_.now().line, "`}` is needed");
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
        if (const auto entry = literals.find(token.value); entry != literals.end()) {
            return [value = entry->second](Rendering&) { return value; };
        }
        if (!cursor_.sign("(")) {
            return [name = token.value](Rendering& to) {
                for (auto scope = to.scopes.rbegin(); scope != to.scopes.rend(); ++scope) {
                    if (const auto entry = scope->find(name); entry != scope->end()) {
                        return paid(to, entry->second);
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
        while (!cursor_.sign(")")) {
            std::string name;
            if (cursor_.now().kind == Token::name && cursor_.next().kind == Token::sign &&
                cursor_.next().value == "=") {
                name = cursor_.now().value;
                cursor_.take_any();
                cursor_.take_any();
            }
            given.emplace_back(name, expression());
            if (!cursor_.sign(",") && !cursor_.at(Token::sign, ")")) {
                unreadable(cursor_.now().line, "`)` is needed, not `" + cursor_.now().value + "`");
            }
        }
        return given;
    }

    std::vector<Expression> positional() {
        std::vector<Expression> given;
        for (auto& [name, value] : arguments()) {
            if (!name.empty()) {
                unreadable(cursor_.now().line, "the argument `" + name + "` is not known here");
            }
            given.push_back(std::move(value));
        }
        return given;
    }

    static std::vector<Value> evaluated(const std::vector<Expression>& expressions, Rendering& to) {
        std::vector<Value> values;
        values.reserve(expressions.size());
        for (const auto& expression : expressions) {
            values.push_back(expression(to));
        }
        return values;
    }

    Cursor& cursor_;
};

}  // namespace

Expression parse_expression(Cursor& cursor) { return ExpressionParser(cursor).expression(); }

Expression parse_unconditional(Cursor& cursor) { return ExpressionParser(cursor).either(); }

}  // namespace ovround
