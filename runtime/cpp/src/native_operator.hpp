// Models with `QuantizedLinear` nodes, which the library of runtime/native computes; docs/concepts/native-operator.md.
#pragma once

#include <openvino/openvino.hpp>

#include "ovround/ovround.hpp"

namespace ovround {

constexpr const char* kNativeOperator = "QuantizedLinear";

// Where the model at `path` needs it, give `core` the library: `given`, or the one beside libovround. Error(engine)
// where there is none, or for a device other than CPU.
void add_operator(ov::Core& core, const std::filesystem::path& path, const std::string& device,
                  const std::filesystem::path& given);

// Let the operator compute on float32.
void make_exact(ov::Model& model);

}  // namespace ovround
