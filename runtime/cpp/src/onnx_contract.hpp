// What an ONNX decoder states about itself: the caches that it reads and writes, and how many logits it gives.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "onnx_runtime.hpp"

namespace ovround {

// One layer's keys or values, [B, heads, S, head_size], or a state of fixed size, [B, ...].
struct OnnxState {
    std::string past;
    std::string present;
    std::vector<int64_t> shape;  // of a row; 0 stands for S
    ONNXTensorElementDataType type;

    bool fixed() const;
};

struct OnnxContract {
    std::vector<OnnxState> states;
    std::size_t vocab_size = 0;
};

// Throws Error(artifact) for another model than a decoder as onnxruntime-genai's builder writes them for CPU. The head
// size is taken from `stated_head_size` where the graph leaves it open.
OnnxContract read_contract(const OnnxRuntime& runtime, const OrtSession* session, const std::filesystem::path& path,
                           int64_t stated_head_size);

}  // namespace ovround
