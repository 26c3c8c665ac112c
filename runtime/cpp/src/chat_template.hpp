// Chat templates: the part of Jinja2 that docs/guides/cpp.md lists, with transformers' settings.
//
// A template is foreign code. It can read only its input; its steps, its nesting and the size of its text are limited.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "ovround/ovround.hpp"
#include "template_value.hpp"

namespace ovround {

class ChatTemplate {
public:
    // Error(artifact), naming the line, for what cannot be read.
    ChatTemplate(const std::string& source, Value special_tokens);

    // Error(generation) with the template's words when it refuses the messages.
    std::string render(const std::vector<Message>& messages, bool add_generation_prompt) const;

private:
    Statement body_;
    Value special_tokens_;
};

// The template of a folder: of chat_template.jinja, tokenizer_config.json, then chat_template.json.
std::optional<ChatTemplate> read_chat_template(const std::filesystem::path& folder);

}  // namespace ovround
