#include "generation.hpp"

#include <algorithm>
#include <chrono>

namespace ovround {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kTextBytes = 16;  // of a token, made room for; a longer text grows as strings do

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

}  // namespace

Request::Request(std::vector<int64_t> prompt, const SamplingOptions& options, std::size_t limit,
                 std::vector<int64_t> ends, std::size_t vocab_size, Decodes& tokenizer)
    : prompt_ids(std::move(prompt)), max_new_tokens(limit), end_token_ids(std::move(ends)),
      sampler(options, vocab_size), stream(tokenizer, options.stop) {
    sampler.see_prompt(prompt_ids);
    token_ids.reserve(limit);
    text.reserve(limit * kTextBytes);
}

void Request::advance(const float* logits, bool cancelled) {
    const int64_t token = sampler.choose(logits);
    token_ids.push_back(token);
    if (std::find(end_token_ids.begin(), end_token_ids.end(), token) != end_token_ids.end()) {
        finish_reason = FinishReason::stop;
    } else if (token_ids.size() >= max_new_tokens) {
        finish_reason = FinishReason::length;
    } else if (cancelled) {
        finish_reason = FinishReason::cancelled;
    }
    const std::size_t before = text.size();
    stream.push(token, text);
    if (finish_reason) {
        stream.finish(text);
    }
    if (stream.stopped()) {
        finish_reason = FinishReason::stop;
    }
    piece = std::string_view(text).substr(before);
}

std::unique_ptr<Request> admit(std::vector<int64_t> prompt_ids, const SamplingOptions& options,
                               std::size_t context_length, std::vector<int64_t> end_token_ids, std::size_t vocab_size,
                               Decodes& tokenizer) {
    const std::size_t prompt = prompt_ids.size();
    if (prompt == 0) {
        throw Error(ErrorCode::generation, "the prompt has no tokens", "give some text");
    }
    for (const int64_t id : prompt_ids) {
        if (id < 0 || static_cast<std::size_t>(id) >= vocab_size) {
            throw Error(ErrorCode::generation, "token id " + std::to_string(id) + "; the vocabulary has 0 to " +
                                                   std::to_string(vocab_size - 1));
        }
    }
    const auto wanted = static_cast<std::size_t>(options.max_new_tokens.value_or(1));
    if (prompt >= context_length || wanted > context_length - prompt) {
        const bool given = options.max_new_tokens.has_value();
        throw Error(ErrorCode::generation,
                    "a prompt of " + std::to_string(prompt) + " tokens and " +
                        (given ? "max_new_tokens " + std::to_string(wanted) : "at least 1 new token") + " make " +
                        std::to_string(prompt + wanted) + "; the model's context is " + std::to_string(context_length),
                    given ? "shorten the prompt, or lower max_new_tokens" : "shorten the prompt");
    }
    const std::size_t limit = options.max_new_tokens ? wanted : context_length - prompt;
    auto ends = options.stop_token_ids;
    if (!options.ignore_eos) {
        ends.insert(ends.end(), end_token_ids.begin(), end_token_ids.end());
    }
    return std::make_unique<Request>(std::move(prompt_ids), options, limit, std::move(ends), vocab_size, tokenizer);
}

void run(Engine& engine, const std::vector<Request*>& requests, const std::atomic<bool>& cancelled,
         const OnPiece& on_piece) {
    auto started = Clock::now();
    double work_s = 0.0;
    std::vector<Request*> rows = requests;
    std::vector<const std::vector<int64_t>*> prompts;
    std::vector<int64_t> newest;
    std::vector<std::size_t> alive;
    std::size_t most = 0;
    for (auto* request : rows) {
        if (!on_piece) {
            request->stream.wait(request->max_new_tokens);
        }
        prompts.push_back(&request->prompt_ids);
        most = std::max(most, request->max_new_tokens);
    }
    newest.reserve(rows.size());
    alive.reserve(rows.size());
    const float* logits = engine.prefill(prompts, most);
    while (true) {
        for (std::size_t row = 0; row < rows.size(); ++row) {
            rows[row]->advance(logits + row * engine.vocab_size(), cancelled);
        }
        work_s += seconds_since(started);
        for (auto* request : rows) {
            request->last_token_s = work_s;
            request->first_token_s = request->token_ids.size() == 1 ? work_s : request->first_token_s;
        }
        if (on_piece && !on_piece({rows[0]->piece, rows[0]->token_ids.back()}) && !rows[0]->finish_reason) {
            rows[0]->finish_reason = FinishReason::cancelled;
        }
        started = Clock::now();
        alive.clear();
        for (std::size_t row = 0; row < rows.size(); ++row) {
            if (!rows[row]->finish_reason) {
                alive.push_back(row);
            }
        }
        if (alive.empty()) {
            return;
        }
        if (alive.size() < rows.size()) {
            engine.keep(alive);
            for (std::size_t place = 0; place < alive.size(); ++place) {
                rows[place] = rows[alive[place]];
            }
            rows.resize(alive.size());
        }
        newest.clear();
        for (const auto* request : rows) {
            newest.push_back(request->token_ids.back());
        }
        logits = engine.decode(newest);
    }
}

Completion completion(const Request& request) {
    Completion answer;
    answer.text = request.text;
    answer.token_ids = request.token_ids;
    answer.finish_reason = request.finish_reason.value_or(FinishReason::cancelled);
    answer.prompt_tokens = request.prompt_ids.size();
    answer.timings.time_to_first_token_s = request.first_token_s;
    const auto later = static_cast<double>(request.token_ids.size()) - 1.0;
    if (later > 0) {
        answer.timings.time_per_output_token_s = (request.last_token_s - request.first_token_s) / later;
    }
    return answer;
}

}  // namespace ovround
