// Chooses the next token from logits, in the steps of docs/concepts/sampling.md.
#pragma once

#include <cstdint>
#include <vector>

#include "ovround/ovround.hpp"
#include "random_source.hpp"

namespace ovround {

// Throws Error(usage) that names the field, its value, and the allowed values.
void check_options(const SamplingOptions& options);

// The index of the first largest of logits [V], or of the first NaN.
int64_t likeliest(const float* logits, std::size_t vocab_size);

// Throws Error(generation).
[[noreturn]] void refuse_logits();

// The sampler of one request. Its buffers have the vocabulary's size from the start, so `choose` allocates nothing.
// Buffers that the options do not need are empty; greedy sampling without penalties reads the logits once, in place.
class Sampler {
public:
    Sampler(const SamplingOptions& options, std::size_t vocab_size);

    // Records tokens of the prompt, for the repetition penalty.
    void see_prompt(const std::vector<int64_t>& ids);
    // Chooses the next token from logits [V] and adds it to the answer. The bits `allowed` [V / 32] are set for tokens
    // that a grammar allows; null allows all.
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
    std::vector<double> weights_;  // [V], for kept_, with a temperature
    std::vector<double> scratch_;  // [V], with a temperature
    std::vector<int64_t> kept_;    // ids, ascending, with a temperature
    std::vector<int64_t> order_;   // [V], with a temperature
    std::vector<float> biased_;    // [V], with logit_bias or a grammar
    std::vector<int64_t> counts_;  // [V], for the answer, with penalties
    std::vector<uint8_t> seen_;    // [V], for prompt and answer, with penalties
};

}  // namespace ovround
