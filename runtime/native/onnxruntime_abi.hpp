// The part of ONNX Runtime's C interface that is used here, version 17 of its interface (ONNX Runtime 1.17).
//
// The interface is a table of functions that only grows, so that an entry's place never changes; no wheel has its
// header. Names and places are those of onnxruntime_c_api.h, and tests/native/test_onnxruntime_abi.py compares them
// with it where it is installed. Not for Windows, where paths are wide and functions have another calling convention.
#pragma once

#include <cstddef>
#include <cstdint>

#define ORT_API_VERSION 17

struct OrtAllocator;
struct OrtCustomOp;
struct OrtCustomOpDomain;
struct OrtEnv;
struct OrtKernelContext;
struct OrtKernelInfo;
struct OrtMemoryInfo;
struct OrtRunOptions;
struct OrtSession;
struct OrtSessionOptions;
struct OrtStatus;
struct OrtTensorTypeAndShapeInfo;
struct OrtTypeInfo;
struct OrtValue;

enum ONNXTensorElementDataType : int {
    ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED = 0,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 = 2,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 = 3,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 = 6,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 = 7,
    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 = 10,
};
enum OrtAllocatorType : int { OrtArenaAllocator = 1 };
enum OrtCustomOpInputOutputCharacteristic : int { INPUT_OUTPUT_REQUIRED = 0 };
enum OrtErrorCode : int { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2, ORT_NOT_IMPLEMENTED = 9 };
enum OrtLoggingLevel : int { ORT_LOGGING_LEVEL_ERROR = 3 };
enum OrtMemType : int { OrtMemTypeDefault = 0 };

// The number behind an entry is its place.
struct OrtApi {
    OrtStatus* (*CreateStatus)(OrtErrorCode code, const char* message);  // 0
    void* entries_1[1];
    const char* (*GetErrorMessage)(const OrtStatus* status);                         // 2
    OrtStatus* (*CreateEnv)(OrtLoggingLevel level, const char* name, OrtEnv** env);  // 3
    void* entries_4[3];
    OrtStatus* (*CreateSession)(const OrtEnv* env, const char* path, const OrtSessionOptions* options,
                                OrtSession** session);  // 7
    OrtStatus* (*CreateSessionFromArray)(const OrtEnv* env, const void* model, size_t size,
                                         const OrtSessionOptions* options, OrtSession** session);  // 8
    OrtStatus* (*Run)(OrtSession* session, const OrtRunOptions* options, const char* const* input_names,
                      const OrtValue* const* inputs, size_t input_count, const char* const* output_names,
                      size_t output_count, OrtValue** outputs);       // 9
    OrtStatus* (*CreateSessionOptions)(OrtSessionOptions** options);  // 10
    void* entries_11[13];
    OrtStatus* (*SetIntraOpNumThreads)(OrtSessionOptions* options, int threads);  // 24
    void* entries_25[1];
    OrtStatus* (*CreateCustomOpDomain)(const char* name, OrtCustomOpDomain** domain);           // 26
    OrtStatus* (*CustomOpDomain_Add)(OrtCustomOpDomain* domain, const OrtCustomOp* operation);  // 27
    OrtStatus* (*AddCustomOpDomain)(OrtSessionOptions* options, OrtCustomOpDomain* domain);     // 28
    void* entries_29[1];
    OrtStatus* (*SessionGetInputCount)(const OrtSession* session, size_t* count);   // 30
    OrtStatus* (*SessionGetOutputCount)(const OrtSession* session, size_t* count);  // 31
    void* entries_32[1];
    OrtStatus* (*SessionGetInputTypeInfo)(const OrtSession* session, size_t index, OrtTypeInfo** info);   // 33
    OrtStatus* (*SessionGetOutputTypeInfo)(const OrtSession* session, size_t index, OrtTypeInfo** info);  // 34
    void* entries_35[1];
    OrtStatus* (*SessionGetInputName)(const OrtSession* session, size_t index, OrtAllocator* allocator,
                                      char** name);  // 36
    OrtStatus* (*SessionGetOutputName)(const OrtSession* session, size_t index, OrtAllocator* allocator,
                                       char** name);  // 37
    void* entries_38[11];
    OrtStatus* (*CreateTensorWithDataAsOrtValue)(const OrtMemoryInfo* info, void* data, size_t size,
                                                 const int64_t* shape, size_t rank, ONNXTensorElementDataType type,
                                                 OrtValue** value);  // 49
    void* entries_50[1];
    OrtStatus* (*GetTensorMutableData)(OrtValue* value, void** data);  // 51
    void* entries_52[3];
    OrtStatus* (*CastTypeInfoToTensorInfo)(const OrtTypeInfo* info,
                                           const OrtTensorTypeAndShapeInfo** tensor_info);  // 55
    void* entries_56[4];
    OrtStatus* (*GetTensorElementType)(const OrtTensorTypeAndShapeInfo* info, ONNXTensorElementDataType* type);  // 60
    OrtStatus* (*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo* info, size_t* rank);                       // 61
    OrtStatus* (*GetDimensions)(const OrtTensorTypeAndShapeInfo* info, int64_t* shape, size_t rank);             // 62
    void* entries_63[2];
    OrtStatus* (*GetTensorTypeAndShape)(const OrtValue* value, OrtTensorTypeAndShapeInfo** info);  // 65
    void* entries_66[3];
    OrtStatus* (*CreateCpuMemoryInfo)(OrtAllocatorType type, OrtMemType memory, OrtMemoryInfo** info);  // 69
    void* entries_70[6];
    OrtStatus* (*AllocatorFree)(OrtAllocator* allocator, void* memory);  // 76
    void* entries_77[1];
    OrtStatus* (*GetAllocatorWithDefaultOptions)(OrtAllocator** allocator);  // 78
    void* entries_79[7];
    OrtStatus* (*KernelInfoGetAttribute_int64)(const OrtKernelInfo* info, const char* name, int64_t* value);  // 86
    OrtStatus* (*KernelInfoGetAttribute_string)(const OrtKernelInfo* info, const char* name, char* value,
                                                size_t* size);  // 87
    void* entries_88[2];
    OrtStatus* (*KernelContext_GetInput)(const OrtKernelContext* context, size_t index, const OrtValue** value);  // 90
    OrtStatus* (*KernelContext_GetOutput)(OrtKernelContext* context, size_t index, const int64_t* shape, size_t rank,
                                          OrtValue** value);  // 91
    void (*ReleaseEnv)(OrtEnv*);                              // 92
    void (*ReleaseStatus)(OrtStatus*);                        // 93
    void (*ReleaseMemoryInfo)(OrtMemoryInfo*);                // 94
    void (*ReleaseSession)(OrtSession*);                      // 95
    void (*ReleaseValue)(OrtValue*);                          // 96
    void* entries_97[1];
    void (*ReleaseTypeInfo)(OrtTypeInfo*);                              // 98
    void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo*);  // 99
    void (*ReleaseSessionOptions)(OrtSessionOptions*);                  // 100
    void* entries_101[29];
    OrtStatus* (*AddSessionConfigEntry)(OrtSessionOptions* options, const char* key, const char* value);  // 130
    void* entries_131[113];
    OrtStatus* (*KernelInfo_GetNodeName)(const OrtKernelInfo* info, char* name, size_t* size);  // 244
    void* entries_245[4];
    OrtStatus* (*KernelInfoGetConstantInput_tensor)(const OrtKernelInfo* info, size_t index, int* is_constant,
                                                    const OrtValue** value);  // 249
    void* entries_250[24];
    OrtStatus* (*KernelContext_ParallelFor)(const OrtKernelContext* context, void (*task)(void*, size_t), size_t total,
                                            size_t batches, void* data);  // 274
};

struct OrtApiBase {
    const OrtApi* (*GetApi)(uint32_t version);
    const char* (*GetVersionString)();
};

// What an operator offers, up to version 17. ONNX Runtime reads no entry that the version does not have.
struct OrtCustomOp {
    uint32_t version;
    void* (*CreateKernel)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*);
    const char* (*GetName)(const OrtCustomOp*);
    const char* (*GetExecutionProviderType)(const OrtCustomOp*);
    ONNXTensorElementDataType (*GetInputType)(const OrtCustomOp*, size_t index);
    size_t (*GetInputTypeCount)(const OrtCustomOp*);
    ONNXTensorElementDataType (*GetOutputType)(const OrtCustomOp*, size_t index);
    size_t (*GetOutputTypeCount)(const OrtCustomOp*);
    void (*KernelCompute)(void* kernel, OrtKernelContext*);
    void (*KernelDestroy)(void* kernel);
    OrtCustomOpInputOutputCharacteristic (*GetInputCharacteristic)(const OrtCustomOp*, size_t index);
    OrtCustomOpInputOutputCharacteristic (*GetOutputCharacteristic)(const OrtCustomOp*, size_t index);
    OrtMemType (*GetInputMemoryType)(const OrtCustomOp*, size_t index);
    int (*GetVariadicInputMinArity)(const OrtCustomOp*);
    int (*GetVariadicInputHomogeneity)(const OrtCustomOp*);
    int (*GetVariadicOutputMinArity)(const OrtCustomOp*);
    int (*GetVariadicOutputHomogeneity)(const OrtCustomOp*);
    OrtStatus* (*CreateKernelV2)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*, void** kernel);
    OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext*);
    OrtStatus* (*InferOutputShapeFn)(const OrtCustomOp*, void* context);
    int (*GetStartVersion)(const OrtCustomOp*);
    int (*GetEndVersion)(const OrtCustomOp*);
    void* later[4];  // GetMayInplace and three more, which are null
};
