// The entry point that `core.add_extension` looks for.
#include <openvino/core/extension.hpp>
#include <openvino/core/op_extension.hpp>

#include "openvino_versions.hpp"
#include "quantized_linear.hpp"

namespace {

std::vector<ov::Extension::Ptr> extensions() {
    using namespace ovround::native;
    const std::string build = ov::get_openvino_version().buildNumber;
    OPENVINO_ASSERT(openvino_fits(build.c_str()), "this library works with OpenVINO ", openvino_range(), ", not ",
                    build);
    OPENVINO_ASSERT(ovround_kernels_version() >= OVROUND_KERNELS_VERSION,
                    "the library of the kernels is too old: ", ovround_kernels_version(), "; ", OVROUND_KERNELS_VERSION,
                    " is needed");
    return {std::make_shared<ov::OpExtension<QuantizedLinear>>()};
}

}  // namespace

OPENVINO_CREATE_EXTENSIONS(extensions());
