// The choice of the next token from logits, in the steps of docs/concepts/sampling.md.
#pragma once

#include <cstdint>
#include <vector>

#include "ovround/ovround.hpp"
#include "random_source.hpp"

namespace ovround {

// Throws Error(usage) naming the field, its value, and what is allowed.
void check_options(const SamplingOptions& options);

// The first of the largest of logits [V], or the first that is no number.
int64_t likeliest(const float* logits, std::size_t vocab_size);

// Throws Error(generation).
[[noreturn]] void refuse_logits();

// One request's choices. Its buffers are as long as the vocabulary from the start: `choose` allocates nothing. Those
// that the options have no use for are empty; greedy without penalties reads the logits once, where they lie.
class Sampler {
public:
    Sampler(const SamplingOptions& options, std::size_t vocab_size);

    // Remember tokens of the prompt, for the repetition penalty.
    void see_prompt(const std::vector<int64_t>& ids);
    // The next token of logits [V], which counts as part of the answer from then on. Of the bits `allowed` [V / 32]
    // those of tokens that a grammar allows are set; null: all of them.
    int64_t choose(const float* logits, const uint32_t* allowed = nullptr);

private:
    const float* biased(const float* logits, const uint32_t* allowed);
    double adjusted(float logit, std::size_t token) const;
    std::size_t best_adjusted(const float* logits);
    int64_t draw(std::size_t best);
    void keep_top_k();
    void keep_top_p();
    void keep_min_p();

    SamplingOptions options_;
    Xoshiro256 source_;
    std::size_t vocab_size_;
    std::vector<double> scores_;   // [V], with penalties or a temperature
    std::vector<double> weights_;  // [V], of kept_, with a temperature
    std::vector<double> scratch_;  // [V], with a temperature
    std::vector<int64_t> kept_;    // ids, ascending, with a temperature
    std::vector<int64_t> order_;   // [V], with a temperature
    std::vector<float> biased_;    // [V], with logit_bias or a grammar
    std::vector<int64_t> counts_;  // [V], of the answer, with penalties
    std::vector<uint8_t> seen_;    // [V], of prompt and answer, with penalties
};

}  // namespace ovround
