// The entry point that `core.add_extension` looks for.
#include <openvino/core/extension.hpp>
#include <openvino/core/op_extension.hpp>

#include "quantized_linear.hpp"

OPENVINO_CREATE_EXTENSIONS(std::vector<ov::Extension::Ptr>{
    std::make_shared<ov::OpExtension<ovround::native::QuantizedLinear>>()});
