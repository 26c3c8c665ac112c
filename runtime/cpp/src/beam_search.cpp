#include "beam_search.hpp"

#include <chrono>
#include <cmath>

#include "logprobs.hpp"

namespace ovround {
namespace {

using Clock = std::chrono::steady_clock;

struct Answer {
    double score = 0.0;  // the sum of log-probabilities; for a closed answer, divided by its length to the penalty
    std::vector<int64_t> token_ids;
};

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Scores of all answers that are one token longer, [B, V], in float64.
void extend_scores(const float* logits, std::size_t vocab_size, const std::vector<Answer>& answers,
                   std::vector<double>& scores) {
    scores.assign(logits, logits + answers.size() * vocab_size);
    for (std::size_t row = 0; row < answers.size(); ++row) {
        double* values = scores.data() + row * vocab_size;
        const double best = *std::max_element(values, values + vocab_size);
        double sum = 0.0;
        for (std::size_t token = 0; token < vocab_size; ++token) {
            values[token] -= best;
            sum += std::exp(values[token]);
        }
        if (!std::isfinite(sum)) {
            refuse_logits();
        }
        const double whole = std::log(sum);
        for (std::size_t token = 0; token < vocab_size; ++token) {
            values[token] = answers[row].score + (values[token] - whole);
        }
    }
}

class Search {
public:
    Search(Engine& engine, Request& request) : engine_(engine), request_(request), running_(1) {}

    // Appends one token to each answer; returns whether the search continues.
    bool step(const float* logits, double length) {
        const std::size_t beams = request_.beams;
        const std::size_t size = engine_.vocab_size();
        const double worth = std::pow(length, request_.length_penalty);
        extend_scores(logits, size, running_, scores_);
        std::vector<Answer> running;
        rows_.clear();
        newest_.clear();
        const auto places = largest_indices(scores_, beams + beams * request_.distinct_end_tokens());
        for (std::size_t rank = 0; rank < places.size(); ++rank) {
            const auto token = static_cast<int64_t>(places[rank] % size);
            const bool ends = request_.is_end(token);
            if (ends ? rank >= beams : running.size() == beams) {
                continue;
            }
            Answer answer = running_[places[rank] / size];
            answer.token_ids.push_back(token);
            answer.score = ends ? scores_[places[rank]] / worth : scores_[places[rank]];
            if (ends) {
                closed_.push_back(std::move(answer));
            } else {
                rows_.push_back(places[rank] / size);
                newest_.push_back(token);
                running.push_back(std::move(answer));
            }
        }
        running_ = std::move(running);
        std::stable_sort(closed_.begin(), closed_.end(),
                         [](const Answer& a, const Answer& b) { return a.score > b.score; });
        closed_.resize(std::min(closed_.size(), beams));
        return !running_.empty() && (closed_.size() < beams || running_[0].score / worth > closed_.back().score);
    }

    const float* decode() {
        engine_.keep(rows_);
        return engine_.decode(newest_);
    }

    // Ends the search early.
    void close_all(double length) {
        const double worth = std::pow(length, request_.length_penalty);
        for (auto& answer : running_) {
            answer.score /= worth;
            closed_.push_back(std::move(answer));
        }
    }

    const std::vector<int64_t>& best() const {
        return std::max_element(closed_.begin(), closed_.end(),
                                [](const Answer& a, const Answer& b) { return a.score < b.score; })
            ->token_ids;
    }

private:
    Engine& engine_;
    Request& request_;
    std::vector<Answer> running_;
    std::vector<Answer> closed_;
    std::vector<double> scores_;     // [B, V]
    std::vector<std::size_t> rows_;  // the rows of the cache that the unfinished answers continue
    std::vector<int64_t> newest_;    // the last tokens of the unfinished answers
};

}  // namespace

void beam_search(Engine& engine, Request& request, const std::atomic<bool>& cancelled) {
    const auto started = Clock::now();
    engine.reset();
    const float* logits = engine.prefill({&request.prompt_ids}, request.max_new_tokens);
    request.first_token_s = seconds_since(started);
    Search search(engine, request);
    bool stopped = false;
    for (std::size_t length = 1; search.step(logits, static_cast<double>(length)); ++length) {
        stopped = cancelled;
        if (length == request.max_new_tokens || stopped) {
            search.close_all(static_cast<double>(length));
            break;
        }
        logits = search.decode();
    }
    request.take(search.best());
    const bool ended = request.is_end(request.token_ids.back());
    request.finish_reason = ended ? FinishReason::stop : stopped ? FinishReason::cancelled : FinishReason::length;
    request.last_token_s = seconds_since(started);
}

}  // namespace ovround
