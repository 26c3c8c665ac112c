// OpenVINO: the stateful IR that ovround and optimum-intel write. The contract is that of runtime/engines/openvino.py.
//
// Inputs `input_ids`, `attention_mask` and perhaps `position_ids` i64 [B, T], `beam_idx` i32 [B]; output `logits` f32
// [B, T, V]. An added input sets the first position whose logits are computed. The KV cache is in the graph's
// variables. A batch is padded on the left. Dropped tokens are masked like padding, and removed when they are most of
// the cache, or at once where a layer has a sliding window, which counts columns. `beam_idx` is the row of the last
// step that each row continues. A variable of fixed size, such as a recurrent state, goes back to a copy, and the
// tokens after it are computed again.
#pragma once

#include <map>
#include <openvino/openvino.hpp>
#include <set>

#include "engine.hpp"
#include "state_history.hpp"

namespace ovround {

class OpenVinoEngine final : public Engine {
public:
    OpenVinoEngine(ov::Core& core, const std::filesystem::path& folder, const LoadOptions& options);

    std::size_t vocab_size() const override { return vocab_size_; }
    const std::string& device() const override { return device_; }
    bool native() const override { return native_; }
    const std::string& warning() const override { return warning_; }
    void reset() override;
    const float* prefill(const std::vector<const std::vector<int64_t>*>& prompts, std::size_t new_tokens) override;
    const float* decode(const std::vector<int64_t>& ids) override;
    const float* extend(const std::vector<int64_t>& ids) override;
    void rewind(std::size_t length) override;
    void keep(const std::vector<std::size_t>& rows) override;

private:
    // A tensor of the request that is filled for every step, with capacity for its largest shape.
    struct Input {
        ov::Tensor tensor;
        ov::Shape shape;
    };
    struct Row {
        std::vector<uint8_t> held;  // [S]: 0 for padding and dropped tokens
        int64_t count = 0;          // number of tokens
        int32_t source = 0;         // the last step's row that this one continues
    };

    using States = std::map<std::string, ov::Tensor>;  // by the name of the variable

    void begin(std::size_t rows);
    void copy_states(Moment moment);
    void drop(std::size_t length);
    void make_room(std::size_t rows, std::size_t columns, std::size_t length);
    void give_inputs();
    void infer(std::size_t columns, int64_t first);
    void write_mask();
    void grow(Row& row, std::size_t columns, std::size_t padding, int64_t* positions);
    void cut(const std::vector<uint8_t>& used);
    void need_whole(const char* why) const;

    std::size_t vocab_size_ = 0;
    std::string device_;
    bool native_ = false;
    std::string warning_;
    bool has_positions_ = false;
    bool whole_ = true;            // the number of rows, positions and lengths is free
    bool windowed_ = false;        // a layer has a sliding window
    std::set<std::string> fixed_;  // the variables of fixed size
    StateHistory<States> history_;
    ov::CompiledModel compiled_;
    ov::InferRequest request_;
    Input ids_;         // i64 [B, T]
    Input mask_;        // i64 [B, S]
    Input positions_;   // i64 [B, T]
    Input beams_;       // i32 [B]
    ov::Tensor first_;  // i64 [1]: the first position of the step whose logits are computed
    ov::Tensor logits_;
    std::size_t rows_room_ = 0;
    std::size_t columns_room_ = 0;
    std::size_t length_room_ = 0;
    std::size_t length_ = 0;  // S
    std::vector<Row> rows_;   // [B]
    std::vector<Row> spare_;
};

}  // namespace ovround
