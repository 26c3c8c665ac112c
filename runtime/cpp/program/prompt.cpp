#include "prompt.hpp"

#include <iostream>

using ovround::Error;
using ovround::ErrorCode;

namespace {

// A rendered text has its special tokens, unless the tokenizer would put another one before its first.
std::vector<int64_t> encode_rendered(ovround::LLM& llm, const std::string& text) {
    const auto plain = llm.encode(text, false);
    auto with_special = llm.encode(text, true);
    return !plain.empty() && plain.front() == with_special.front() ? plain : with_special;
}

Prompt rendered(ovround::LLM& llm, const Arguments& arguments, const std::string& text) {
    std::vector<ovround::Message> messages;
    if (arguments.system_prompt && !arguments.system_prompt->empty()) {
        messages.push_back({"system", *arguments.system_prompt});
    }
    messages.push_back({"user", text});
    return {"chat_template", llm.encode(llm.render_chat(messages), false)};
}

}  // namespace

Prompt build_prompt(ovround::LLM& llm, const Arguments& arguments, const std::string& text) {
    if (arguments.raw) {
        return {"raw", llm.encode(text, true)};
    }
    try {
        if (arguments.chat) {
            return rendered(llm, arguments, text);
        }
        if (!llm.has_chat_template()) {
            if (arguments.system_prompt) {
                throw Error(ErrorCode::usage, "system-prompt is given, yet the model has no chat template",
                            "leave it out");
            }
            return {"base_model", llm.encode(text, true)};
        }
        const std::string marker = llm.template_marker(text);
        if (!marker.empty() && !arguments.system_prompt) {
            if (!arguments.quiet) {
                std::cerr << "the prompt has `" << marker
                          << "`, as the model's chat template writes it, so it is taken as it stands, as with --raw\n";
            }
            return {"own_template", encode_rendered(llm, text)};
        }
        return rendered(llm, arguments, text);
    } catch (const Error& error) {
        if (error.code() == ErrorCode::usage) {
            throw;
        }
        const std::string without = arguments.system_prompt ? "leave --system-prompt out; " : "";
        throw Error(error.code(), error.what(), without + "--raw continues the text without the template");
    }
}
