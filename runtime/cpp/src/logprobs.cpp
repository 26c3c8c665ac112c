#include "logprobs.hpp"

#include <algorithm>
#include <cmath>
#include <functional>

namespace ovround {

std::vector<std::size_t> largest_places(const std::vector<double>& values, std::size_t count) {
    std::vector<std::size_t> places;  // a heap, the worst first
    places.reserve(count);
    const auto better = [&values](std::size_t a, std::size_t b) {
        return values[a] != values[b] ? values[a] > values[b] : a < b;
    };
    for (std::size_t place = 0; place < values.size() && count > 0; ++place) {
        if (places.size() < count) {
            places.push_back(place);
            std::push_heap(places.begin(), places.end(), better);
        } else if (values[place] > values[places.front()]) {
            std::pop_heap(places.begin(), places.end(), better);
            places.back() = place;
            std::push_heap(places.begin(), places.end(), better);
        }
    }
    std::sort_heap(places.begin(), places.end(), better);
    return places;
}

TokenLogprobs token_logprobs(const float* logits, std::size_t vocab_size, int64_t token_id, std::size_t count) {
    std::vector<double> scores(logits, logits + vocab_size);
    const double best = *std::max_element(scores.begin(), scores.end());
    double sum = 0.0;
    for (const double score : scores) {
        sum += std::exp(score - best);
    }
    const double whole = best + std::log(sum);
    TokenLogprobs found{token_id, scores[static_cast<std::size_t>(token_id)] - whole, {}};
    for (const std::size_t place : largest_places(scores, count)) {
        found.top.emplace_back(static_cast<int64_t>(place), scores[place] - whole);
    }
    return found;
}

}  // namespace ovround
