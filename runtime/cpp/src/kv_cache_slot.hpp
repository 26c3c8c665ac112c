// An engine's cache as one row of known tokens: what a new prompt shares with it need not be computed again.
#pragma once

#include "engine.hpp"

namespace ovround {

// The only user of its engine's cache as long as it is used; `clear` after anybody else was there. After an error
// nothing is known of the cache, and the next prompt starts with an empty one.
class KVCacheSlot {
public:
    explicit KVCacheSlot(Engine& engine) : engine_(engine) {}

    Engine& engine() { return engine_; }
    // Hold exactly `prompt`: logits [V] of what follows. `shared` is how many of its tokens were there already.
    const float* start(const std::vector<int64_t>& prompt, std::size_t new_tokens, std::size_t& shared);
    // `start` from an empty cache, with the log-probabilities of the tokens after the first, and the `count` likeliest.
    const float* start_scored(const std::vector<int64_t>& prompt, std::size_t new_tokens, std::size_t count,
                              std::vector<TokenLogprobs>& scored);
    // Logits [T, V] of what follows each of the new tokens.
    const float* append(const std::vector<int64_t>& ids);
    // Hold the first `length` tokens only, at least 1.
    void rewind(std::size_t length);
    // The next prompt starts with an empty cache.
    void forget() { ids_.clear(); }

private:
    Engine& engine_;
    std::vector<int64_t> ids_;
};

}  // namespace ovround
