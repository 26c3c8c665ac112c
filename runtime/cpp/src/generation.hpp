// The generation loop: prefill, choose, decode, choose, ... and the text of each answer as it grows.
//
// Two loops give the same tokens: `run_batch` for rows side by side, `run_row` for one request on a cache that is kept,
// with guesses that are judged in one step.
#pragma once

#include <atomic>

#include "grammar.hpp"
#include "sampling.hpp"
#include "speculation.hpp"
#include "text_stream.hpp"

namespace ovround {

// One request's state.
struct Request {
    Request(std::vector<int64_t> prompt, const SamplingOptions& options, std::size_t limit, std::vector<int64_t> ends,
            std::size_t vocab_size, Decodes& tokenizer, std::unique_ptr<Matcher> form);

    // Append the token that follows, of logits [V], an end token included, and its text.
    void advance(const float* logits, bool cancelled);
    // Have these tokens, and their text: a request that ended without steps between.
    void take(const std::vector<int64_t>& ids);
    bool is_end(int64_t token) const;
    std::size_t distinct_end_tokens() const { return end_token_ids.size(); }

    std::vector<int64_t> prompt_ids;
    std::size_t max_new_tokens;
    std::vector<int64_t> end_token_ids;  // ascending, each once
    std::size_t vocab_size;
    std::size_t beams;
    double length_penalty;
    std::optional<std::size_t> logprobs_count;
    std::optional<std::size_t> prompt_logprobs_count;
    Sampler sampler;
    TextStream stream;
    std::unique_ptr<Matcher> matcher;  // null: any answer will do
    std::vector<int64_t> token_ids;
    std::vector<TokenLogprobs> logprobs;
    std::vector<TokenLogprobs> prompt_logprobs;
    std::string text;
    std::string_view piece;  // the end of `text` that the newest token completed
    std::optional<FinishReason> finish_reason;
    std::size_t cached_tokens = 0;
    std::size_t drafted_tokens = 0;
    std::size_t accepted_tokens = 0;
    double first_token_s = 0.0;  // of work since the loop began
    double last_token_s = 0.0;
};

// Error(generation) for no ids, or one that the vocabulary does not have.
void check_ids(const std::vector<int64_t>& ids, std::size_t vocab_size);

// A request that fits the context; Error(generation), with both numbers, for one that does not.
std::unique_ptr<Request> admit(std::vector<int64_t> prompt_ids, const SamplingOptions& options,
                               std::size_t context_length, std::vector<int64_t> end_token_ids, std::size_t vocab_size,
                               Decodes& tokenizer, std::unique_ptr<Matcher> form);

// Run a batch until every request has a finish_reason.
void run_batch(Engine& engine, const std::vector<Request*>& requests, const std::atomic<bool>& cancelled);

// Run one request on `row`, which keeps its tokens. What the row already holds of the prompt is not computed again,
// unless its logits are asked for. `proposer` may be null.
void run_row(KVCacheSlot& row, Request& request, const std::atomic<bool>& cancelled, const OnPiece& on_piece,
             Proposer* proposer, std::size_t draft_tokens);

Completion completion(const Request& request);

}  // namespace ovround
