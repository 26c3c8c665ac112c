// ONNX Runtime's library, opened when it is needed, since its wheel has no name that a linker could use.
#pragma once

#include <onnxruntime_c_api.h>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ovround/ovround.hpp"

namespace ovround {

template <typename T>
using OrtPointer = std::unique_ptr<T, void (*)(T*)>;

class OnnxRuntime {
public:
    // Error(engine) where there is no library, or an older one than the headers that this was built with.
    OnnxRuntime();

    const OrtApi& api() const { return *api_; }
    const std::string& version() const { return version_; }

    // A session of the model at `path`; with `exact` every MatMulNBits computes on float32 activations. `entries` are
    // ONNX Runtime's own keys. Error(artifact) for what cannot be read.
    OrtPointer<OrtSession> open(const std::filesystem::path& path, bool exact, int threads,
                                const std::vector<std::pair<std::string, std::string>>& entries) const;
    // A tensor over memory that the caller owns.
    OrtPointer<OrtValue> tensor(void* data, std::size_t size_bytes, const int64_t* shape, std::size_t dimensions,
                                ONNXTensorElementDataType type) const;
    // Throws what `status` says as an Error of `code`, behind `what`.
    void check(OrtStatus* status, ErrorCode code, const std::string& what) const;

private:
    const OrtApi* api_;
    std::string version_;
    OrtPointer<OrtEnv> env_;
    OrtPointer<OrtMemoryInfo> memory_;
};

}  // namespace ovround
