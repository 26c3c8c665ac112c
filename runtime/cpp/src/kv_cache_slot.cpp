#include "kv_cache_slot.hpp"

#include "logprobs.hpp"

namespace ovround {
namespace {

constexpr std::size_t kPiece = 128;  // tokens whose logits are in memory at once: 75 MB for a vocabulary of 150,000

}  // namespace

const float* KVCacheSlot::start(const std::vector<int64_t>& prompt, std::size_t new_tokens, std::size_t& shared) {
    const auto differs = std::mismatch(ids_.begin(), ids_.end(), prompt.begin(), prompt.end()).first;
    shared = std::min(static_cast<std::size_t>(differs - ids_.begin()), prompt.size() - 1);  // the last needs logits
    if (shared == 0) {
        engine_.reset();
    } else {
        rewind(shared);
    }
    ids_.clear();  // empty until the engine has succeeded
    ids_.reserve(prompt.size() + new_tokens);
    const std::vector<int64_t> rest(prompt.begin() + static_cast<std::ptrdiff_t>(shared), prompt.end());
    const float* logits = engine_.prefill({&rest}, new_tokens);
    ids_ = prompt;
    return logits;
}

const float* KVCacheSlot::start_scored(const std::vector<int64_t>& prompt, std::size_t new_tokens, std::size_t count,
                                       std::vector<TokenLogprobs>& scored) {
    const std::size_t size = engine_.vocab_size();
    engine_.reset();
    ids_.clear();
    ids_.reserve(prompt.size() + new_tokens);
    const float* last = nullptr;
    for (std::size_t start = 0; start < prompt.size(); start += kPiece) {
        const std::size_t end = std::min(start + kPiece, prompt.size());
        const float* logits = append(
            {prompt.begin() + static_cast<std::ptrdiff_t>(start), prompt.begin() + static_cast<std::ptrdiff_t>(end)});
        for (std::size_t index = start; index < end && index + 1 < prompt.size(); ++index) {
            scored.push_back(token_logprobs(logits + (index - start) * size, size, prompt[index + 1], count));
        }
        last = logits + (end - start - 1) * size;
    }
    return last;
}

const float* KVCacheSlot::append(const std::vector<int64_t>& ids) {
    std::vector<int64_t> held;
    held.swap(ids_);
    // Several tokens need the logits of each; for one token `decode` is faster, but it needs a row, which an empty
    // cache does not have.
    const float* logits = ids.size() == 1 && !held.empty() ? engine_.decode(ids) : engine_.extend(ids);
    held.insert(held.end(), ids.begin(), ids.end());
    ids_.swap(held);
    return logits;
}

void KVCacheSlot::rewind(std::size_t length) {
    if (length < ids_.size()) {
        std::vector<int64_t> held;
        held.swap(ids_);
        engine_.rewind(length);
        held.resize(length);
        ids_.swap(held);
    }
}

}  // namespace ovround
