// Log-probabilities of tokens in the model's own distribution, before penalties, temperature and grammar.
#pragma once

#include "ovround/ovround.hpp"

namespace ovround {

// Log-probability of `token_id` and of the `count` likeliest tokens, from logits [V], in float64.
TokenLogprobs token_logprobs(const float* logits, std::size_t vocab_size, int64_t token_id, std::size_t count);

// The `count` largest of `values`, downwards, lower places first among equals.
std::vector<std::size_t> largest_places(const std::vector<double>& values, std::size_t count);

}  // namespace ovround
