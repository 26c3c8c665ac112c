// The engine's interface for generation; its contract is the used part of runtime/engine.py.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "ovround/ovround.hpp"

namespace ovround {

// After an error the state of the cache is undefined until `reset`.
class Engine {
public:
    Engine() = default;
    virtual ~Engine() = default;
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    virtual std::size_t vocab_size() const = 0;
    virtual const std::string& device() const = 0;  // readable name of the device
    // Whether the native operator multiplies quantised weights, and not the engine's own kernels.
    virtual bool native() const = 0;
    virtual const std::string& warning() const {  // a readable warning from loading; often empty
        static const std::string none;
        return none;
    }

    // Clears the cache; the next call starts a new batch.
    virtual void reset() = 0;
    // Appends each prompt to its row; an empty cache gets one row for each prompt. Logits [B, V] after the last token,
    // valid until the next call. About `new_tokens` more tokens a row follow, so that memory is allocated once.
    virtual const float* prefill(const std::vector<const std::vector<int64_t>*>& prompts, std::size_t new_tokens) = 0;
    // Appends one token to each row: logits [B, V]. Allocates nothing outside of the engine's own library.
    virtual const float* decode(const std::vector<int64_t>& ids) = 0;
    // Appends T tokens to the only row (an empty cache gets one): logits [T, V] after each of them.
    virtual const float* extend(const std::vector<int64_t>& ids) = 0;
    // Truncates the only row to its first `length` tokens, at least 1.
    virtual void rewind(std::size_t length) = 0;
    // Keeps only these rows, in this order; a row that is named twice is duplicated.
    virtual void keep(const std::vector<std::size_t>& rows) = 0;
};

// For Engine::keep: reorders `values`, `width` for each row, to the chosen rows; `spare` is a buffer that it swaps
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
