// Models with `QuantizedLinear` nodes, which runtime/native computes; see docs/concepts/native-operator.md.
#pragma once

#include <openvino/openvino.hpp>

#include "ovround/ovround.hpp"

namespace ovround {

constexpr const char* kNativeOperator = "QuantizedLinear";

// How the operator's weights in a model are used.
enum class NativeWeights { none, computed, expanded };

// If the model at `path` has such weights, loads the library into `core`, or prepares `core` to read them for
// expansion. Throws Error(engine) if neither is allowed or possible.
NativeWeights prepare_native(ov::Core& core, const std::filesystem::path& path, const std::string& device,
                             const LoadOptions& options);

// A readable reason for the expansion of weights on `device`.
std::string expansion_warning(const std::filesystem::path& path, const std::string& device, const std::string& cost);

// Makes the operator compute in float32.
void make_exact(ov::Model& model);

}  // namespace ovround
