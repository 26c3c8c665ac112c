// The generation loop: prefill, choose, decode, choose, ... and the text of each answer as it grows.
//
// Two loops give the same tokens: `run_batch` for several requests side by side, `run_row` for one request that keeps
// its cache and may use speculative decoding.
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

    // Choose the next token from logits [V], append it (also an end token), and its text.
    void advance(const float* logits, bool cancelled);
    // Take these tokens and their text: the answer of a beam search.
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
    std::unique_ptr<Matcher> matcher;  // null: unconstrained
    std::vector<int64_t> token_ids;
    std::vector<TokenLogprobs> logprobs;
    std::vector<TokenLogprobs> prompt_logprobs;
    std::string text;
    std::string_view piece;  // the end of `text` that the newest token completed
    std::optional<FinishReason> finish_reason;
    std::size_t cached_tokens = 0;
    std::size_t drafted_tokens = 0;
    std::size_t accepted_tokens = 0;
    double first_token_s = 0.0;  // seconds of computation since the loop began
    double last_token_s = 0.0;
};

// Throws Error(generation) without ids, or for an id outside the vocabulary.
void check_ids(const std::vector<int64_t>& ids, std::size_t vocab_size);

// A new request; throws Error(generation), with both numbers, for one that does not fit the context.
std::unique_ptr<Request> admit(std::vector<int64_t> prompt_ids, const SamplingOptions& options,
                               std::size_t context_length, std::vector<int64_t> end_token_ids, std::size_t vocab_size,
                               Decodes& tokenizer, std::unique_ptr<Matcher> form);

// Run a batch until every request has a finish_reason.
void run_batch(Engine& engine, const std::vector<Request*>& requests, const std::atomic<bool>& cancelled);

// Run one request on `row`, which keeps its tokens. Tokens of the prompt that the row already holds are not computed
// again, unless prompt_logprobs are requested. `proposer` may be null.
void run_row(KVCacheSlot& row, Request& request, const std::atomic<bool>& cancelled, const OnPiece& on_piece,
             Proposer* proposer, std::size_t draft_tokens);

Completion completion(const Request& request);

}  // namespace ovround
