// Speculative decoding: cheap guesses at the next tokens, which the model then judges all in one step.
//
// A guess stands when the model, choosing as it always does, chooses the same token. So the answer is what it would be
// without guesses, greedy or drawn from a seed: guesses change how long it takes, nothing else.
#pragma once

#include "kv_cache_slot.hpp"

namespace ovround {

class Proposer {
public:
    Proposer() = default;
    virtual ~Proposer() = default;
    Proposer(const Proposer&) = delete;
    Proposer& operator=(const Proposer&) = delete;

    // Append at most `count` tokens that may follow `ids`, prompt and answer so far, to `guesses`; none is allowed.
    virtual void propose(const std::vector<int64_t>& ids, std::size_t count, std::vector<int64_t>& guesses) = 0;
};

// What followed the last time that the text ended like this (Saxena, 2023: prompt lookup decoding).
class PromptLookup final : public Proposer {
public:
    void propose(const std::vector<int64_t>& ids, std::size_t count, std::vector<int64_t>& guesses) override;
};

// A smaller model with the same tokenizer, greedy (Leviathan et al., 2023). Of its logits the first `vocab_size` count,
// those of the model that judges.
class DraftModel final : public Proposer {
public:
    DraftModel(std::unique_ptr<Engine> engine, std::size_t context_length, std::size_t vocab_size);
    void propose(const std::vector<int64_t>& ids, std::size_t count, std::vector<int64_t>& guesses) override;

private:
    std::unique_ptr<Engine> engine_;
    KVCacheSlot row_;
    std::size_t context_length_;
    std::size_t vocab_size_;
    std::vector<int64_t> step_;
};

}  // namespace ovround
