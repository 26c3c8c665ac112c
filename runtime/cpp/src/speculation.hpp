// Speculative decoding: cheap guesses of the next tokens, which the model verifies in one step.
//
// A guess is accepted if the model, with its usual sampling, chooses the same token. So the answer is the same as
// without guesses, greedy or with a seed; only the speed changes.
#pragma once

#include "kv_cache_slot.hpp"

namespace ovround {

class Proposer {
public:
    Proposer() = default;
    virtual ~Proposer() = default;
    Proposer(const Proposer&) = delete;
    Proposer& operator=(const Proposer&) = delete;

    // Appends to `guesses` at most `count` tokens (or none) that may follow `ids`, the prompt and the answer so far.
    virtual void propose(const std::vector<int64_t>& ids, std::size_t count, std::vector<int64_t>& guesses) = 0;
};

// Guesses the tokens that followed the last occurrence of the text's end (Saxena, 2023: prompt lookup decoding).
class PromptLookup final : public Proposer {
public:
    void propose(const std::vector<int64_t>& ids, std::size_t count, std::vector<int64_t>& proposed) override;
};

// Guesses by a smaller model with the same tokenizer, greedily (Leviathan et al., 2023). Only the first `vocab_size` of
// its logits count, the number that the verifying model has.
class DraftModel final : public Proposer {
public:
    DraftModel(std::unique_ptr<Engine> engine, std::size_t context_length, std::size_t vocab_size);
    void propose(const std::vector<int64_t>& ids, std::size_t count, std::vector<int64_t>& proposed) override;

private:
    std::unique_ptr<Engine> engine_;
    KVCacheSlot row_;
    std::size_t context_length_;
    std::size_t vocab_size_;
    std::vector<int64_t> step_;
};

}  // namespace ovround
