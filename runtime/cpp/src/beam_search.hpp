// Beam search: extends several answers in parallel and returns the likeliest, with transformers' ranking.
#pragma once

#include "generation.hpp"

namespace ovround {

// Fills in the tokens and finish_reason of `request`.
//
// Each step keeps the `num_beams` likeliest unfinished answers. An end token closes an answer; its score is then the
// sum of log-probabilities divided by its length to `length_penalty`. The search ends when no unfinished answer, if it
// were closed now, would score higher than the worst of `num_beams` closed ones (transformers' `early_stopping=False`).
void beam_search(Engine& engine, Request& request, const std::atomic<bool>& cancelled);

}  // namespace ovround
