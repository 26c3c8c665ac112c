// ovround-allocations FOLDER: checks that a step allocates nothing, and that a failed allocation is an error.
//
// Every `new` of the program is counted except those within the calls below, which are OpenVINO's. The linker's --wrap
// redirects our objects' calls to this file. `set_shape` takes its shape by value, so OpenVINO copies two numbers.
#include <cstdint>
#include <cstdlib>
#include <new>
#include <openvino/openvino.hpp>

#include "check.hpp"
#include "ovround/ovround.h"

namespace {

thread_local bool counting = false;
thread_local std::size_t count = 0;
thread_local std::size_t last = SIZE_MAX;  // memory fails after this number of allocations

void* counted(std::size_t size) {
    count += counting ? 1 : 0;
    void* memory = count > last ? nullptr : std::malloc(size == 0 ? 1 : size);
    if (memory == nullptr) {
        counting = false;  // the error handler has memory again
        count = 0;
        throw std::bad_alloc();
    }
    return memory;
}

// Pauses the counting while it exists.
class Outside {
public:
    Outside() : was_(counting) { counting = false; }
    ~Outside() { counting = was_; }
    Outside(const Outside&) = delete;
    Outside& operator=(const Outside&) = delete;

private:
    bool was_;
};

}  // namespace

void* operator new(std::size_t size) { return counted(size); }
void* operator new[](std::size_t size) { return counted(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

// By their names in the Itanium C++ ABI: ov::InferRequest::infer(), ov::Tensor::set_shape(const ov::Shape&).
extern "C" {
void __real__ZN2ov12InferRequest5inferEv(ov::InferRequest*);
void __wrap__ZN2ov12InferRequest5inferEv(ov::InferRequest* request) {
    const Outside outside;
    __real__ZN2ov12InferRequest5inferEv(request);
}
void __real__ZN2ov6Tensor9set_shapeERKNS_5ShapeE(ov::Tensor*, const ov::Shape&);
void __wrap__ZN2ov6Tensor9set_shapeERKNS_5ShapeE(ov::Tensor* tensor, const ov::Shape& shape) {
    const Outside outside;
    __real__ZN2ov6Tensor9set_shapeERKNS_5ShapeE(tensor, shape);
}
}

namespace {

// The allocations of each step, from one callback to the next; counting starts after prefill, with the first callback.
std::size_t allocations(ovround::LLM& llm, const ovround::SamplingOptions& options, std::size_t& tokens) {
    tokens = 0;
    count = 0;
    llm.generate("Return the number of", options, [&](const ovround::Piece&) {
        ++tokens;
        counting = tokens < static_cast<std::size_t>(options.max_new_tokens.value());
        return true;
    });
    return count;
}

// Makes each allocation of a request fail in turn, by the C API: it must return a status, and the model must still
// work.
std::size_t exhaustions(const char* folder) {
    ovround_llm* llm = nullptr;
    CHECK(ovround_open(folder, nullptr, &llm) == OVROUND_OK);
    ovround_sampling_options options;
    ovround_sampling_defaults(&options);
    options.max_new_tokens = 4;
    std::size_t ends = 0;
    ovround_status status = OVROUND_OUT_OF_MEMORY;
    for (; status != OVROUND_OK; ++ends) {
        ovround_completion* completion = nullptr;
        count = 0;
        last = ends;
        counting = true;
        status = ovround_generate(llm, "Return the number of", &options, nullptr, nullptr, &completion);
        counting = false;
        last = SIZE_MAX;
        if (status != OVROUND_OK && status != OVROUND_OUT_OF_MEMORY &&
            status != OVROUND_ENGINE) {  // oneDNN has its own message
            std::fprintf(stderr, "without allocation %zu: %s\n", ends, ovround_last_error());
            CHECK(false);
        }
        CHECK((status == OVROUND_OK) == (completion != nullptr));
        ovround_completion_free(completion);
    }
    ovround_close(llm);
    return ends;
}

}  // namespace

int main(int arguments, char** values) {
    CHECK(arguments == 2);
    ovround::LLM llm(values[1]);
    ovround::SamplingOptions greedy;
    greedy.max_new_tokens = 64;
    greedy.ignore_eos = true;
    ovround::SamplingOptions drawn = greedy;
    drawn.temperature = 0.9;
    drawn.seed = 7;
    drawn.top_k = 50;
    drawn.top_p = 0.9;
    drawn.min_p = 0.01;
    drawn.repetition_penalty = 1.2;
    drawn.presence_penalty = 0.1;
    drawn.frequency_penalty = 0.1;
    drawn.logit_bias = {{3, 0.5}};
    drawn.stop = {"never to be seen", "nor this"};
    for (const auto& options : {greedy, drawn}) {
        std::size_t tokens = 0;
        const std::size_t count = allocations(llm, options, tokens);
        std::printf("allocations: %zu in %zu tokens\n", count, tokens - 1);
        CHECK(tokens > 32 && count == 0);
    }
    counting = true;  // so that the counter is known to work
    delete new std::string(100, 'a');
    CHECK(count > 0);
    counting = false;
    const std::size_t ends = exhaustions(values[1]);
    std::printf("memory ended in %zu places\n", ends - 1);
    CHECK(ends > 20);
    std::puts("allocations: passed");
}
