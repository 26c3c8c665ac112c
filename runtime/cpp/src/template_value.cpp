#include "template_value.hpp"

#include <algorithm>
#include <cctype>

#include "ovround/ovround.hpp"

namespace ovround {

static constexpr std::size_t kMaxSteps = 10'000'000;
static constexpr std::size_t kMaxBytes = std::size_t{16} << 20;

[[noreturn]] void refuse(const std::string& why) {
    throw Error(ErrorCode::generation, "the chat template refuses these messages: " + why,
                "render the prompt elsewhere, and use encode and generate_ids");
}

static void check_bytes(std::size_t size) {
    if (size > kMaxBytes) {
        refuse("it writes too much");
    }
}

void step(Rendering& rendering, std::size_t cost) {
    rendering.steps += cost;
    if (rendering.steps > kMaxSteps) {
        refuse("it takes too many steps");
    }
    check_bytes(rendering.text.size());
}

// The cost of a copy of `value` in work and memory; texts are checked for their size.
static std::size_t cost_of(const Value& value) {
    if (value.is_string()) {
        const std::size_t size = value.get_ref<const std::string&>().size();
        check_bytes(size);
        return 1 + size / 1024;
    }
    std::size_t cost = 1;
    if (value.is_structured()) {
        for (const auto& element : value) {
            cost += cost_of(element);
        }
    }
    return cost;
}

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

// The text that Python's str gives.
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

// The text that json.dumps gives, with its spaces.
static std::string json_text(const Value& value) {
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

bool begins_with(std::string_view text, std::string_view with) { return text.substr(0, with.size()) == with; }
bool ends_with(std::string_view text, std::string_view with) {
    return text.size() >= with.size() && text.substr(text.size() - with.size()) == with;
}

// Strips `characters`, or Unicode's white space, from the chosen sides.
static std::string stripped(std::string_view text, const std::vector<std::string>& characters, bool left, bool right) {
    const auto at = [&](auto test) {
        return std::find_if(characters.begin(), characters.end(),
                            [&](const auto& element) { return test(text, element); });
    };
    for (auto character = characters.end(); left && (character = at(begins_with)) != characters.end();) {
        text.remove_prefix(character->size());
    }
    for (auto character = characters.end(); right && (character = at(ends_with)) != characters.end();) {
        text.remove_suffix(character->size());
    }
    return std::string(text);
}

static const std::vector<std::string>& white_space() {
    static const std::vector<std::string> characters{
        " ",      "\n",     "\t",     "\r",     "\v",     "\f",     "\x1c",   "\x1d",   "\x1e",   "\x1f",
        "\u0085", "\u00a0", "\u1680", "\u2000", "\u2001", "\u2002", "\u2003", "\u2004", "\u2005", "\u2006",
        "\u2007", "\u2008", "\u2009", "\u200a", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"};
    return characters;
}

static Value strip(const Value& from, const std::vector<Value>& arguments, bool left, bool right) {
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

static std::string replaced(std::string text, const std::string& old, const std::string& fresh) {
    if (old.empty()) {
        refuse("replace of an empty text");
    }
    for (std::size_t index = 0; (index = text.find(old, index)) != std::string::npos; index += fresh.size()) {
        text.replace(index, old.size(), fresh);
        check_bytes(text.size());
    }
    return text;
}

static std::string cased(std::string text, int (*change)(int)) {
    for (char& byte : text) {
        if (static_cast<unsigned char>(byte) >= 0x80) {
            refuse("upper or lower of characters beyond ASCII");
        }
        byte = static_cast<char>(change(byte));
    }
    return text;
}

static Value split(const Value& from, const std::vector<Value>& arguments) {
    if (arguments.size() != 1 || text_of(arguments[0], "split").empty()) {
        refuse("split needs one text");
    }
    const std::string& text = text_of(from, "split");
    const std::string& by = arguments[0].get_ref<const std::string&>();
    Value parts = Value::array();
    std::size_t start = 0;
    for (std::size_t index; (index = text.find(by, start)) != std::string::npos; start = index + by.size()) {
        parts.push_back(text.substr(start, index - start));
    }
    parts.push_back(text.substr(start));
    return parts;
}

static Value pairs(const Value& mapping) {
    Value items = Value::array();
    for (const auto& [key, item] : mapping.items()) {
        items.push_back(Value::array({key, item}));
    }
    return items;
}

Value filtered(const std::string& name, const Value& value, const std::vector<Value>& arguments) {
    const auto argument = [&](std::size_t index) -> const Value& {
        return index < arguments.size() ? arguments[index]
                                        : (refuse("filter " + name + " needs an argument"), arguments[0]);
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
        for (std::size_t index = 0; index < value.size(); ++index) {
            text += (index == 0 || arguments.empty() ? "" : written(arguments[0])) + written(value[index]);
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
    if ((name == "odd" || name == "even") && value.is_number_integer())
        return (value.get<int64_t>() % 2 != 0) == (name == "odd");
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
        if (name == "startswith" && arguments.size() == 1)
            return begins_with(text, text_of(arguments[0], "startswith"));
        if (name == "endswith" && arguments.size() == 1) return ends_with(text, text_of(arguments[0], "endswith"));
        if (name == "replace" && arguments.size() == 2) return filtered(name, on, arguments);
    }
    if (on.is_object()) {
        if (name == "items" && arguments.empty()) return pairs(on);
        if (name == "get" && !arguments.empty()) {
            const auto entry = on.find(text_of(arguments[0], "get"));
            return entry != on.end() ? *entry : arguments.size() > 1 ? arguments[1] : Value();
        }
    }
    refuse("method `" + name + "` is not known here, or not for this value");
}

Value item(const Value& from, const Value& key) {
    if (from.is_discarded()) {
        refuse("it looks into something that is undefined");
    }
    if (from.is_object() && key.is_string()) {
        const auto entry = from.find(key.get_ref<const std::string&>());
        return entry == from.end() ? undefined() : *entry;
    }
    if (from.is_array() && key.is_number_integer()) {
        const auto size = static_cast<int64_t>(from.size());
        const auto index = key.get<int64_t>() + (key < 0 ? size : 0);
        return index < 0 || index >= size ? undefined() : from[static_cast<std::size_t>(index)];
    }
    if (from.is_string() && key.is_number_integer()) {
        refuse("it takes single characters of a text");
    }
    return undefined();
}

// Python's from[low:high:by]; an undefined bound means none.
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
        const auto index = given.get<int64_t>() + (given < 0 ? size : 0);
        return stride > 0 ? std::clamp<int64_t>(index, 0, size) : std::clamp<int64_t>(index, -1, size - 1);
    };
    Value part = Value::array();
    const int64_t end = bound(high, stride > 0 ? size : -1);
    for (int64_t index = bound(low, stride > 0 ? 0 : size - 1); stride > 0 ? index < end : index > end;
         index += stride) {
        part.push_back(from[static_cast<std::size_t>(index)]);
    }
    return part;
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
    const int64_t rest = ((a % b) + b) % b;  // as in Python, with the divisor's sign
    return sign == "%" ? rest : (a - rest) / b;
}

static bool holds(const Value& in, const Value& what) {
    if (in.is_string()) return in.get_ref<const std::string&>().find(text_of(what, "in")) != std::string::npos;
    if (in.is_object()) return what.is_string() && in.contains(what.get_ref<const std::string&>());
    if (in.is_array()) return std::find(in.begin(), in.end(), what) != in.end();
    refuse("`in` of what holds nothing");
}

bool compared(const std::string& sign, const Value& left, const Value& right) {
    // In nlohmann's JSON a discarded value equals nothing; in Jinja two undefined values are equal.
    const bool equal =
        left.is_discarded() || right.is_discarded() ? left.is_discarded() == right.is_discarded() : left == right;
    if (sign == "==") return equal;
    if (sign == "!=") return !equal;
    if (sign == "in") return holds(right, left);
    if (sign == "not in") return !holds(right, left);
    if (!(left.is_number() && right.is_number()) && !(left.is_string() && right.is_string())) {
        refuse("`" + sign + "` of values that have no order");
    }
    return sign == "<" ? left < right : sign == ">" ? left > right : sign == "<=" ? left <= right : left >= right;
}

std::string trimmed(std::string_view text, bool left, bool right) { return stripped(text, white_space(), left, right); }

}  // namespace ovround
