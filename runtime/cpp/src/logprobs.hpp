// Log-probabilities of tokens: of the model's own distribution, before penalties, temperature and constraints.
#pragma once

#include "ovround/ovround.hpp"

namespace ovround {

// From logits [V], in float64: what `token_id` has, and the `count` likeliest tokens.
TokenLogprobs token_logprobs(const float* logits, std::size_t vocab_size, int64_t token_id, std::size_t count);

// The `count` largest of `values`, downwards, lower places first among equals.
std::vector<std::size_t> largest_indices(const std::vector<double>& values, std::size_t count);

}  // namespace ovround
