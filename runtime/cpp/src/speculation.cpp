#include "speculation.hpp"

#include "sampling.hpp"

namespace ovround {
namespace {

constexpr std::size_t kLongest = 3;  // longest suffix of the text that is searched for

}  // namespace

void PromptLookup::propose(const std::vector<int64_t>& ids, std::size_t count, std::vector<int64_t>& proposed) {
    for (std::size_t size = std::min(kLongest, ids.size() - 1); size > 0; --size) {
        const auto tail = ids.end() - static_cast<std::ptrdiff_t>(size);
        const auto match = std::find_end(ids.begin(), ids.end() - 1, tail, ids.end());
        if (match != ids.end() - 1) {
            const auto first = match + static_cast<std::ptrdiff_t>(size);
            const auto most = std::min(count, static_cast<std::size_t>(ids.end() - first));
            proposed.insert(proposed.end(), first, first + static_cast<std::ptrdiff_t>(most));
            return;
        }
    }
}

DraftModel::DraftModel(std::unique_ptr<Engine> engine, std::size_t context_length, std::size_t vocab_size)
    : engine_(std::move(engine)), row_(*engine_), context_length_(context_length),
      vocab_size_(std::min(vocab_size, engine_->vocab_size())), step_(1) {}

void DraftModel::propose(const std::vector<int64_t>& ids, std::size_t count, std::vector<int64_t>& proposed) {
    if (ids.size() > context_length_) {
        return;
    }
    count = std::min(count, context_length_ + 1 - ids.size());  // the last guess is never appended to the cache
    if (count == 0) {
        return;
    }
    std::size_t shared = 0;
    const float* logits = row_.start(ids, count, shared);
    while (true) {
        step_[0] = likeliest(logits, vocab_size_);
        proposed.push_back(step_[0]);
        if (--count == 0) {
            return;
        }
        logits = row_.append(step_);
    }
}

}  // namespace ovround
