// `QuantizedLinear` of the domain `ovround` as a custom operator of ONNX Runtime, through its C API: y = x * W^T for a
// weight in one of the layouts of linear.hpp.
//
// Inputs: x f32 [..., inputs], then u8 constants: codes, codebooks [M, entries, O, V, 2] and scales if `weights` is
// "codebook"; codes, scales and zero points if it is "int2", "int3", "int4" or "int8"; codes, scales [tiles, B, bytes
// of a block], and minimums or one zero point, if it is "affine2" to "affine6". Output f32 [..., outputs]. Attributes:
// weights, outputs, inputs; exact: float32 throughout.
#include <exception>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "onnxruntime_abi.hpp"
#include "weight_layout.hpp"

namespace ovround::native {
namespace {

constexpr uint32_t kApi = ORT_API_VERSION;  // 17, the first that gives operators the session's threads

constexpr const char* kDomain = "ovround";
constexpr std::size_t kInputs = 4;

using Sizes = std::vector<int64_t>;

std::string text(const Sizes& sizes) {
    std::string joined;
    for (const int64_t size : sizes) {
        joined += (joined.empty() ? "" : ", ") + std::to_string(size);
    }
    return "[" + joined + "]";
}

void need(bool holds, const std::string& otherwise) {
    if (!holds) {
        throw std::invalid_argument(otherwise);
    }
}

void check(const OrtApi& api, OrtStatus* status) {
    if (status != nullptr) {
        const std::string message = api.GetErrorMessage(status);
        api.ReleaseStatus(status);
        throw std::runtime_error(message);
    }
}

// Converts an exception of `call` to a status: no exception may pass the C interface.
template <typename Call>
OrtStatus* guarded(const OrtApi& api, const Call& call) noexcept {
    try {
        call();
        return nullptr;
    } catch (const std::invalid_argument& error) {
        return api.CreateStatus(ORT_INVALID_ARGUMENT, error.what());
    } catch (const std::exception& error) {
        return api.CreateStatus(ORT_FAIL, error.what());
    }
}

Sizes shape_of(const OrtApi& api, const OrtValue* value, ONNXTensorElementDataType type) {
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(api, api.GetTensorTypeAndShape(value, &info));
    const std::unique_ptr<OrtTensorTypeAndShapeInfo, decltype(api.ReleaseTensorTypeAndShapeInfo)> owner(
        info, api.ReleaseTensorTypeAndShapeInfo);
    ONNXTensorElementDataType element_type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    std::size_t rank = 0;
    check(api, api.GetTensorElementType(info, &element_type));
    check(api, api.GetDimensionsCount(info, &rank));
    need(element_type == type,
         "an input has element type " + std::to_string(element_type) + "; " + std::to_string(type) + " is needed");
    Sizes shape(rank);
    check(api, api.GetDimensions(info, shape.data(), rank));
    return shape;
}

int64_t count(const Sizes& shape) {
    int64_t product = 1;
    for (const int64_t size : shape) {
        product *= size;
    }
    return product;
}

struct Part {
    Sizes shape;
    const uint8_t* bytes;
    int64_t size() const { return count(shape); }
};

Part constant(const OrtApi& api, const OrtKernelInfo* info, std::size_t index) {
    int is_constant = 0;
    const OrtValue* value = nullptr;
    check(api, api.KernelInfoGetConstantInput_tensor(info, index, &is_constant, &value));
    need(is_constant != 0 && value != nullptr, "input " + std::to_string(index) + " must be a constant");
    void* data = nullptr;
    check(api, api.GetTensorMutableData(const_cast<OrtValue*>(value), &data));
    return {shape_of(api, value, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8), static_cast<const uint8_t*>(data)};
}

std::string node_name(const OrtApi& api, const OrtKernelInfo* info) {
    std::size_t size = 0;
    check(api, api.KernelInfo_GetNodeName(info, nullptr, &size));
    std::string name(size, '\0');
    check(api, api.KernelInfo_GetNodeName(info, name.data(), &size));
    return name.c_str();  // without the terminating zero
}

std::string text_attribute(const OrtApi& api, const OrtKernelInfo* info, const char* name) {
    std::size_t size = 0;
    check(api, api.KernelInfoGetAttribute_string(info, name, nullptr, &size));
    std::string value(size, '\0');
    check(api, api.KernelInfoGetAttribute_string(info, name, value.data(), &size));
    return value.c_str();
}

int64_t attribute(const OrtApi& api, const OrtKernelInfo* info, const char* name) {
    int64_t value = 0;
    check(api, api.KernelInfoGetAttribute_int64(info, name, &value));
    return value;
}

// The session's threads, for one call, and the error that they ended with.
struct Pool {
    const OrtApi& api;
    const OrtKernelContext* context;
    mutable OrtStatus* status = nullptr;
};

void run_in_pool(const void* threads, int64_t tasks, void (*task)(const void*, int64_t), const void* context) {
    struct Call {
        void (*task)(const void*, int64_t);
        const void* context;
    };
    const auto& pool = *static_cast<const Pool*>(threads);
    Call call{task, context};
    const auto run_task = [](void* data, std::size_t index) {
        const auto& what = *static_cast<const Call*>(data);
        what.task(what.context, static_cast<int64_t>(index));
    };
    OrtStatus* status =
        pool.api.KernelContext_ParallelFor(pool.context, run_task, static_cast<std::size_t>(tasks), 0, &call);
    if (status != nullptr && pool.status == nullptr) {
        pool.status = status;
    } else if (status != nullptr) {
        pool.api.ReleaseStatus(status);
    }
}

// One node, whose weight was checked when the session was created.
class Kernel {
public:
    Kernel(const OrtApi& api, const OrtKernelInfo* info)
        : api_(api), outputs_(attribute(api, info, "outputs")), inputs_(attribute(api, info, "inputs")),
          exact_(attribute(api, info, "exact") != 0) {
        const std::string weights = text_attribute(api, info, "weights");
        bits_ = bits_of(weights);
        need(bits_ > 0 || weights == "codebook",
             "weights are `" + weights + "`; this library has codebook, int2, int3, int4, int8 and affine2 to affine6");
        const Part first = constant(api, info, 1), second = constant(api, info, 2), third = constant(api, info, 3);
        const std::string misfit = weights + " " + text(first.shape) + ", " + text(second.shape) + " and " +
                                   text(third.shape) + " are not those of " + text({outputs_, inputs_});
        if (is_affine(weights)) {
            const int64_t groups = second.shape.size() == 3 ? affine_groups(bits_, outputs_, inputs_, first.size(),
                                                                            second.shape.data(), third.size())
                                                            : 0;
            need(groups > 0, misfit);
            integers_ = affine_weight(bits_, first.bytes, second.bytes, third.bytes, third.size() == 1, outputs_,
                                      inputs_, groups, second.shape[1]);
            return;
        }
        if (bits_ > 0) {
            const int64_t groups = integer_groups(bits_, outputs_, inputs_, first.size(), second.size(), third.size());
            need(groups > 0, misfit);
            integers_ = integer_weight(bits_, first.bytes, second.bytes, third.bytes, third.size() == 1, outputs_,
                                       inputs_, groups);
            return;
        }
        const auto& books = second.shape;
        need(books.size() == 5 && books[4] == 2 &&
                 codebooks_fit(outputs_, inputs_, first.size(), books.data(), third.size()),
             misfit);
        codebooks_ = {sizeof(codebooks_), first.bytes, second.bytes, third.bytes, outputs_, inputs_,
                      books[0],           books[1],    books[2],     books[3]};
    }

    const OrtApi& api() const { return api_; }

    void compute(OrtKernelContext* context) const {
        const OrtValue* input = nullptr;
        check(api_, api_.KernelContext_GetInput(context, 0, &input));
        Sizes shape = shape_of(api_, input, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
        need(!shape.empty() && shape.back() == inputs_,
             "x is " + text(shape) + "; " + std::to_string(inputs_) + " inputs are needed");
        const int64_t tokens = count(shape) / inputs_;
        shape.back() = outputs_;
        OrtValue* output = nullptr;
        check(api_, api_.KernelContext_GetOutput(context, 0, shape.data(), shape.size(), &output));
        if (tokens == 0) {
            return;
        }
        void *x = nullptr, *y = nullptr;
        check(api_, api_.GetTensorMutableData(const_cast<OrtValue*>(input), &x));
        check(api_, api_.GetTensorMutableData(output, &y));
        multiply(static_cast<const float*>(x), tokens, static_cast<float*>(y), context);
    }

private:
    void multiply(const float* x, int64_t tokens, float* y, const OrtKernelContext* context) const {
        const Pool pool{api_, context};
        const ovround_product product{sizeof(ovround_product), x, tokens, exact_, nullptr, run_in_pool, &pool};
        const int result = bits_ > 0 ? ovround_integer_products(&integers_, 1, &product, &y)
                                     : ovround_codebook_product(&codebooks_, &product, y);
        check(api_, pool.status);
        if (result != OVROUND_KERNELS_OK) {
            throw std::runtime_error(result == OVROUND_KERNELS_NO_MEMORY
                                         ? "memory is exhausted"
                                         : "the library of the kernels has no such product");
        }
    }

    const OrtApi& api_;
    int64_t outputs_, inputs_;
    bool exact_;
    int64_t bits_ = 0;  // bits of integers; 0 for codebooks
    IntegerWeight integers_{};
    CodebookWeight codebooks_{};
};

OrtStatus* create(const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
    return guarded(*api, [&] {
        const std::string at = "`" + node_name(*api, info) + "`: ";
        try {
            *kernel = std::make_unique<Kernel>(*api, info).release();
        } catch (const std::invalid_argument& error) {
            throw std::invalid_argument(at + error.what());
        } catch (const std::runtime_error& error) {
            throw std::runtime_error(at + error.what());
        }
    });
}

struct Operator : OrtCustomOp {
    Operator() : OrtCustomOp{} {
        version = kApi;
        GetName = [](const OrtCustomOp*) { return "QuantizedLinear"; };
        GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };  // null is the CPU
        GetInputTypeCount = [](const OrtCustomOp*) { return kInputs; };
        GetInputType = [](const OrtCustomOp*, std::size_t index) {
            return index == 0 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
        };
        GetOutputTypeCount = [](const OrtCustomOp*) { return std::size_t{1}; };
        GetOutputType = [](const OrtCustomOp*, std::size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; };
        GetInputCharacteristic = [](const OrtCustomOp*, std::size_t) { return INPUT_OUTPUT_REQUIRED; };
        GetOutputCharacteristic = [](const OrtCustomOp*, std::size_t) { return INPUT_OUTPUT_REQUIRED; };
        GetInputMemoryType = [](const OrtCustomOp*, std::size_t) { return OrtMemTypeDefault; };
        GetStartVersion = [](const OrtCustomOp*) { return 1; };
        GetEndVersion = [](const OrtCustomOp*) { return std::numeric_limits<int>::max(); };
        CreateKernelV2 = create;
        KernelComputeV2 = [](void* kernel, OrtKernelContext* context) {
            const auto& made = *static_cast<const Kernel*>(kernel);
            return guarded(made.api(), [&] { made.compute(context); });
        };
        KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
    }
};

// One object for all sessions, which keep its address.
OrtCustomOpDomain* domain(const OrtApi& api) {
    static const Operator operation;
    static OrtCustomOpDomain* const made = [&api] {
        OrtCustomOpDomain* domain = nullptr;
        check(api, api.CreateCustomOpDomain(kDomain, &domain));
        check(api, api.CustomOpDomain_Add(domain, &operation));
        return domain;
    }();
    return made;
}

// Reports a library older than `kApi`, through the newest interface that it has.
OrtStatus* too_old(const OrtApiBase& base) {
    const OrtApi* api = nullptr;
    for (uint32_t number = kApi - 1; number > 0 && api == nullptr; --number) {
        api = base.GetApi(number);
    }
    const std::string message =
        std::string("ONNX Runtime ") + base.GetVersionString() + " is too old: QuantizedLinear needs 1.17";
    return api == nullptr ? nullptr : api->CreateStatus(ORT_NOT_IMPLEMENTED, message.c_str());
}

}  // namespace
}  // namespace ovround::native

// The function that `RegisterCustomOpsLibrary` looks for.
extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                               const OrtApiBase* base) {
    using namespace ovround::native;
    const OrtApi* api = base->GetApi(kApi);
    if (api == nullptr) {
        return too_old(*base);
    }
    return guarded(*api, [&] { check(*api, api->AddCustomOpDomain(options, domain(*api))); });
}
