#include "native_operator.hpp"

#include <fstream>
#include <openvino/core/attribute_visitor.hpp>

#if !defined(_WIN32)
#include <dlfcn.h>
#endif

#include "expanded_weights.hpp"
#include "file_kind.hpp"
#include "openvino_model.hpp"
#include "own_folder.hpp"

namespace ovround {
namespace {

namespace fs = std::filesystem;

#if defined(_WIN32)
constexpr const char* kLibrary = "ovround_operator.dll";
#elif defined(__APPLE__)
constexpr const char* kLibrary = "libovround_operator.dylib";
#else
constexpr const char* kLibrary = "libovround_operator.so";
#endif

constexpr const char* kInstall =
    "build runtime/native, and put its library beside libovround or name it: operator_library";

bool needs_operator(const fs::path& path) {
    const std::string mark = "type=\"" + std::string(kNativeOperator) + "\" version=\"ovround\"";
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        if (line.find(mark) != std::string::npos) {
            return true;
        }
    }
    return false;
}

// The operator is linked to no version of OpenVINO, so its symbols are those of the process. Where an application
// loaded OpenVINO for itself alone (a plugin), they become visible here.
void show_openvino() {
#if !defined(_WIN32)
    Dl_info info{};
    if (dladdr(reinterpret_cast<const void*>(&ov::get_openvino_version), &info) != 0 && info.dli_fname != nullptr) {
        dlopen(info.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
    }
#endif
}

class SetExact final : public ov::AttributeVisitor {
public:
    using ov::AttributeVisitor::on_adapter;
    void on_adapter(const std::string&, ov::ValueAccessor<void>&) override {}
    void on_adapter(const std::string& name, ov::ValueAccessor<bool>& value) override {
        if (name == "exact") {
            value.set(true);
        }
    }
};

}  // namespace

NativeChoice prepare_native(ov::Core& core, const fs::path& path, const std::string& device,
                            const LoadOptions& options) {
    const std::string folder = "`" + path.parent_path().string() + "`";
    if (!needs_operator(path)) {
        if (options.kernel == Kernel::native) {
            throw Error(ErrorCode::engine, "kernel is native, yet " + folder + " has ordinary weights",
                        "kernel auto, or convert it with --native-weights");
        }
        return {};
    }
    const bool named = !options.operator_library.empty();
    const fs::path library = named ? options.operator_library : own_folder() / kLibrary;
    std::string why, hint = kInstall;
    if (device != "CPU") {
        why = "does not run on " + device;
        hint = "choose CPU, or kernel auto";
    } else if (!is_file(library)) {
        why = "is not there: `" + library.string() + "`";
        if (named) {
            throw Error(ErrorCode::usage, "operator_library is `" + library.string() + "`, which is not there");
        }
    } else {
        show_openvino();
        try {
            core.add_extension(library.string());
            return {NativeWeights::computed, ""};
        } catch (const std::exception& error) {
            why = "cannot be loaded: `" + library.string() + "`: " + reason(error);
            hint = "install a version of OpenVINO that the library works with, or build runtime/native for this one";
        }
    }
    if (options.kernel == Kernel::native || (named && device == "CPU")) {
        throw Error(ErrorCode::engine, folder + " has weights for the native operator, which " + why, hint);
    }
    add_placeholder(core);
    return {NativeWeights::expanded, folder + ": the native operator " + why + " (" + hint + "), so "};
}

void make_exact(ov::Model& model) {
    for (const auto& node : model.get_ops()) {
        if (std::string(node->get_type_name()) == kNativeOperator) {
            SetExact visitor;
            node->visit_attributes(visitor);
        }
    }
}

}  // namespace ovround
