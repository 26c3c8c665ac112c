// An engine's cache as one row of known tokens; the beginning that a new prompt shares with it is not computed again.
#pragma once

#include "engine.hpp"

namespace ovround {

// One row of an engine's cache. After any other use of the engine, call `forget` first. After an error the cache is
// unknown, and the next prompt starts with an empty one.
class KVCacheSlot {
public:
    explicit KVCacheSlot(Engine& engine) : engine_(engine) {}

    Engine& engine() { return engine_; }
    // Hold exactly `prompt`; returns logits [V] after it. `shared` is the number of its tokens that were already there.
    const float* start(const std::vector<int64_t>& prompt, std::size_t new_tokens, std::size_t& shared);
    // `start` with an empty cache, and with the log-probabilities of the tokens after the first and the `count`
    // likeliest.
    const float* start_scored(const std::vector<int64_t>& prompt, std::size_t new_tokens, std::size_t count,
                              std::vector<TokenLogprobs>& scored);
    // Append tokens; returns logits [T, V] after each of them.
    const float* append(const std::vector<int64_t>& ids);
    // Keep only the first `length` tokens, at least 1.
    void rewind(std::size_t length);
    // The next prompt starts with an empty cache.
    void forget() { ids_.clear(); }

private:
    Engine& engine_;
    std::vector<int64_t> ids_;
};

}  // namespace ovround
