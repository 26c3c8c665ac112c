// ovround-overhead FOLDER TOKENS ROUNDS [TEMPERATURE]: compares the time of a token by LLM with a bare infer() of the
// same graph.
//
// After every 16 tokens of LLM the bare loop computes the same 16 steps; its tensors are set outside the clock. The
// first steps of each turn run with cold caches and do not count. `own_s` is the time of LLM outside of its own
// infer(), which the linker's --wrap redirects to this file. All times are CPU time of the process on one thread, which
// other work on the machine disturbs little.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <numeric>
#include <openvino/openvino.hpp>
#include <ovround/ovround.hpp>
#include <vector>

namespace {

using Seconds = std::vector<double>;

constexpr std::size_t kTurn = 16;  // steps
constexpr std::size_t kCold = 3;   // steps at the beginning of a turn that do not count

double in_infer_s = 0.0;  // time that the current step has spent in infer()

double now() {
    timespec time{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

}  // namespace

extern "C" {  // ov::InferRequest::infer(), by its name in the Itanium C++ ABI
void __real__ZN2ov12InferRequest5inferEv(ov::InferRequest*);
void __wrap__ZN2ov12InferRequest5inferEv(ov::InferRequest* request) {
    const double start = now();
    __real__ZN2ov12InferRequest5inferEv(request);
    in_infer_s += now() - start;
}
}

namespace {

double median(Seconds values) {
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

template <typename T>
void fill(ov::InferRequest& request, const char* name, const ov::Shape& shape, const std::vector<T>& values) {
    auto tensor = request.get_tensor(name);
    tensor.set_shape(shape);
    std::copy(values.begin(), values.end(), tensor.data<T>());
}

// Runs infer() of the same graph step by step.
class Bare {
public:
    explicit Bare(ov::CompiledModel& model) : request_(model.create_infer_request()) {
        for (const auto& input : model.inputs()) {
            has_positions_ = has_positions_ || input.get_names().count("position_ids") > 0;
        }
    }

    // Appends `ids` and returns the seconds of that step.
    double step(const std::vector<int64_t>& ids) {
        length_ += ids.size();
        fill<int64_t>(request_, "input_ids", {1, ids.size()}, ids);
        fill<int64_t>(request_, "attention_mask", {1, length_}, std::vector<int64_t>(length_, 1));
        fill<int32_t>(request_, "beam_idx", {1}, {0});
        if (has_positions_) {
            std::vector<int64_t> positions(ids.size());
            std::iota(positions.begin(), positions.end(), static_cast<int64_t>(length_ - ids.size()));
            fill<int64_t>(request_, "position_ids", {1, ids.size()}, positions);
        }
        in_infer_s = 0.0;
        request_.infer();
        return in_infer_s;
    }

private:
    ov::InferRequest request_;
    bool has_positions_ = false;
    std::size_t length_ = 0;
};

// The first two hold one value a step, the others one value a turn.
struct Timings {
    Seconds token_s;
    Seconds own_s;
    Seconds infer_s;
    Seconds overhead;
};

// Generates one answer; prefill computes its first token.
void measure(ovround::LLM& llm, ov::CompiledModel& model, const std::vector<int64_t>& prompt,
             const ovround::SamplingOptions& options, Timings& timings) {
    Bare bare(model);
    bare.step(prompt);
    std::vector<int64_t> turn;  // tokens that LLM has processed since the bare loop's last turn
    Seconds ours;
    std::size_t tokens = 0;
    double start = 0.0;
    llm.generate_ids(prompt, options, [&](const ovround::Piece& piece) {
        const double step_s = now() - start;
        if (tokens++ > 0 && turn.size() > kCold) {
            ours.push_back(step_s);
            timings.token_s.push_back(step_s);
            timings.own_s.push_back(step_s - in_infer_s);
        }
        if (turn.size() == kTurn) {
            Seconds infer;
            for (std::size_t step = 0; step < turn.size(); ++step) {
                const double infer_s = bare.step({turn[step]});
                if (step >= kCold) {
                    infer.push_back(infer_s);
                }
            }
            timings.infer_s.push_back(median(infer));
            timings.overhead.push_back(median(ours) / median(infer) - 1.0);
            ours.clear();
            turn.clear();
        }
        turn.push_back(piece.token_id);
        in_infer_s = 0.0;
        start = now();
        return true;
    });
}

}  // namespace

int main(int count, char** values) {
    if (count < 4) {
        std::fputs("usage: ovround-overhead FOLDER TOKENS ROUNDS [TEMPERATURE]\n", stderr);
        return 2;
    }
    ovround::LoadOptions load;
    load.threads = 1;
    ovround::LLM llm(values[1], load);
    ov::Core core;
    auto model =
        core.compile_model(std::string(values[1]) + "/openvino_model.xml", "CPU", {{"INFERENCE_NUM_THREADS", 1}});
    ovround::SamplingOptions options;
    options.max_new_tokens = std::atoll(values[2]);
    options.ignore_eos = true;
    options.temperature = count > 4 ? std::atof(values[4]) : 0.0;
    options.seed = 1;
    const auto prompt = llm.encode("The with statement is used to");
    Timings warm_up;
    measure(llm, model, prompt, options, warm_up);
    Timings timings;
    for (int round = 0; round < std::atoi(values[3]); ++round) {
        measure(llm, model, prompt, options, timings);
    }
    if (timings.overhead.empty()) {
        std::fputs("error: more than 17 tokens and 1 round are needed\n", stderr);
        return 2;
    }
    std::printf("{\"token_s\": %.9f, \"infer_s\": %.9f, \"overhead\": %.6f, \"own_s\": %.9f}\n",
                median(timings.token_s), median(timings.infer_s), median(timings.overhead), median(timings.own_s));
}
