// Expands weights of the native operator to plain constants if its library is missing, as
// runtime/engines/native/operator.py does. ovround/tensors/native_layout.py defines their layout.
#pragma once

#include <openvino/openvino.hpp>
#include <string>

namespace ovround {

// Makes `core` able to read models with such weights.
void add_placeholder(ov::Core& core);

// Replaces each native node by a product with constants: codebooks and affine integers become float16, other integers
// the same in 4 bits. Returns a message about the cost. Throws Error(artifact) for a damaged weight.
std::string expand_weights(ov::Model& model, const std::string& path);

}  // namespace ovround
