// What a generation needs of an engine; the contract is that of runtime/engine.py, for as much as is used here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "ovround/ovround.hpp"

namespace ovround {

class Engine {
public:
    Engine() = default;
    virtual ~Engine() = default;
    Engine(const Engine&) = delete;
    Engine& operator=(const Engine&) = delete;

    virtual std::size_t vocab_size() const = 0;
    virtual const std::string& device() const = 0;  // where the model runs, for people

    // Logits [B, V] of what follows the prompts, which start a new batch; good until the next call. At most
    // `new_tokens` steps of `decode` follow, so that room is made once.
    virtual const float* prefill(const std::vector<const std::vector<int64_t>*>& prompts, std::size_t new_tokens) = 0;
    // Logits [B, V] after one more token a row. Allocates nothing outside of the engine's own library.
    virtual const float* decode(const std::vector<int64_t>& ids) = 0;
    // Go on with these rows only, which ascend.
    virtual void keep(const std::vector<std::size_t>& rows) = 0;
};

}  // namespace ovround
