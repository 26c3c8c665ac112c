#include "generation.hpp"

#include <algorithm>
#include <chrono>

#include "logprobs.hpp"

namespace ovround {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kTextBytes = 16;  // memory reserved for each token's text; longer texts grow as strings do

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

void note_time(Request& request, double work_s) {
    request.last_token_s = work_s;
    if (request.token_ids.size() == 1) {
        request.first_token_s = work_s;
    }
}

// Logits [V] after the prompt.
const float* prompt_logits(KVCacheSlot& row, Request& request) {
    if (request.prompt_logprobs_count) {
        return row.start_scored(request.prompt_ids, request.max_new_tokens, *request.prompt_logprobs_count,
                                request.prompt_logprobs);
    }
    return row.start(request.prompt_ids, request.max_new_tokens, request.cached_tokens);
}

Piece newest_piece(const Request& request) {
    const bool first = request.token_ids.size() == 1;
    return {request.piece, request.token_ids.back(), request.logprobs_count ? &request.logprobs.back() : nullptr,
            first && request.prompt_logprobs_count ? &request.prompt_logprobs : nullptr};
}

}  // namespace

Request::Request(std::vector<int64_t> prompt, const SamplingOptions& options, std::size_t limit,
                 std::vector<int64_t> ends, std::size_t vocabulary, Decodes& tokenizer, std::unique_ptr<Matcher> form)
    : prompt_ids(std::move(prompt)), max_new_tokens(limit), end_token_ids(std::move(ends)), vocab_size(vocabulary),
      beams(static_cast<std::size_t>(options.num_beams)), seeded(options.seed.has_value() && options.temperature > 0),
      length_penalty(options.length_penalty), logprobs_count(options.logprobs),
      prompt_logprobs_count(options.prompt_logprobs), sampler(options, vocabulary), stream(tokenizer, options.stop),
      matcher(std::move(form)) {
    std::sort(end_token_ids.begin(), end_token_ids.end());
    end_token_ids.erase(std::unique(end_token_ids.begin(), end_token_ids.end()), end_token_ids.end());
    sampler.see_prompt(prompt_ids);
    token_ids.reserve(limit);
    text.reserve(limit * kTextBytes);
    if (logprobs_count) {
        logprobs.reserve(limit);
    }
}

bool Request::is_end(int64_t token) const {
    return std::binary_search(end_token_ids.begin(), end_token_ids.end(), token);
}

void Request::advance(const float* logits, bool cancelled) {
    const int64_t token = sampler.choose(logits, matcher ? matcher->allowed() : nullptr);
    if (logprobs_count) {
        logprobs.push_back(token_logprobs(logits, vocab_size, token, *logprobs_count));
    }
    token_ids.push_back(token);
    if (matcher) {
        matcher->accept(token);
    }
    if (is_end(token) || (matcher && matcher->ended())) {
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

void Request::take(const std::vector<int64_t>& ids) {
    token_ids = ids;
    stream.wait(ids.size());
    for (const int64_t id : ids) {
        stream.push(id, text);
    }
    stream.finish(text);
}

void check_ids(const std::vector<int64_t>& ids, std::size_t vocab_size) {
    if (ids.empty()) {
        throw Error(ErrorCode::generation, "the prompt has no tokens", "give some text");
    }
    for (const int64_t id : ids) {
        if (id < 0 || static_cast<std::size_t>(id) >= vocab_size) {
            throw Error(ErrorCode::generation, "token id " + std::to_string(id) + "; the vocabulary has 0 to " +
                                                   std::to_string(vocab_size - 1));
        }
    }
}

std::unique_ptr<Request> admit(std::vector<int64_t> prompt_ids, const SamplingOptions& options,
                               std::size_t context_length, std::vector<int64_t> end_token_ids, std::size_t vocab_size,
                               Decodes& tokenizer, std::unique_ptr<Matcher> form) {
    const std::size_t prompt = prompt_ids.size();
    check_ids(prompt_ids, vocab_size);
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
    return std::make_unique<Request>(std::move(prompt_ids), options, limit, std::move(ends), vocab_size, tokenizer,
                                     std::move(form));
}

void run_batch(Engine& engine, const std::vector<Request*>& requests, const std::atomic<bool>& cancelled) {
    const auto started = Clock::now();
    std::vector<Request*> rows = requests;
    std::vector<const std::vector<int64_t>*> prompts;
    std::vector<int64_t> newest;
    std::vector<std::size_t> alive;
    std::size_t most = 0;
    for (auto* request : rows) {
        request->stream.wait(request->max_new_tokens);
        prompts.push_back(&request->prompt_ids);
        most = std::max(most, request->max_new_tokens);
    }
    newest.reserve(rows.size());
    alive.reserve(rows.size());
    engine.reset();
    const float* logits = engine.prefill(prompts, most);
    while (true) {
        for (std::size_t row = 0; row < rows.size(); ++row) {
            rows[row]->advance(logits + row * engine.vocab_size(), cancelled);
        }
        const double work_s = seconds_since(started);
        alive.clear();
        for (std::size_t row = 0; row < rows.size(); ++row) {
            note_time(*rows[row], work_s);
            if (!rows[row]->finish_reason) {
                alive.push_back(row);
            }
        }
        if (alive.empty()) {
            return;
        }
        if (alive.size() < rows.size()) {
            engine.keep(alive);
            for (std::size_t index = 0; index < alive.size(); ++index) {
                rows[index] = rows[alive[index]];
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

void run_row(KVCacheSlot& row, Request& request, const std::atomic<bool>& cancelled, const OnPiece& on_piece,
             Proposer* proposer, std::size_t draft_tokens) {
    auto started = Clock::now();
    double work_s = 0.0;
    const std::size_t prompt = request.prompt_ids.size();
    std::vector<int64_t> text;  // prompt and answer, for the proposer
    std::vector<int64_t> step;  // the newest token, followed by guesses
    step.reserve(1 + draft_tokens);
    if (proposer != nullptr) {
        text.reserve(prompt + request.max_new_tokens);
        text = request.prompt_ids;
    }
    if (!on_piece) {
        request.stream.wait(request.max_new_tokens);
    }
    const float* logits = prompt_logits(row, request);
    while (true) {
        bool hit = true;
        for (std::size_t index = 0; hit && !request.finish_reason; ++index) {
            request.advance(logits + index * request.vocab_size, cancelled);
            hit = index + 1 < step.size() && request.token_ids.back() == step[index + 1];
            request.accepted_tokens += hit ? 1 : 0;
            work_s += seconds_since(started);
            note_time(request, work_s);
            if (on_piece && !on_piece(newest_piece(request)) && !request.finish_reason) {
                request.finish_reason = FinishReason::cancelled;
            }
            started = Clock::now();
        }
        row.rewind(prompt + request.token_ids.size() - 1);  // drop the rejected guesses
        if (request.finish_reason) {
            return;
        }
        step.assign(1, request.token_ids.back());
        if (proposer != nullptr) {
            text.insert(text.end(), request.token_ids.begin() + static_cast<std::ptrdiff_t>(text.size() - prompt),
                        request.token_ids.end());
            // the model's own token follows the proposed ones
            const std::size_t room = request.max_new_tokens - request.token_ids.size() - 1;
            proposer->propose(text, std::min(draft_tokens, room), step);
            request.drafted_tokens += step.size() - 1;
        }
        logits = row.append(step);
    }
}

Completion completion(const Request& request) {
    Completion answer;
    answer.text = request.text;
    answer.token_ids = request.token_ids;
    answer.finish_reason = request.finish_reason.value_or(FinishReason::cancelled);
    answer.usage = {request.prompt_ids.size(), request.token_ids.size(), request.cached_tokens, request.drafted_tokens,
                    request.accepted_tokens};
    if (request.logprobs_count) {
        answer.logprobs = request.logprobs;
    }
    if (request.prompt_logprobs_count) {
        answer.prompt_logprobs = request.prompt_logprobs;
    }
    answer.timings.time_to_first_token_s = request.first_token_s;
    const auto later = static_cast<double>(request.token_ids.size()) - 1.0;
    if (later > 0) {
        answer.timings.time_per_output_token_s = (request.last_token_s - request.first_token_s) / later;
    }
    return answer;
}

}  // namespace ovround
