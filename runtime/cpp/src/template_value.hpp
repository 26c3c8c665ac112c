// The values of a chat template, with the operators, filters, tests and methods of Python.
#pragma once

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace ovround {

using Value = nlohmann::ordered_json;  // a discarded value is Jinja's undefined

// One rendering's state.
struct Rendering {
    std::vector<std::map<std::string, Value>> scopes{1};
    std::string text;
    std::size_t steps = 0;
};

using Expression = std::function<Value(Rendering&)>;
using Statement = std::function<void(Rendering&)>;

[[noreturn]] void refuse(const std::string& why);
// Counts work, and refuses a rendering that takes too much or writes too much.
void step(Rendering& rendering, std::size_t cost = 1);
// Charges the cost of `value`. All code that creates or copies values calls it, so that no value can double endlessly.
Value paid(Rendering& rendering, Value value);

Value undefined();
bool truth(const Value& value);
std::string written(const Value& value);  // the text of Python's str
const std::string& text_of(const Value& value, const char* what);

Value item(const Value& from, const Value& key);
Value sliced(const Value& from, const Value& low, const Value& high, const Value& by);
Value computed(const std::string& sign, const Value& left, const Value& right);
bool compared(const std::string& sign, const Value& left, const Value& right);
Value filtered(const std::string& name, const Value& value, const std::vector<Value>& arguments);
bool tested(const std::string& name, const Value& value);
Value called(const std::string& name, const Value& on, const std::vector<Value>& arguments);

bool begins_with(std::string_view text, std::string_view with);
bool ends_with(std::string_view text, std::string_view with);
// Strips Unicode's white space from the chosen sides.
std::string trimmed(std::string_view text, bool left, bool right);

}  // namespace ovround
