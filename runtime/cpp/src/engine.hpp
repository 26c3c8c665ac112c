// The interface between the generation loop and an engine: the part of runtime/engine.py that the C++ runtime uses.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "ovround/ovround.hpp"

namespace ovround {

// After an error the cache is unknown until `reset`.
class Engine {
public:
    Engine() = default;
    virtual ~Engine() = default;
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    virtual std::size_t vocab_size() const = 0;
    virtual const std::string& device() const = 0;  // engine and device in words
    virtual const std::string& warning() const {    // warning of the loading; often empty
        static const std::string none;
        return none;
    }

    // Clear the cache; the next call starts a new batch.
    virtual void reset() = 0;
    // Append each prompt to its row; an empty cache gets one row per prompt. Returns logits [B, V] after the last
    // token, valid until the next call. About `new_tokens` more tokens per row follow; the engine reserves room for
    // them.
    virtual const float* prefill(const std::vector<const std::vector<int64_t>*>& prompts, std::size_t new_tokens) = 0;
    // Logits [B, V] after one more token per row. Allocates nothing outside the engine's own library.
    virtual const float* decode(const std::vector<int64_t>& ids) = 0;
    // Append T tokens to the only row (an empty cache gets it); returns logits [T, V] after each.
    virtual const float* extend(const std::vector<int64_t>& ids) = 0;
    // Shorten the only row to its first `length` tokens, at least 1.
    virtual void rewind(std::size_t length) = 0;
    // Replace the batch by these rows, in this order; a row may occur more than once.
    virtual void keep(const std::vector<std::size_t>& rows) = 0;
};

// For Engine::keep: the `values` of the chosen rows, `width` per row; `spare` is memory to swap with.
template <typename T>
void choose_rows(std::vector<T>& values, const std::vector<std::size_t>& rows, std::size_t width,
                 std::vector<T>& spare) {
    spare.resize(rows.size() * width);
    for (std::size_t place = 0; place < rows.size(); ++place) {
        const auto from = values.begin() + static_cast<std::ptrdiff_t>(rows[place] * width);
        std::copy(from, from + static_cast<std::ptrdiff_t>(width),
                  spare.begin() + static_cast<std::ptrdiff_t>(place * width));
    }
    values.swap(spare);
}

}  // namespace ovround
