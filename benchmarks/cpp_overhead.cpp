// ovround-overhead FOLDER TOKENS ROUNDS: seconds of a token by LLM, and of a bare infer() of the same graph, in turns.
//
// The bare loop feeds the tokens that LLM chose, so both compute the same steps; its tensors are set outside the clock.
// Seconds are of the process's CPU time, with one thread: on a machine that does other work too they still mean
// something.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <openvino/openvino.hpp>
#include <ovround/ovround.hpp>
#include <vector>

namespace {

using Seconds = std::vector<double>;

double now() {
    timespec time{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

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

// Of each token after the first.
Seconds bare(ov::CompiledModel& model, const std::vector<int64_t>& prompt, const std::vector<int64_t>& answer) {
    auto request = model.create_infer_request();
    Seconds found;
    std::vector<int64_t> ids = prompt;
    std::size_t length = 0;
    for (const int64_t next : answer) {
        length += ids.size();
        fill<int64_t>(request, "input_ids", {1, ids.size()}, ids);
        fill<int64_t>(request, "attention_mask", {1, length}, std::vector<int64_t>(length, 1));
        fill<int32_t>(request, "beam_idx", {1}, {0});
        for (const auto& input : model.inputs()) {
            if (input.get_names().count("position_ids") > 0) {
                std::vector<int64_t> positions(ids.size());
                for (std::size_t place = 0; place < ids.size(); ++place) {
                    positions[place] = static_cast<int64_t>(length - ids.size() + place);
                }
                fill<int64_t>(request, "position_ids", {1, ids.size()}, positions);
            }
        }
        const double start = now();
        request.infer();
        if (length > prompt.size()) {
            found.push_back(now() - start);
        }
        ids = {next};
    }
    return found;
}

Seconds ours(ovround::LLM& llm, const std::vector<int64_t>& prompt, const ovround::SamplingOptions& options,
             std::vector<int64_t>& answer) {
    Seconds found;
    double before = now();
    answer.clear();
    llm.generate_ids(prompt, options, [&](const ovround::Piece& piece) {
        if (!answer.empty()) {
            found.push_back(now() - before);
        }
        answer.push_back(piece.token_id);
        before = now();
        return true;
    });
    return found;
}

}  // namespace

int main(int count, char** values) {
    if (count != 4) {
        std::fputs("usage: ovround-overhead FOLDER TOKENS ROUNDS\n", stderr);
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
    const auto prompt = llm.encode("The with statement is used to");
    std::vector<int64_t> answer;
    ours(llm, prompt, options, answer);
    bare(model, prompt, answer);
    Seconds of_llm;
    Seconds of_infer;
    Seconds shares;
    for (int round = 0; round < std::atoi(values[3]); ++round) {
        of_llm.push_back(median(ours(llm, prompt, options, answer)));
        of_infer.push_back(median(bare(model, prompt, answer)));
        shares.push_back(of_llm.back() / of_infer.back() - 1.0);
    }
    std::printf("{\"token_s\": %.9f, \"infer_s\": %.9f, \"overhead\": %.6f}\n", median(of_llm), median(of_infer),
                median(shares));
}
