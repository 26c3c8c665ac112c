// How the next token is chosen from logits: docs/concepts/sampling.md, step by step.
#pragma once

#include <cstdint>
#include <vector>

#include "ovround/ovround.hpp"
#include "random_source.hpp"

namespace ovround {

// Throws Error(usage) naming the field, its value, and what is allowed.
void check_options(const SamplingOptions& options);

// One request's choices. Its buffers are as long as the vocabulary from the start: `choose` allocates nothing.
class Sampler {
public:
    Sampler(const SamplingOptions& options, std::size_t vocab_size);

    // Remember tokens of the prompt, for the repetition penalty.
    void see_prompt(const std::vector<int64_t>& ids);
    // The next token of logits [V], which counts as part of the answer from then on.
    int64_t choose(const float* logits);

private:
    double adjusted(float logit, std::size_t token) const;
    void keep_top_k();
    void keep_top_p();
    void keep_min_p();

    SamplingOptions options_;
    Xoshiro256 source_;
    std::vector<double> scores_;   // [V]
    std::vector<double> weights_;  // [V], of kept_
    std::vector<double> scratch_;  // [V]
    std::vector<int64_t> kept_;    // ids, ascending
    std::vector<int64_t> order_;   // [V]
    std::vector<float> biased_;    // [V], empty without logit_bias
    std::vector<int64_t> counts_;  // [V], of the answer
    std::vector<uint8_t> seen_;    // [V], of prompt and answer
};

}  // namespace ovround
