// What a generation needs of an engine; the contract is that of runtime/engine.py, for as much as is used here.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "ovround/ovround.hpp"

namespace ovround {

// After an error nothing is known of the cache until `reset`.
class Engine {
public:
    Engine() = default;
    virtual ~Engine() = default;
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    virtual std::size_t vocab_size() const = 0;
    virtual const std::string& device() const = 0;  // where the model runs, for people
    virtual const std::string& warning() const {    // what loading had to say, for people; often empty
        static const std::string none;
        return none;
    }

    // Forget the cache; the next call starts a new batch.
    virtual void reset() = 0;
    // Append each prompt to its row; an empty cache gets a row a prompt. Logits [B, V] of what follows its last token,
    // good until the next call. About `new_tokens` more tokens a row follow, so that room is made once.
    virtual const float* prefill(const std::vector<const std::vector<int64_t>*>& prompts, std::size_t new_tokens) = 0;
    // Logits [B, V] after one more token a row. Allocates nothing outside of the engine's own library.
    virtual const float* decode(const std::vector<int64_t>& ids) = 0;
    // Append T tokens to the only row, which an empty cache gets: logits [T, V] of what follows each.
    virtual const float* extend(const std::vector<int64_t>& ids) = 0;
    // Forget what the only row holds beyond its first `length` tokens, at least 1.
    virtual void rewind(std::size_t length) = 0;
    // Go on with these rows only, in this order; a row named twice is there twice from then on.
    virtual void keep(const std::vector<std::size_t>& rows) = 0;
};

// For Engine::keep: of `values`, `width` for each row, those of the chosen rows; `spare` is what memory is swapped
// with.
template <typename T>
void choose_rows(std::vector<T>& values, const std::vector<std::size_t>& rows, std::size_t width,
                 std::vector<T>& spare) {
    spare.resize(rows.size() * width);
    for (std::size_t index = 0; index < rows.size(); ++index) {
        const auto from = values.begin() + static_cast<std::ptrdiff_t>(rows[index] * width);
        std::copy(from, from + static_cast<std::ptrdiff_t>(width),
                  spare.begin() + static_cast<std::ptrdiff_t>(index * width));
    }
    values.swap(spare);
}

}  // namespace ovround
