// Models with `QuantizedLinear` nodes, which the library of runtime/native computes; docs/concepts/native-operator.md.
#pragma once

#include <openvino/openvino.hpp>

#include "ovround/ovround.hpp"

namespace ovround {

constexpr const char* kNativeOperator = "QuantizedLinear";

// What becomes of the weights for the operator in a model.
enum class NativeWeights { none, computed, expanded };

// Where the model at `path` has such weights, give `core` the library, or let it read them so that they can be
// expanded. Error(engine) where neither is wanted or possible.
NativeWeights prepare_native(ov::Core& core, const std::filesystem::path& path, const std::string& device,
                             const LoadOptions& options);

// Why weights on `device` were expanded, for people.
std::string expansion_warning(const std::filesystem::path& path, const std::string& device, const std::string& cost);

// Let the operator compute on float32.
void make_exact(ov::Model& model);

}  // namespace ovround
