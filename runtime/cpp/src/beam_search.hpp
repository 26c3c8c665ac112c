// Beam search: several answers grow side by side, and the likeliest is chosen, by transformers' ranking.
#pragma once

#include "generation.hpp"

namespace ovround {

// Give `request` its tokens and finish_reason.
//
// The `num_beams` likeliest unfinished answers stay at each step; one that an end token closes is worth its sum of
// log-probabilities over its length to `length_penalty`. The search ends when no unfinished answer, were it closed now,
// is worth more than the worst of `num_beams` closed ones (transformers' `early_stopping=False`).
void beam_search(Engine& engine, Request& request, const std::atomic<bool>& cancelled);

}  // namespace ovround
