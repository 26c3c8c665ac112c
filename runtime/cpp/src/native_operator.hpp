// Models with `QuantizedLinear` nodes, which runtime/native computes; see docs/concepts/native-operator.md.
#pragma once

#include <openvino/openvino.hpp>

#include "ovround/ovround.hpp"

namespace ovround {

constexpr const char* kNativeOperator = "QuantizedLinear";

// How the operator's weights in a model are used.
enum class NativeWeights { none, computed, expanded };

// `reason`: a readable reason for the expansion, which ends before its cost.
struct NativeChoice {
    NativeWeights weights = NativeWeights::none;
    std::string reason;
};

// If the model at `path` has such weights, loads the library into `core`, or prepares `core` to read them for
// expansion. Throws Error(engine) if neither is allowed, or if a library that `options` name cannot be loaded.
NativeChoice prepare_native(ov::Core& core, const std::filesystem::path& path, const std::string& device,
                            const LoadOptions& options);

// Makes the operator compute in float32.
void make_exact(ov::Model& model);

}  // namespace ovround
