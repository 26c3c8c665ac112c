// OpenVINO: the stateful IR that ovround and optimum-intel write. The contract is that of runtime/engines/openvino.py.
//
// Inputs `input_ids`, `attention_mask` and perhaps `position_ids` i64 [B, T], `beam_idx` i32 [B]; output `logits` f32
// [B, T, V], of which only the last position is computed. The KV cache lies in the graph's variables. A batch is
// padded on the left; `beam_idx` says which row of the last step each row continues.
#pragma once

#include <openvino/openvino.hpp>

#include "engine.hpp"

namespace ovround {

class OpenVinoEngine final : public Engine {
public:
    OpenVinoEngine(ov::Core& core, const std::filesystem::path& folder, const LoadOptions& options);

    std::size_t vocab_size() const override { return vocab_size_; }
    const std::string& device() const override { return device_; }
    const float* prefill(const std::vector<const std::vector<int64_t>*>& prompts, std::size_t new_tokens) override;
    const float* decode(const std::vector<int64_t>& ids) override;
    void keep(const std::vector<std::size_t>& rows) override;

private:
    // A tensor of the request that is filled anew for every step, with room for its largest shape.
    struct Input {
        ov::Tensor tensor;
        ov::Shape shape;
    };

    void begin(std::size_t rows, std::size_t columns, std::size_t room);
    void make_inputs(std::size_t rows, std::size_t columns, std::size_t room);
    void infer(std::size_t columns);
    void write_mask();
    void write_positions(std::size_t columns);

    std::size_t vocab_size_ = 0;
    std::string device_;
    bool has_positions_ = false;
    ov::CompiledModel compiled_;
    ov::InferRequest request_;
    Input ids_;        // i64 [B, T]
    Input mask_;       // i64 [B, length]
    Input positions_;  // i64 [B, T]
    Input beams_;      // i32 [B]
    ov::Tensor logits_;
    std::vector<int64_t> paddings_;  // [B]: columns of the cache, from the left, without a token
    std::vector<int32_t> rows_;      // [B]: the last step's row that each row continues
    std::size_t length_ = 0;         // columns of the cache
};

// The last line of an OpenVINO message; those before it say where in its sources it was. Throws std::bad_alloc where
// that is what the message is about.
std::string reason(const std::exception& error);

}  // namespace ovround
