#include "chat_template.hpp"

#include "file_kind.hpp"
#include "json_object.hpp"
#include "template_parser.hpp"

namespace ovround {
namespace {

namespace fs = std::filesystem;

// The template's text, from the first file that has one.
std::optional<std::string> template_source(const fs::path& folder) {
    if (is_file(folder / "chat_template.jinja")) {
        return read_text(folder / "chat_template.jinja");
    }
    for (const char* name : {"tokenizer_config.json", "chat_template.json"}) {
        const auto config = read_object(folder / name, true);
        nlohmann::json chat_template = config.value("chat_template", nlohmann::json());
        if (chat_template.is_array()) {
            nlohmann::json chosen;
            for (const auto& entry : chat_template) {
                if (chosen.is_null() && entry.is_object() && entry.value("name", nlohmann::json()) == "default") {
                    chosen = entry.value("template", nlohmann::json());
                }
            }
            chat_template = chosen;
        }
        if (chat_template.is_string()) {
            return chat_template.get<std::string>();
        }
    }
    return std::nullopt;
}

}  // namespace

Value special_tokens(const fs::path& folder) {
    auto config = read_object(folder / "tokenizer_config.json", true);
    if (!config.contains("added_tokens_decoder")) {
        config.update(read_object(folder / "special_tokens_map.json", true));
    }
    Value tokens = Value::object();
    for (const char* name :
         {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
        const auto token = config.value(name, nlohmann::json());
        const auto text = token.is_object() ? token.value("content", nlohmann::json()) : token;
        if (text.is_string() && text != "") {
            tokens[name] = text.get<std::string>();
        }
    }
    return tokens;
}

ChatTemplate::ChatTemplate(const std::string& source, Value special_tokens)
    : body_(parse_template(source)), special_tokens_(std::move(special_tokens)) {}

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
