// How a model whose state has a fixed size goes back: from a copy of that state, by the tokens that follow it. The twin
// of runtime/engines/state_history.py, for the only row of a cache.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace ovround {

// When a copy is made: after a prompt, where a chat's next one often parts from the answer; before guessed tokens.
enum class Moment : std::size_t { prompt, guess };

template <typename State>
class StateHistory {
public:
    struct Copy {
        bool made = false;
        std::size_t length = 0;  // tokens before the copy was made
        State state;
    };

    void clear() {
        ids_.clear();
        for (auto& copy : copies_) {
            copy.made = false;
        }
    }
    void reserve(std::size_t tokens) { ids_.reserve(tokens); }
    void append(const int64_t* ids, std::size_t count) { ids_.insert(ids_.end(), ids, ids + count); }
    const std::vector<int64_t>& ids() const { return ids_; }

    // The copy of this moment, whose state the caller writes; it is one of what the engine has now.
    State& copied(Moment moment) {
        Copy& copy = copies_[static_cast<std::size_t>(moment)];
        copy.made = true;
        copy.length = ids_.size();
        return copy.state;
    }

    // Keeps the first `length` tokens; returns the longest copy within them, or null.
    const Copy* back(std::size_t length) {
        ids_.resize(length);
        const Copy* longest = nullptr;
        for (auto& copy : copies_) {
            copy.made = copy.made && copy.length <= length;
            if (copy.made && (longest == nullptr || copy.length > longest->length)) {
                longest = &copy;
            }
        }
        return longest;
    }

private:
    std::vector<int64_t> ids_;
    std::array<Copy, 2> copies_;
};

}  // namespace ovround
