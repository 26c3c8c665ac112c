// ONNX Runtime's library, loaded when it is needed: the name in its wheel is not one that a linker can use.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "onnxruntime_abi.hpp"
#include "ovround/ovround.hpp"

namespace ovround {

template <typename T>
using OrtPointer = std::unique_ptr<T, void (*)(T*)>;

class OnnxRuntime {
public:
    // Throws Error(engine) if there is no library, or one older than 1.17.
    OnnxRuntime();

    const OrtApi& api() const { return *api_; }
    const std::string& version() const { return version_; }

    // A session for the model at `path`; with `exact` every MatMulNBits computes on float32 activations. `entries` are
    // ONNX Runtime's own keys. Throws Error(artifact) if the model cannot be read.
    // Sets `native` if the model has nodes of the native operator.
    OrtPointer<OrtSession> open(const std::filesystem::path& path, bool exact, int threads,
                                const std::vector<std::pair<std::string, std::string>>& entries, bool& native) const;
    // A tensor over memory that it does not own.
    OrtPointer<OrtValue> tensor(void* data, std::size_t size_bytes, const int64_t* shape, std::size_t dimensions,
                                ONNXTensorElementDataType type) const;
    // Throws the message of `status` as an Error of `code`, after `what`.
    void check(OrtStatus* status, ErrorCode code, const std::string& what) const;

private:
    // Makes the native operator known to the session, if its library is beside this one; returns whether it is.
    bool register_operator(OrtSessionOptions* options) const;

    const OrtApi* api_;
    const OrtApiBase* base_ = nullptr;
    std::string version_;
    OrtPointer<OrtEnv> env_;
    OrtPointer<OrtMemoryInfo> memory_;
};

}  // namespace ovround
