#include "sampling.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

namespace ovround {
namespace {

uint64_t fresh_seed() {
    std::random_device device;
    return (static_cast<uint64_t>(device()) << 32) | device();
}

bool has_penalties(const SamplingOptions& options) {
    return options.repetition_penalty != 1.0 || options.presence_penalty != 0.0 || options.frequency_penalty != 0.0;
}

// The index of the first largest of `count` values, or of the first NaN. Blocks without a larger value are skipped at
// once, in a form that compilers vectorize.
std::size_t largest(const float* values, std::size_t count) {
    constexpr std::size_t kRun = 16;
    std::size_t best = 0;
    for (std::size_t start = 0; start < count; start += kRun) {
        const std::size_t end = std::min(start + kRun, count);
        if (end - start == kRun) {
            unsigned more = 0;
            for (std::size_t index = 0; index < kRun; ++index) {
                more |= static_cast<unsigned>(!(values[start + index] <= values[best]));
            }
            if (more == 0) {
                continue;
            }
        }
        for (std::size_t token = start; token < end; ++token) {
            if (std::isnan(values[token])) {
                return token;
            }
            best = values[token] > values[best] ? token : best;
        }
    }
    return best;
}

}  // namespace

int64_t likeliest(const float* logits, std::size_t vocab_size) {
    return static_cast<int64_t>(largest(logits, vocab_size));
}

void refuse_logits() {
    throw Error(ErrorCode::generation, "the model's logits are not finite",
                "try exact mode, or convert with more bits");
}

Sampler::Sampler(const SamplingOptions& options, std::size_t vocab_size)
    : options_(options), source_(options.seed ? *options.seed : fresh_seed()), vocab_size_(vocab_size) {
    if (has_penalties(options)) {
        counts_.resize(vocab_size);
        seen_.resize(vocab_size);
    }
    if (has_penalties(options) || options.temperature > 0.0) {
        scores_.resize(vocab_size);
    }
    if (options.temperature > 0.0) {
        weights_.resize(vocab_size);
        scratch_.resize(vocab_size);
        kept_.reserve(vocab_size);
        order_.reserve(vocab_size);
    }
    if (!options.logit_bias.empty() || options.grammar) {
        biased_.resize(vocab_size);
    }
}

void Sampler::see_prompt(const std::vector<int64_t>& ids) {
    if (!seen_.empty()) {
        for (const int64_t id : ids) {
            seen_[static_cast<std::size_t>(id)] = 1;
        }
    }
}

// Penalties of the answer are rounded to float32, as in numpy; all later steps use float64.
double Sampler::adjusted(float logit, std::size_t token) const {
    if (counts_[token] != 0 && (options_.presence_penalty != 0.0 || options_.frequency_penalty != 0.0)) {
        const double taken =
            static_cast<double>(static_cast<float>(options_.presence_penalty)) +
            static_cast<double>(static_cast<float>(options_.frequency_penalty)) * static_cast<double>(counts_[token]);
        logit = static_cast<float>(static_cast<double>(logit) - taken);
    }
    double score = static_cast<double>(logit);
    if (options_.repetition_penalty != 1.0 && seen_[token] != 0) {
        score = score > 0.0 ? score / options_.repetition_penalty : score * options_.repetition_penalty;
    }
    return score;
}

const float* Sampler::biased(const float* logits, const uint32_t* allowed) {
    if (biased_.empty()) {
        return logits;
    }
    std::copy_n(logits, biased_.size(), biased_.begin());
    for (const auto& [token, bias] : options_.logit_bias) {
        if (static_cast<std::size_t>(token) < biased_.size()) {  // an id beyond the vocabulary has no effect
            biased_[static_cast<std::size_t>(token)] += static_cast<float>(bias);
        }
    }
    for (std::size_t token = 0; allowed != nullptr && token < biased_.size(); ++token) {
        if ((allowed[token / 32] >> token % 32 & 1U) == 0) {
            biased_[token] = -std::numeric_limits<float>::infinity();
        }
    }
    return biased_.data();
}

std::size_t Sampler::best_adjusted(const float* logits) {
    std::size_t best = 0;
    for (std::size_t token = 0; token < scores_.size(); ++token) {
        scores_[token] = adjusted(logits[token], token);
        if (std::isnan(scores_[token])) {
            return token;
        }
        best = scores_[token] > scores_[best] ? token : best;
    }
    return best;
}

int64_t Sampler::choose(const float* logits, const uint32_t* allowed) {
    logits = biased(logits, allowed);
    const bool adjusts = !counts_.empty();
    const std::size_t best = adjusts ? best_adjusted(logits) : largest(logits, vocab_size_);
    if (!std::isfinite(adjusts ? scores_[best] : static_cast<double>(logits[best]))) {
        refuse_logits();
    }
    auto chosen = static_cast<int64_t>(best);
    if (options_.temperature > 0.0) {
        if (!adjusts) {
            std::copy_n(logits, vocab_size_, scores_.begin());
        }
        chosen = draw(best);
    }
    if (adjusts) {
        seen_[static_cast<std::size_t>(chosen)] = 1;
        ++counts_[static_cast<std::size_t>(chosen)];
    }
    return chosen;
}

// Draws a token from scores_, of which `best` is the largest.
int64_t Sampler::draw(std::size_t best) {
    for (double& score : scores_) {
        score /= options_.temperature;
    }
    keep_top_k();
    const double most = scores_[best];
    for (std::size_t index = 0; index < kept_.size(); ++index) {
        weights_[index] = std::exp(scores_[static_cast<std::size_t>(kept_[index])] - most);
    }
    if (options_.top_p < 1.0) {
        keep_top_p();
    }
    if (options_.min_p > 0.0) {
        keep_min_p();
    }
    std::partial_sum(weights_.begin(), weights_.begin() + static_cast<std::ptrdiff_t>(kept_.size()), scratch_.begin());
    const auto end = scratch_.begin() + static_cast<std::ptrdiff_t>(kept_.size());
    const auto draw = std::upper_bound(scratch_.begin(), end, source_.uniform() * *(end - 1));
    return kept_[static_cast<std::size_t>(std::min(draw, end - 1) - scratch_.begin())];
}

// Keeps the k largest, lower ids first for equal values; 0 keeps all.
void Sampler::keep_top_k() {
    const std::size_t size = scores_.size();
    kept_.resize(size);
    std::iota(kept_.begin(), kept_.end(), 0);
    if (options_.top_k == 0 || static_cast<std::size_t>(options_.top_k) >= size) {
        return;
    }
    const auto k = static_cast<std::size_t>(options_.top_k);
    scratch_ = scores_;
    const auto kth = scratch_.begin() + static_cast<std::ptrdiff_t>(k - 1);
    std::nth_element(scratch_.begin(), kth, scratch_.end(), std::greater<>());
    const double least = *kth;
    const auto above = static_cast<std::size_t>(
        std::count_if(scores_.begin(), scores_.end(), [least](double score) { return score > least; }));
    std::size_t equals = k - above;
    std::size_t count = 0;
    for (std::size_t id = 0; id < size; ++id) {
        const bool equal = scores_[id] == least && equals > 0;
        if (scores_[id] > least || equal) {
            kept_[count++] = static_cast<int64_t>(id);
            equals -= equal ? 1 : 0;
        }
    }
    kept_.resize(count);
}

// Keeps the fewest tokens, by descending score, whose weights reach top_p of the sum.
void Sampler::keep_top_p() {
    const double total =
        std::accumulate(weights_.begin(), weights_.begin() + static_cast<std::ptrdiff_t>(kept_.size()), 0.0);
    // The weights below half of (1 - top_p) * mean cannot be needed to reach top_p, so they are not sorted.
    const double least =
        options_.top_p < 1.0 - 1e-6 ? (1.0 - options_.top_p) * total / static_cast<double>(kept_.size()) / 2.0 : 0.0;
    order_.clear();
    for (std::size_t index = 0; index < kept_.size(); ++index) {
        if (weights_[index] >= least) {
            order_.push_back(static_cast<int64_t>(index));
        }
    }
    const auto score = [this](int64_t index) {
        return scores_[static_cast<std::size_t>(kept_[static_cast<std::size_t>(index)])];
    };
    std::sort(order_.begin(), order_.end(),
              [&](int64_t a, int64_t b) { return score(a) != score(b) ? score(a) > score(b) : a < b; });
    double sum = 0.0;
    std::size_t count = 0;
    while (count < order_.size()) {
        sum += weights_[static_cast<std::size_t>(order_[count++])];
        if (sum >= options_.top_p * total) {
            break;
        }
    }
    order_.resize(count);
    std::sort(order_.begin(), order_.end());
    for (std::size_t index = 0; index < count; ++index) {  // order_ ascends: a value is read before it is overwritten
        const auto from = static_cast<std::size_t>(order_[index]);
        kept_[index] = kept_[from];
        weights_[index] = weights_[from];
    }
    kept_.resize(count);
}

void Sampler::keep_min_p() {
    const double largest =
        *std::max_element(weights_.begin(), weights_.begin() + static_cast<std::ptrdiff_t>(kept_.size()));
    std::size_t count = 0;
    for (std::size_t index = 0; index < kept_.size(); ++index) {
        if (weights_[index] >= options_.min_p * largest) {
            kept_[count] = kept_[index];
            weights_[count++] = weights_[index];
        }
    }
    kept_.resize(count);
}

}  // namespace ovround
