// ovround-replay FOLDER: answers the requests on stdin, a JSON object a line, with exact arithmetic; for
// tests/test_cpp.py. A list of prompts is answered as one batch.
#include <iostream>

#include "chat_template.hpp"
#include "options.hpp"

namespace {

using nlohmann::json;

json as_json(const ovround::Completion& answer) {
    return {{"text", answer.text},
            {"token_ids", answer.token_ids},
            {"finish_reason", ovround::to_string(answer.finish_reason)},
            {"prompt_tokens", answer.prompt_tokens}};
}

std::vector<ovround::Message> messages_of(const json& request) {
    std::vector<ovround::Message> messages;
    for (const auto& message : request.at("messages")) {
        messages.push_back({message.at("role"), message.at("content")});
    }
    return messages;
}

json answer(ovround::LLM& llm, const json& request) {
    const auto options = sampling_options(request.at("options"));
    if (request.contains("encode")) {
        return llm.encode(request.at("encode").get<std::string>(), request.at("special"));
    }
    if (request.contains("template")) {
        const ovround::ChatTemplate source(request.at("template"), request.at("special_tokens").get<ovround::Value>());
        return source.render(messages_of(request), request.at("add_generation_prompt"));
    }
    if (request.contains("prompts")) {
        json answers;
        for (const auto& one : llm.generate_batch(request.at("prompts").get<std::vector<std::string>>(), options)) {
            answers.push_back(as_json(one));
        }
        return answers;
    }
    json pieces = json::array();
    const auto on_piece = [&](const ovround::Piece& piece) {
        pieces.push_back(piece.text);
        return true;
    };
    json found;
    if (request.contains("messages")) {
        const auto messages = messages_of(request);
        found = as_json(llm.chat(messages, options, on_piece));
        found["rendered"] = llm.render_chat(messages);
    } else {
        found = as_json(llm.generate(request.at("prompt").get<std::string>(), options, on_piece));
    }
    found["pieces"] = pieces;
    return found;
}

}  // namespace

int main(int, char** values) {
    ovround::LoadOptions load;
    load.exact = true;
    load.threads = 1;
    ovround::LLM llm(values[1], load);
    for (std::string line; std::getline(std::cin, line);) {
        try {
            std::cout << answer(llm, json::parse(line)).dump() << '\n';
        } catch (const ovround::Error& error) {
            std::cout << json{{"error", error.what()}, {"hint", error.hint()}}.dump() << '\n';
        }
    }
}
