#include "onnx_runtime.hpp"

#include <dlfcn.h>

#include "json_object.hpp"
#include "own_folder.hpp"

namespace ovround {
namespace {

// An AttributeProto in protobuf's wire format: the name, the tag of the integer, and its value in one byte, as in
// runtime/engines/onnx_exact.py. Level 4 rounds activations to int8, level 0 computes in float32.
constexpr std::string_view kLevel = "accuracy_level\x18";

// A node's operator in the same format: a string of 15 bytes.
constexpr std::string_view kOperator = "\"\x0FQuantizedLinear";

// An attribute `exact` of the operator: tag, length and text of its name, and the tag of the integer before its value.
constexpr std::string_view kExact = "\n\005exact\030";

std::string exact_model(std::string model) {
    for (auto index = model.find(kExact); index != std::string::npos; index = model.find(kExact, index)) {
        index += kExact.size();
        if (index < model.size() && model[index] == 0) {
            model[index] = 1;
        }
    }
    for (auto index = model.find(kLevel); index != std::string::npos; index = model.find(kLevel, index)) {
        index += kLevel.size();
        if (index < model.size() && model[index] == 4) {
            model[index] = 0;
        }
    }
    return model;
}

// The library that the build names; or, if ovround is in a wheel, that of the onnxruntime wheel beside it.
std::vector<std::string> candidates() {
    std::vector<std::string> names{OVROUND_ORT_LIBRARY};
    for (const auto& file : files_of(packages_beside_us() / "onnxruntime" / "capi")) {
        if (file.filename().string().rfind("libonnxruntime.so.", 0) == 0) {
            names.push_back(file.string());
        }
    }
    names.emplace_back("libonnxruntime.so.1");
    return names;
}

const OrtApiBase* find_runtime() {
    void* library = nullptr;
    for (const auto& name : candidates()) {
        library = library != nullptr || name.empty() ? library : dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    }
    if (library == nullptr) {
        throw Error(ErrorCode::engine, "ONNX Runtime's library cannot be loaded: " + std::string(dlerror()),
                    "install onnxruntime, and have libonnxruntime.so.1 on the loader's path");
    }
    using GetBase = const OrtApiBase* (*)();
    return reinterpret_cast<GetBase>(dlsym(library, "OrtGetApiBase"))();
}

}  // namespace

OnnxRuntime::OnnxRuntime() : api_(nullptr), env_(nullptr, nullptr), memory_(nullptr, nullptr) {
    const OrtApiBase* base = base_ = find_runtime();
    version_ = base->GetVersionString();
    api_ = base->GetApi(ORT_API_VERSION);
    if (api_ == nullptr) {
        throw Error(ErrorCode::engine, "ONNX Runtime " + version_ + " is too old; 1." +
                                           std::to_string(ORT_API_VERSION) + " or newer is needed");
    }
    OrtEnv* env = nullptr;
    check(api_->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "ovround", &env), ErrorCode::engine, "ONNX Runtime cannot start");
    env_ = {env, api_->ReleaseEnv};
    OrtMemoryInfo* memory = nullptr;
    check(api_->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory), ErrorCode::engine,
          "ONNX Runtime cannot start");
    memory_ = {memory, api_->ReleaseMemoryInfo};
}

OrtPointer<OrtSession> OnnxRuntime::open(const std::filesystem::path& path, bool exact, int threads,
                                         const std::vector<std::pair<std::string, std::string>>& entries,
                                         bool& native) const {
    const std::string unreadable = "`" + path.string() + "` cannot be read by ONNX Runtime " + version_;
    const auto need = [&](OrtStatus* status) { check(status, ErrorCode::artifact, unreadable); };
    OrtSessionOptions* made = nullptr;
    need(api_->CreateSessionOptions(&made));
    const OrtPointer<OrtSessionOptions> options(made, api_->ReleaseSessionOptions);
    for (const auto& [key, value] : entries) {
        need(api_->AddSessionConfigEntry(made, key.c_str(), value.c_str()));
    }
    if (threads > 0) {
        need(api_->SetIntraOpNumThreads(made, threads));
    }
    std::string model = read_text(path);
    native = model.find(kOperator) != std::string::npos && register_operator(made);
    OrtSession* session = nullptr;
    if (exact) {
        model = exact_model(std::move(model));  // a model in memory does not name the folder of its weights
        need(api_->AddSessionConfigEntry(made, "session.model_external_initializers_file_folder_path",
                                         std::filesystem::absolute(path).parent_path().c_str()));
        need(api_->CreateSessionFromArray(env_.get(), model.data(), model.size(), made, &session));
    } else {
        need(api_->CreateSession(env_.get(), path.c_str(), made, &session));
    }
    return {session, api_->ReleaseSession};
}

bool OnnxRuntime::register_operator(OrtSessionOptions* options) const {
    const auto path = own_folder() / "libovround_onnx_operator.so";
    if (!std::filesystem::is_regular_file(path)) {
        return false;
    }
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);  // stays open: sessions keep its functions
    using Register = OrtStatus* (*)(OrtSessionOptions*, const OrtApiBase*);
    const auto add = library == nullptr ? nullptr : reinterpret_cast<Register>(dlsym(library, "RegisterCustomOps"));
    if (add == nullptr) {
        throw Error(ErrorCode::engine, "`" + path.string() + "` cannot be loaded: " + dlerror());
    }
    check(add(options, base_), ErrorCode::engine, "`" + path.string() + "`");
    return true;
}

OrtPointer<OrtValue> OnnxRuntime::tensor(void* data, std::size_t size_bytes, const int64_t* shape,
                                         std::size_t dimensions, ONNXTensorElementDataType type) const {
    OrtValue* value = nullptr;
    check(api_->CreateTensorWithDataAsOrtValue(memory_.get(), data, size_bytes, shape, dimensions, type, &value),
          ErrorCode::engine, "ONNX Runtime");
    return {value, api_->ReleaseValue};
}

void OnnxRuntime::check(OrtStatus* status, ErrorCode code, const std::string& what) const {
    if (status == nullptr) {
        return;
    }
    const OrtPointer<OrtStatus> held(status, api_->ReleaseStatus);
    throw Error(code, what + ": " + api_->GetErrorMessage(status));
}

}  // namespace ovround
