// Chat templates: the subset of Jinja2 that docs/guides/cpp.md lists, configured as transformers configures it.
//
// A template is code from the model's author. It can read only its inputs; its steps, nesting and output size are
// limited.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "ovround/ovround.hpp"
#include "template_value.hpp"

namespace ovround {

class ChatTemplate {
public:
    // Throws Error(artifact) that names the line if the template cannot be parsed.
    ChatTemplate(const std::string& source, Value special_tokens);

    // Throws Error(generation) with the template's own message if it rejects the chat.
    std::string render(const std::vector<Message>& messages, bool add_generation_prompt) const;

private:
    Statement body_;
    Value special_tokens_;
};

// The named special tokens, from tokenizer_config.json and in older folders from special_tokens_map.json.
Value special_tokens(const std::filesystem::path& folder);

// The template of a folder, from chat_template.jinja, tokenizer_config.json or chat_template.json, in this order.
std::optional<ChatTemplate> read_chat_template(const std::filesystem::path& folder);

}  // namespace ovround
