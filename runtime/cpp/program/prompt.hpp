// How ovround-run makes a prompt of the text that it is given; `ovround run` does the same.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "arguments.hpp"

struct Prompt {
    // `chat_template`: a message, rendered. The text as it stands: `raw` as --raw says, `base_model` for a model
    // without a template, `own_template` for a text that is rendered already.
    std::string format;
    std::vector<int64_t> ids;
};

// Says on stderr, unless --quiet, when the text is taken as it stands without being asked. Throws ovround::Error.
Prompt build_prompt(ovround::LLM& llm, const Arguments& arguments, const std::string& text);
