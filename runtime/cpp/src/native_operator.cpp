#include "native_operator.hpp"

#include <fstream>
#include <openvino/core/attribute_visitor.hpp>

#if !defined(_WIN32)
#include <dlfcn.h>
#endif

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

// Beside libovround, or beside the program where that is linked into it.
fs::path beside_us() {
#if !defined(_WIN32)
    Dl_info info{};
    if (dladdr(reinterpret_cast<const void*>(&add_operator), &info) != 0 && info.dli_fname != nullptr) {
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

void add_operator(ov::Core& core, const fs::path& path, const std::string& device, const fs::path& given) {
    if (!needs_operator(path)) {
        return;
    }
    const std::string folder = "`" + path.parent_path().string() + "` has weights for the native operator, ";
    if (device != "CPU") {
        throw Error(ErrorCode::engine, folder + "which " + device + " cannot run", "choose CPU");
    }
    const fs::path library = given.empty() ? beside_us() : given;
    if (!fs::is_regular_file(library)) {
        throw Error(ErrorCode::engine, folder + "whose library is missing: `" + library.string() + "`",
                    "build runtime/native, and put the library there or name it: operator_library; or use Python, "
                    "which expands such weights");
    }
    try {
        core.add_extension(library.string());
    } catch (const std::exception& error) {
        throw Error(ErrorCode::engine, "`" + library.string() + "` cannot be loaded: " + reason(error),
                    "it belongs to the OpenVINO that it was built with: build runtime/native again");
    }
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
