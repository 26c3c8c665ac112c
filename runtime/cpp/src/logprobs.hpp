// Log-probabilities of tokens by the model's own distribution, before penalties, temperature and constraints.
#pragma once

#include "ovround/ovround.hpp"

namespace ovround {

// Computes from logits [V], in float64, the log-probability of `token_id` and the `count` likeliest tokens.
TokenLogprobs token_logprobs(const float* logits, std::size_t vocab_size, int64_t token_id, std::size_t count);

// The indices of the `count` largest values, descending; lower indices first for equal values.
std::vector<std::size_t> largest_indices(const std::vector<double>& values, std::size_t count);

}  // namespace ovround
