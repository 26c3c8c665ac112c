#include "logprobs.hpp"

#include <algorithm>
#include <cmath>
#include <functional>

namespace ovround {

std::vector<std::size_t> largest_indices(const std::vector<double>& values, std::size_t count) {
    std::vector<std::size_t> heap;  // a heap with the lowest value first
    heap.reserve(count);
    const auto better = [&values](std::size_t a, std::size_t b) {
        return values[a] != values[b] ? values[a] > values[b] : a < b;
    };
    for (std::size_t id = 0; id < values.size() && count > 0; ++id) {
        if (heap.size() < count) {
            heap.push_back(id);
            std::push_heap(heap.begin(), heap.end(), better);
        } else if (values[id] > values[heap.front()]) {
            std::pop_heap(heap.begin(), heap.end(), better);
            heap.back() = id;
            std::push_heap(heap.begin(), heap.end(), better);
        }
    }
    std::sort_heap(heap.begin(), heap.end(), better);
    return heap;
}

TokenLogprobs token_logprobs(const float* logits, std::size_t vocab_size, int64_t token_id, std::size_t count) {
    std::vector<double> scores(logits, logits + vocab_size);
    const double best = *std::max_element(scores.begin(), scores.end());
    double sum = 0.0;
    for (const double score : scores) {
        sum += std::exp(score - best);
    }
    const double whole = best + std::log(sum);
    TokenLogprobs logprobs{token_id, scores[static_cast<std::size_t>(token_id)] - whole, {}};
    for (const std::size_t id : largest_indices(scores, count)) {
        logprobs.top.emplace_back(static_cast<int64_t>(id), scores[id] - whole);
    }
    return logprobs;
}

}  // namespace ovround
