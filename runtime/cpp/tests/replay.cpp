// ovround-replay FOLDER [LOAD]: answers the requests on stdin, one JSON object a line, in exact mode; for
// tests/cpp/test_cpp*.py. LOAD is a JSON object of load options. A list of prompts is answered as one batch. Files that
// a request does not need are not opened.
#include <iostream>

#include "chat_template.hpp"
#include "leaks.hpp"
#include "options.hpp"
#include "template_marker.hpp"
#include "tokenizer.hpp"

namespace {

using nlohmann::json;

class Opened {
public:
    Opened(std::filesystem::path folder, const json& load) : folder_(std::move(folder)) {
        load_.exact = true;
        load_.threads = 1;
        load_.prefix_cache = load.value("prefix_cache", false);
        load_.prompt_lookup = load.value("prompt_lookup", false);
        load_.draft_model = load.value("draft_model", "");
        load_.operator_library = load.value("operator_library", "");
        load_.draft_tokens = load.value("draft_tokens", load_.draft_tokens);
    }

    ovround::LLM& llm() {
        if (!llm_) {
            llm_.emplace(folder_, load_);
            if (!llm_->warning().empty()) {
                std::cerr << llm_->warning() << '\n';
            }
            keep_plugins();
        }
        return *llm_;
    }
    ovround::Tokenizer& tokenizer() {
        if (!tokenizer_) {
            tokenizer_.emplace(core_, folder_, "");
        }
        return *tokenizer_;
    }

private:
    std::filesystem::path folder_;
    ovround::LoadOptions load_;
    ov::Core core_;
    std::optional<ovround::LLM> llm_;
    std::optional<ovround::Tokenizer> tokenizer_;
};

json as_json(const ovround::TokenLogprobs& position) {
    return {{"token_id", position.token_id}, {"logprob", position.logprob}, {"top", position.top}};
}

json as_json(const std::vector<ovround::TokenLogprobs>& positions) {
    json list = json::array();
    for (const auto& position : positions) {
        list.push_back(as_json(position));
    }
    return list;
}

json as_json(const ovround::Completion& answer) {
    return {{"text", answer.text},
            {"token_ids", answer.token_ids},
            {"finish_reason", ovround::to_string(answer.finish_reason)},
            {"prompt_tokens", answer.usage.prompt_tokens},
            {"cached_tokens", answer.usage.cached_tokens},
            {"drafted_tokens", answer.usage.drafted_tokens},
            {"accepted_tokens", answer.usage.accepted_tokens},
            {"logprobs", answer.logprobs ? as_json(*answer.logprobs) : json()},
            {"prompt_logprobs", answer.prompt_logprobs ? as_json(*answer.prompt_logprobs) : json()}};
}

std::vector<ovround::Message> messages_of(const json& request) {
    std::vector<ovround::Message> messages;
    for (const auto& message : request.at("messages")) {
        messages.push_back({message.at("role"), message.at("content")});
    }
    return messages;
}

// The pieces of a stream of any ids, the text of `finish`, and the whole text.
json streamed(ovround::Tokenizer& tokenizer, const std::vector<int64_t>& ids) {
    ovround::StreamDecoder decoder(tokenizer);
    json pieces = json::array();
    const auto take = [&](std::string piece) { pieces.push_back(std::move(piece)); };
    for (const int64_t id : ids) {
        std::string piece;
        decoder.push(id, piece);
        take(std::move(piece));
    }
    std::string rest;
    decoder.finish(rest);
    take(std::move(rest));
    return {{"pieces", pieces},
            {"text", tokenizer.decode(ids.data(), ids.size())},
            {"by_table", tokenizer.decodes_by_table()}};
}

json answer(Opened& opened, const json& request) {
    const auto options = sampling_options(request.at("options"));
    if (request.contains("stream")) {
        return streamed(opened.tokenizer(), request.at("stream"));
    }
    if (request.contains("template")) {
        const ovround::ChatTemplate source(request.at("template"), request.at("special_tokens").get<ovround::Value>());
        return source.render(messages_of(request), request.at("add_generation_prompt"));
    }
    if (request.contains("rendered")) {
        return ovround::template_marker(request.at("text").get<std::string>(), request.at("special_tokens"),
                                        request.at("rendered").get<std::string>());
    }
    auto& llm = opened.llm();
    if (request.contains("encode")) {
        return llm.encode(request.at("encode").get<std::string>(), request.at("special"));
    }
    if (request.contains("score")) {
        return as_json(llm.score(request.at("score"), request.at("count")));
    }
    if (request.contains("prompts")) {
        json answers;
        for (const auto& position :
             llm.generate_batch(request.at("prompts").get<std::vector<std::string>>(), options)) {
            answers.push_back(as_json(position));
        }
        return answers;
    }
    json pieces = json::array();
    json logprobs = json::array();
    const auto on_piece = [&](const ovround::Piece& piece) {
        pieces.push_back(piece.text);
        if (piece.logprobs != nullptr) {
            logprobs.push_back(as_json(*piece.logprobs));
        }
        return true;
    };
    json answer;
    if (request.contains("messages")) {
        const auto messages = messages_of(request);
        answer = as_json(llm.chat(messages, options, on_piece));
        answer["rendered"] = llm.render_chat(messages);
    } else {
        answer = as_json(llm.generate(request.at("prompt").get<std::string>(), options,
                                      options.num_beams > 1 ? ovround::OnPiece() : on_piece));
    }
    answer["pieces"] = pieces;
    answer["piece_logprobs"] = logprobs;
    return answer;
}

}  // namespace

int main(int count, char** values) {
    Opened opened(values[1], count > 2 ? json::parse(values[2]) : json::object());
    for (std::string line; std::getline(std::cin, line);) {
        try {
            std::cout << answer(opened, json::parse(line)).dump() << '\n';
        } catch (const ovround::Error& error) {
            std::cout << json{{"error", error.what()}, {"hint", error.hint()}}.dump() << '\n';
        }
    }
}
