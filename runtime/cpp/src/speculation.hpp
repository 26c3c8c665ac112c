// Speculative decoding: a cheap proposal of the next tokens, which the model verifies in one step.
//
// A proposed token is accepted when the model chooses the same token. The answer is therefore the same as without
// proposals, both greedy and with a seed; only the time changes.
#pragma once

#include "kv_cache_slot.hpp"

namespace ovround {

class Proposer {
public:
    Proposer() = default;
    virtual ~Proposer() = default;
    Proposer(const Proposer&) = delete;
    Proposer& operator=(const Proposer&) = delete;

    // Append at most `count` tokens that may follow `ids`, the prompt and answer so far, to `proposed`; possibly none.
    virtual void propose(const std::vector<int64_t>& ids, std::size_t count, std::vector<int64_t>& proposed) = 0;
};

// The tokens that followed the last earlier occurrence of the text's end (Saxena, 2023: prompt lookup decoding).
class PromptLookup final : public Proposer {
public:
    void propose(const std::vector<int64_t>& ids, std::size_t count, std::vector<int64_t>& proposed) override;
};

// Greedy proposals of a smaller model with the same tokenizer (Leviathan et al., 2023). Only its first `vocab_size`
// logits count: the vocabulary of the verifying model.
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
