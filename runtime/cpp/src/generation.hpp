// The generation loop: prefill, choose, decode, choose, ... while the text of each answer grows.
//
// Two loops generate the same tokens: `run_batch` for several rows in parallel, and `run_row` for one request with a
// reusable cache and speculation.
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

    // Appends the next token, chosen from logits [V], and its text; an end token is appended too.
    void advance(const float* logits, bool cancelled);
    // Sets all tokens and their text at once, for a request that ends without single steps.
    void take(const std::vector<int64_t>& ids);
    bool is_end(int64_t token) const;
    std::size_t distinct_end_tokens() const { return end_token_ids.size(); }

    std::vector<int64_t> prompt_ids;
    std::size_t max_new_tokens;
    std::vector<int64_t> end_token_ids;  // ascending, without duplicates
    std::size_t vocab_size;
    std::size_t beams;
    bool seeded;  // drawn by the random numbers of a seed
    double length_penalty;
    std::optional<std::size_t> logprobs_count;
    std::optional<std::size_t> prompt_logprobs_count;
    Sampler sampler;
    TextStream stream;
    std::unique_ptr<Matcher> matcher;  // null: no constraint
    std::vector<int64_t> token_ids;
    std::vector<TokenLogprobs> logprobs;
    std::vector<TokenLogprobs> prompt_logprobs;
    std::string text;
    std::string_view piece;  // the part of `text` that the newest token completed
    std::optional<FinishReason> finish_reason;
    std::size_t cached_tokens = 0;
    std::size_t drafted_tokens = 0;
    std::size_t accepted_tokens = 0;
    double first_token_s = 0.0;  // seconds of work since the start of the loop
    double last_token_s = 0.0;
};

// Throws Error(generation) for an empty list of ids, or an id outside of the vocabulary.
void check_ids(const std::vector<int64_t>& ids, std::size_t vocab_size);

// Creates a request that fits the context; otherwise throws Error(generation) with both numbers.
std::unique_ptr<Request> admit(std::vector<int64_t> prompt_ids, const SamplingOptions& options,
                               std::size_t context_length, std::vector<int64_t> end_token_ids, std::size_t vocab_size,
                               Decodes& tokenizer, std::unique_ptr<Matcher> form);

// Runs a batch until every request has a finish_reason.
void run_batch(Engine& engine, const std::vector<Request*>& requests, const std::atomic<bool>& cancelled);

// Runs one request on `row`, which keeps its tokens. The common prefix of row and prompt is not computed again unless
// its logits are requested. `proposer` may be null.
void run_row(KVCacheSlot& row, Request& request, const std::atomic<bool>& cancelled, const OnPiece& on_piece,
             Proposer* proposer, std::size_t draft_tokens);

Completion completion(const Request& request);

}  // namespace ovround
