#include "native_operator.hpp"

#include <fstream>
#include <openvino/core/attribute_visitor.hpp>

#if !defined(_WIN32)
#include <dlfcn.h>
#endif

#include "expanded_weights.hpp"
#include "file_kind.hpp"
#include "openvino_model.hpp"

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

// Beside libovround, or beside the program if libovround is linked statically.
fs::path beside_us() {
#if !defined(_WIN32)
    Dl_info info{};
    if (dladdr(reinterpret_cast<const void*>(&prepare_native), &info) != 0 && info.dli_fname != nullptr) {
        return fs::absolute(info.dli_fname).parent_path() / kLibrary;
    }
#endif
    return kLibrary;
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

NativeWeights prepare_native(ov::Core& core, const fs::path& path, const std::string& device,
                             const LoadOptions& options) {
    if (!needs_operator(path)) {
        if (options.kernel == Kernel::native) {
            throw Error(ErrorCode::engine,
                        "kernel is native, yet `" + path.parent_path().string() + "` has ordinary weights",
                        "kernel auto, or convert it with --native-weights");
        }
        return NativeWeights::none;
    }
    const std::string folder = "`" + path.parent_path().string() + "` has weights for the native operator, ";
    const fs::path library = options.operator_library.empty() ? beside_us() : options.operator_library;
    const bool there = is_file(library);
    if (device == "CPU" && there) {
        try {
            core.add_extension(library.string());
        } catch (const std::exception& error) {
            throw Error(ErrorCode::engine, "`" + library.string() + "` cannot be loaded: " + reason(error),
                        "it belongs to the OpenVINO that it was built with: build runtime/native again");
        }
        return NativeWeights::computed;
    }
    if (!there && !options.operator_library.empty()) {
        throw Error(ErrorCode::usage, "operator_library is `" + library.string() + "`, which is not there");
    }
    if (options.kernel == Kernel::native) {
        const bool on_cpu = device == "CPU";
        throw Error(ErrorCode::engine,
                    folder + (on_cpu ? "whose library is missing: `" + library.string() + "`"
                                     : "which " + device + " cannot run"),
                    on_cpu ? kInstall : "choose CPU, or kernel auto");
    }
    add_placeholder(core);
    return NativeWeights::expanded;
}

std::string expansion_warning(const fs::path& path, const std::string& device, const std::string& cost) {
    return "`" + path.parent_path().string() + "`: the native operator " +
           (device == "CPU" ? "is not there (" + std::string(kInstall) + ")" : "does not run on " + device) + ", so " +
           cost;
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
