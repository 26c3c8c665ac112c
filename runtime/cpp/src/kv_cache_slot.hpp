// One row of an engine's cache with known tokens; a prefix that a new prompt shares with it is not computed again.
#pragma once

#include "engine.hpp"

namespace ovround {

// It must be the only user of its engine's cache; call `clear` after any other use. After an error the cache is
// undefined, and the next prompt starts with an empty one.
class KVCacheSlot {
public:
    explicit KVCacheSlot(Engine& engine) : engine_(engine) {}

    Engine& engine() { return engine_; }
    // Sets the row to `prompt`: logits [V] after it. `shared` is the number of its tokens that were in the cache.
    const float* start(const std::vector<int64_t>& prompt, std::size_t new_tokens, std::size_t& shared);
    // As `start`, from an empty cache, with the log-probabilities of the tokens after the first and `count` likeliest.
    const float* start_scored(const std::vector<int64_t>& prompt, std::size_t new_tokens, std::size_t count,
                              std::vector<TokenLogprobs>& scored);
    // Appends tokens: logits [T, V] after each of them.
    const float* append(const std::vector<int64_t>& ids);
    // Truncates the row to its first `length` tokens, at least 1.
    void rewind(std::size_t length);
    // Makes the next prompt start with an empty cache.
    void forget() { ids_.clear(); }

private:
    Engine& engine_;
    std::vector<int64_t> ids_;
};

}  // namespace ovround
