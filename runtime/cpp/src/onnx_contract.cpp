#include "onnx_contract.hpp"

#include <algorithm>

namespace ovround {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPast = "past_key_values.";
constexpr std::string_view kPastState = "past_state.";

struct Port {
    std::string name;
    ONNXTensorElementDataType type;
    std::vector<int64_t> shape;  // -1 for a dimension that is not fixed
};

std::vector<Port> ports(const OnnxRuntime& runtime, const OrtSession* session, bool inputs) {
    const OrtApi& api = runtime.api();
    const auto need = [&](OrtStatus* status) { runtime.check(status, ErrorCode::engine, "ONNX Runtime"); };
    OrtAllocator* allocator = nullptr;
    need(api.GetAllocatorWithDefaultOptions(&allocator));
    std::size_t count = 0;
    need((inputs ? api.SessionGetInputCount : api.SessionGetOutputCount)(session, &count));
    std::vector<Port> ports;
    for (std::size_t index = 0; index < count; ++index) {
        char* name = nullptr;
        OrtTypeInfo* info = nullptr;
        need((inputs ? api.SessionGetInputName : api.SessionGetOutputName)(session, index, allocator, &name));
        Port port{name, ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED, {}};
        need(api.AllocatorFree(allocator, name));
        need((inputs ? api.SessionGetInputTypeInfo : api.SessionGetOutputTypeInfo)(session, index, &info));
        const OrtPointer<OrtTypeInfo> held(info, api.ReleaseTypeInfo);
        const OrtTensorTypeAndShapeInfo* tensor = nullptr;
        need(api.CastTypeInfoToTensorInfo(info, &tensor));
        if (tensor != nullptr) {
            std::size_t dimensions = 0;
            need(api.GetTensorElementType(tensor, &port.type));
            need(api.GetDimensionsCount(tensor, &dimensions));
            port.shape.resize(dimensions);
            need(api.GetDimensions(tensor, port.shape.data(), dimensions));
        }
        ports.push_back(std::move(port));
    }
    return ports;
}

const Port* find(const std::vector<Port>& all, const std::string& name) {
    const auto port = std::find_if(all.begin(), all.end(), [&](const Port& each) { return each.name == name; });
    return port == all.end() ? nullptr : &*port;
}

}  // namespace

bool OnnxState::fixed() const { return std::find(shape.begin(), shape.end(), 0) == shape.end(); }

OnnxContract read_contract(const OnnxRuntime& runtime, const OrtSession* session, const fs::path& path,
                           int64_t stated_head_size) {
    OnnxContract contract;
    const auto refuse = [&](const std::string& what) {
        throw Error(ErrorCode::artifact, "`" + path.string() + "` " + what +
                                             ": it is no decoder as onnxruntime-genai's builder writes them for CPU");
    };
    const auto inputs = ports(runtime, session, true);
    const auto outputs = ports(runtime, session, false);
    for (const char* name : {"input_ids", "attention_mask"}) {
        if (find(inputs, name) == nullptr) {
            refuse("has no `" + std::string(name) + "`");
        }
    }
    for (const auto& port : inputs) {
        if (port.name == "input_ids" || port.name == "attention_mask") {
            continue;
        }
        const bool fixed = port.name.rfind(kPastState, 0) == 0;
        if (!fixed && port.name.rfind(kPast, 0) != 0) {
            refuse("needs `" + port.name + "`");
        }
        const std::string present = fixed ? "present_state." + port.name.substr(kPastState.size())
                                          : "present." + port.name.substr(kPast.size());
        if (find(outputs, present) == nullptr) {
            refuse("has no `" + present + "`");
        }
        const bool is_float =
            port.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || port.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
        std::vector<int64_t> shape;
        if (fixed && !port.shape.empty()) {
            shape.assign(port.shape.begin() + 1, port.shape.end());
        } else if (port.shape.size() == 4) {
            shape = {port.shape[1], 0, port.shape[3] > 0 ? port.shape[3] : stated_head_size};
        }
        const bool stated =
            std::all_of(shape.begin(), shape.end(), [&](int64_t size) { return size > (fixed ? 0 : -1); });
        if (!is_float || shape.empty() || !stated || shape.front() < 1 || shape.back() < 1) {
            refuse("has `" + port.name + "` of another form than float " +
                   (fixed ? "[B, ...] of stated sizes" : "[B, heads, S, size]"));
        }
        contract.states.push_back({port.name, present, std::move(shape), port.type});
    }
    const Port* logits = find(outputs, "logits");
    if (logits == nullptr || contract.states.empty()) {
        refuse(logits == nullptr ? "has no `logits`" : "has no `past_key_values.`");
    } else if (logits->shape.size() != 3 || logits->shape[2] < 1 ||
               logits->type != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
        refuse("does not state how many logits it gives, in float32");
    } else {
        contract.vocab_size = static_cast<std::size_t>(logits->shape[2]);
    }
    return contract;
}

}  // namespace ovround
