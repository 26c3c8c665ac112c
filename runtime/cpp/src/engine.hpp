// OpenVINO: the stateful IR that ovround and optimum-intel write. The contract is that of runtime/engines/openvino.py.
//
// Inputs `input_ids`, `attention_mask` and perhaps `position_ids` i64 [B, T], `beam_idx` i32 [B]; output `logits` f32
// [B, T, V], of which only the last position is computed. The KV cache lives in the graph's variables. A batch is
// padded on the left; `beam_idx` says which row of the last step each row continues.
#pragma once

#include <openvino/openvino.hpp>

#include "ovround/ovround.hpp"

namespace ovround {

class Engine {
public:
    Engine(ov::Core& core, const std::filesystem::path& folder, const LoadOptions& options);

    std::size_t vocab_size() const { return vocab_size_; }
    const std::string& device() const { return device_; }

    // Logits [B, V] of what follows the prompts, which start a new batch; good until the next call.
    const float* prefill(const std::vector<const std::vector<int64_t>*>& prompts);
    // Logits [B, V] after one more token a row.
    const float* decode(const std::vector<int64_t>& ids);
    // Go on with these rows only.
    void keep(const std::vector<std::size_t>& rows);

private:
    const float* infer(std::size_t columns);

    std::size_t vocab_size_ = 0;
    std::string device_;
    bool has_positions_ = false;
    ov::CompiledModel compiled_;
    ov::InferRequest request_;
    std::vector<int64_t> paddings_;  // [B]: columns of the cache, from the left, without a token
    std::vector<int32_t> rows_;      // [B]: the last step's row that each row continues
    std::size_t length_ = 0;         // columns of the cache
};

// The last line of an OpenVINO message; those before it say where in its sources it was.
std::string reason(const std::exception& error);

}  // namespace ovround
