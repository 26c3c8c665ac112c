// Weights for the native operator as plain constants, where its library is missing; runtime/engines/native/operator.py does the
// same, and ovround/tensors/native_layout.py says how they lie in memory.
#pragma once

#include <openvino/openvino.hpp>
#include <string>

namespace ovround {

// Let `core` read models with such weights.
void add_placeholder(ov::Core& core);

// Replace each native node by a product with constants: codebooks as float16, integers as the same integers in 4 bits.
// What that costs, in words. Error(artifact) for a weight that is damaged.
std::string expand_weights(ov::Model& model, const std::string& path);

}  // namespace ovround
