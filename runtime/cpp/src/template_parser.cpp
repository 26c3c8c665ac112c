#include "template_parser.hpp"

#include <algorithm>
#include <utility>

#include "template_expression.hpp"

namespace ovround {
namespace {

// Compiles the text and the tags of a template to closures, by recursive descent.
class Parser {
public:
    explicit Parser(std::vector<Token> tokens) : cursor_(std::move(tokens)) {}

    Statement whole() {
        auto body = statements({});
        if (cursor_.now().kind != Token::end) {
            unreadable(cursor_.now().line, "`" + cursor_.now().value + "` has no beginning");
        }
        return body;
    }

private:
    void close() { cursor_.expect(Token::close_block, "the end of the tag"); }

    // Reads up to a tag that begins with one of `enders`; consumes its name and keeps it in `ender_`.
    Statement statements(const std::vector<std::string>& enders) {
        const Cursor::Nested nested(cursor_);
        std::vector<Statement> parts;
        while (cursor_.now().kind != Token::end) {
            if (cursor_.now().kind == Token::text) {
                parts.push_back([text = cursor_.take_any()](Rendering& to) { to.text += text; });
            } else if (cursor_.now().kind == Token::open_value) {
                cursor_.take_any();
                parts.push_back([value = parse_expression(cursor_)](Rendering& to) { to.text += written(value(to)); });
                cursor_.expect(Token::close_value, "}}");
            } else {
                cursor_.expect(Token::open_block, "a tag");
                ender_ = cursor_.expect(Token::name, "the name of a tag");
                if (std::find(enders.begin(), enders.end(), ender_) != enders.end()) {
                    return sequence(std::move(parts));
                }
                parts.push_back(statement(ender_));
            }
        }
        if (!enders.empty()) {
            unreadable(cursor_.now().line, enders.back() + " is missing");
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
        unreadable(cursor_.now().line, "the tag `" + tag + "` is not known here");
    }

    Statement condition() {
        const Cursor::Nested nested(cursor_);
        const auto test = parse_expression(cursor_);
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
        std::vector<std::string> names{cursor_.expect(Token::name, "a name")};
        while (cursor_.sign(",")) {
            names.push_back(cursor_.expect(Token::name, "a name"));
        }
        if (!cursor_.word("in")) {
            unreadable(cursor_.now().line, "`in` is needed");
        }
        const auto over = parse_unconditional(cursor_);
        const auto only = cursor_.word("if") ? parse_expression(cursor_) : [](Rendering&) { return Value(true); };
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
            for (const auto& [key, item] : all.items()) {
                to.scopes.emplace_back();
                bind(to, names, all.is_object() ? Value(key) : item);
                if (truth(only(to))) {
                    items.push_back(all.is_object() ? Value(key) : item);
                }
                to.scopes.pop_back();
            }
            for (std::size_t index = 0; index < items.size(); ++index) {
                step(to);
                to.scopes.emplace_back();
                bind(to, names, items[index]);
                to.scopes.back()["loop"] = {{"index", index + 1},
                                            {"index0", index},
                                            {"revindex", items.size() - index},
                                            {"revindex0", items.size() - index - 1},
                                            {"first", index == 0},
                                            {"last", index + 1 == items.size()},
                                            {"length", items.size()},
                                            {"previtem", index > 0 ? items[index - 1] : undefined()},
                                            {"nextitem", index + 1 < items.size() ? items[index + 1] : undefined()}};
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
        for (std::size_t index = 0; index < names.size(); ++index) {
            to.scopes.back()[names[index]] = value[index];
        }
    }

    Statement assignment() {
        const std::string name = cursor_.expect(Token::name, "a name");
        const std::string attribute = cursor_.sign(".") ? cursor_.expect(Token::name, "a name") : "";
        cursor_.expect_sign("=");
        const auto value = parse_expression(cursor_);
        close();
        if (attribute.empty()) {
            return [=](Rendering& to) { to.scopes.back()[name] = value(to); };
        }
        return [=](Rendering& to) {  // a namespace's attribute, in any scope
            Value given = value(to);
            for (auto scope = to.scopes.rbegin(); scope != to.scopes.rend(); ++scope) {
                if (const auto variable = scope->find(name); variable != scope->end()) {
                    if (!variable->second.is_object() || name == "loop") {
                        refuse("`" + name + "` is no namespace");
                    }
                    variable->second[attribute] = std::move(given);
                    return;
                }
            }
            refuse("`" + name + "` is undefined");
        };
    }

    Cursor cursor_;
    std::string ender_;
};

}  // namespace

Statement parse_template(const std::string& source) { return Parser(template_tokens(source)).whole(); }

}  // namespace ovround
