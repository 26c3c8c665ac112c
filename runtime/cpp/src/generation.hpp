// The generation loop: prefill, choose, decode, choose, ... of rows side by side, and the text of each as it grows.
#pragma once

#include <atomic>

#include "engine.hpp"
#include "sampling.hpp"
#include "text_stream.hpp"

namespace ovround {

// One request's state.
struct Request {
    Request(std::vector<int64_t> prompt, const SamplingOptions& options, std::size_t limit, std::vector<int64_t> ends,
            std::size_t vocab_size, Decodes& tokenizer);

    // Append the token that follows, of logits [V], an end token included, and its text.
    void advance(const float* logits, bool cancelled);

    std::vector<int64_t> prompt_ids;
    std::size_t max_new_tokens;
    std::vector<int64_t> end_token_ids;
    Sampler sampler;
    TextStream stream;
    std::vector<int64_t> token_ids;
    std::string text;
    std::string_view piece;  // the end of `text` that the newest token completed
    std::optional<FinishReason> finish_reason;
    double first_token_s = 0.0;  // of work since the loop began
    double last_token_s = 0.0;
};

// A request that fits the context; Error(generation), with both numbers, for one that does not.
std::unique_ptr<Request> admit(std::vector<int64_t> prompt_ids, const SamplingOptions& options,
                               std::size_t context_length, std::vector<int64_t> end_token_ids, std::size_t vocab_size,
                               Decodes& tokenizer);

// Run a batch until every request has a finish_reason. `on_piece` is for a batch of one.
void run(Engine& engine, const std::vector<Request*>& requests, const std::atomic<bool>& cancelled,
         const OnPiece& on_piece);

Completion completion(const Request& request);

}  // namespace ovround
