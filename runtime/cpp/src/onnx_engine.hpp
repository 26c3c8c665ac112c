// ONNX Runtime by its C API, on the CPU, for decoders that ovround and onnxruntime-genai's builder write. The contract
// is that of runtime/engines/onnx.py: inputs `input_ids`, `attention_mask` i64, `past_key_values.%d.key/value` [B,
// H_kv, S, D]; outputs `logits` f32 [B, T, V] and `present.%d.key/value`.
//
// Past and present share one buffer, which is updated in place. Rows are prefilled one by one, each at its own
// location, and decoded together, each at its own length; no prompt is padded. A state of fixed size,
// `past_state.%d.NAME` [B, ...], has two buffers, since a graph may read it after it has written it. It goes back to a
// copy, and the tokens after it are computed again.
#pragma once

#include "engine.hpp"
#include "onnx_contract.hpp"
#include "onnx_runtime.hpp"
#include "state_history.hpp"

namespace ovround {

class OnnxEngine final : public Engine {
public:
    OnnxEngine(const std::filesystem::path& folder, const LoadOptions& options);

    std::size_t vocab_size() const override { return vocab_size_; }
    const std::string& device() const override { return device_; }
    bool native() const override { return native_; }
    void reset() override;
    const float* prefill(const std::vector<const std::vector<int64_t>*>& prompts, std::size_t new_tokens) override;
    const float* decode(const std::vector<int64_t>& ids) override;
    const float* extend(const std::vector<int64_t>& ids) override;
    void rewind(std::size_t length) override;
    void keep(const std::vector<std::size_t>& rows) override;

private:
    // A state of the graph with the buffer that holds it.
    struct Cache : OnnxState {
        std::vector<char> bytes{};
        std::vector<char> written{};                           // of a fixed state: what a run leaves
        OrtPointer<OrtValue> value{nullptr, nullptr};          // a tensor over all rows
        OrtPointer<OrtValue> written_value{nullptr, nullptr};  // the same of `written`
    };

    std::size_t row_bytes(const Cache& cache) const;
    void bind_rows();
    void make_room(std::size_t tokens);
    std::vector<OrtPointer<OrtValue>> bind_row(std::size_t row);
    void extend_row(std::size_t row, const int64_t* ids, std::size_t count);
    OrtPointer<OrtValue> matrix(std::vector<int64_t>& values, std::size_t rows) const;
    OrtPointer<OrtValue> logits(std::vector<float>& values, std::size_t rows, std::size_t tokens) const;
    void run(std::size_t first_row, std::size_t rows);
    void copy_states(Moment moment);
    OrtPointer<OrtValue> over(std::vector<char>& bytes, const Cache& cache, std::size_t row, std::size_t rows) const;

    OnnxRuntime runtime_;
    OrtPointer<OrtSession> session_{nullptr, nullptr};
    std::size_t context_length_ = 0;
    std::size_t vocab_size_ = 0;
    std::string device_;
    bool native_ = false;
    std::vector<Cache> caches_;
    bool has_fixed_ = false;
    StateHistory<std::vector<std::vector<char>>> history_;  // of the fixed ones of caches_, in their order
    std::vector<const char*> inputs_;                       // input_ids, attention_mask, then the caches
    std::vector<const char*> outputs_;                      // logits, then the caches
    std::vector<OrtValue*> in_;                             // inputs of the next run, in the order of inputs_
    std::vector<OrtValue*> out_;                            // in the order of outputs_
    OrtPointer<OrtValue> step_ids_{nullptr, nullptr};       // i64 [B, 1], over ids_
    OrtPointer<OrtValue> step_logits_{nullptr, nullptr};    // f32 [B, 1, V], over logits_
    std::size_t room_ = 0;                                  // S
    std::vector<std::size_t> lengths_;                      // [B]: tokens in each row
    std::vector<int64_t> ids_;                              // [B, T]
    std::vector<int64_t> mask_;                             // [B, longest row]
    std::vector<float> logits_;                             // [B, V] of the last position
    std::vector<float> positions_;                          // [T, V] of a piece of a prompt
    std::vector<char> spare_;                               // spare buffer that is swapped with a cache's
    std::vector<std::size_t> spare_lengths_;
};

}  // namespace ovround
