// ovround-run: streams one answer to stdout, or measures speed. Results go to stdout, messages to stderr.
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <iterator>
#include <new>
#include <nlohmann/json.hpp>

#include "arguments.hpp"
#include "bench.hpp"
#include "prompt.hpp"

namespace {

using nlohmann::json;

std::atomic<bool> interrupted{false};
std::atomic<ovround::LLM*> answering{nullptr};

extern "C" void interrupt(int) {
    interrupted = true;
    if (auto* llm = answering.load()) {
        llm->cancel();
    }
}

json as_json(const std::optional<std::vector<ovround::TokenLogprobs>>& positions) {
    if (!positions) {
        return nullptr;
    }
    json list = json::array();
    for (const auto& position : *positions) {
        list.push_back({{"token_id", position.token_id}, {"logprob", position.logprob}, {"top", position.top}});
    }
    return list;
}

json as_json(const ovround::Completion& answer) {
    const auto& per_token = answer.timings.time_per_output_token_s;
    return {{"text", answer.text},
            {"token_ids", answer.token_ids},
            {"finish_reason", ovround::to_string(answer.finish_reason)},
            {"usage",
             {{"prompt_tokens", answer.usage.prompt_tokens},
              {"completion_tokens", answer.usage.completion_tokens},
              {"cached_tokens", answer.usage.cached_tokens},
              {"drafted_tokens", answer.usage.drafted_tokens},
              {"accepted_tokens", answer.usage.accepted_tokens}}},
            {"timings",
             {{"time_to_first_token_s", answer.timings.time_to_first_token_s},
              {"time_per_output_token_s", per_token ? json(*per_token) : json()}}},
            {"logprobs", as_json(answer.logprobs)},
            {"prompt_logprobs", as_json(answer.prompt_logprobs)}};
}

int write_error = 0;  // of the first output that could not be written

// Writes to stdout at once; returns whether that is still possible.
bool put(const std::string& text) {
    errno = 0;
    if (write_error == 0 && !(std::cout << text << std::flush)) {
        write_error = errno != 0 ? errno : EIO;
    }
    return write_error == 0;
}

void print_statistics(const ovround::Completion& answer) {
    std::fprintf(stderr, "%zu tokens, first after %.0f ms", answer.token_ids.size(),
                 answer.timings.time_to_first_token_s * 1e3);
    if (answer.timings.time_per_output_token_s) {
        std::fprintf(stderr, ", %.1f tokens/s", 1.0 / *answer.timings.time_per_output_token_s);
    }
    if (answer.usage.drafted_tokens > 0) {
        std::fprintf(stderr, ", %zu of %zu proposed tokens accepted", answer.usage.accepted_tokens,
                     answer.usage.drafted_tokens);
    }
    std::fputs(answer.finish_reason == ovround::FinishReason::cancelled ? ", stopped\n" : "\n", stderr);
}

void print_bench(const json& result) {
    for (const auto& [name, value] : result.items()) {
        put(name + ": " + value.dump() + "\n");
    }
}

void answer(const Arguments& arguments) {
    std::string text = arguments.prompt;
    if (text == "-") {
        text.assign(std::istreambuf_iterator<char>(std::cin), {});
    }
    ovround::LLM llm(arguments.folder, arguments.load);
    if (!llm.warning().empty()) {
        std::cerr << "warning: " << llm.warning() << '\n';
    }
    const Prompt prompt = build_prompt(llm, arguments, text);
    answering = &llm;
    std::signal(SIGINT, interrupt);
    const bool streams = !arguments.json && arguments.sampling.num_beams == 1;
    ovround::OnPiece on_piece;
    if (streams) {
        on_piece = [](const ovround::Piece& piece) { return put(std::string(piece.text)); };
    }
    const auto completion = llm.generate_ids(prompt.ids, arguments.sampling, on_piece);
    answering = nullptr;
    if (arguments.json) {
        json document = as_json(completion);
        document["prompt_format"] = prompt.format;
        document["kernel"] = llm.kernel();
        put(document.dump() + "\n");
    } else {
        if (put((streams ? "" : completion.text) + "\n") && !arguments.quiet) {
            print_statistics(completion);
        }
    }
}

int run(const Arguments& arguments) {
    if (arguments.help) {
        put(kUsage);
    } else if (arguments.version) {
        put(std::string(ovround::version()) + "\n");
    } else if (arguments.bench) {
        const auto result = bench(arguments);
        if (arguments.json) {
            put(result.dump() + "\n");
        } else {
            print_bench(result);
        }
    } else {
        answer(arguments);
    }
    if (write_error != 0) {
        std::cerr << "error: output cannot be written: " << std::strerror(write_error) << '\n';
        return 1;
    }
    return interrupted ? 130 : 0;
}

}  // namespace

#if defined(OVROUND_UNLINKED)  // runtime/native_program.py calls it, and has loaded OpenVINO
extern "C" __attribute__((visibility("default"))) int ovround_run(int count, char** values);
int ovround_run(int count, char** values) {
#else
int main(int count, char** values) {
#endif
    try {
        return run(parse({values + 1, values + count}));
    } catch (const ovround::Error& error) {
        std::cerr << "error: " << error.what() << '\n';
        if (!error.hint().empty()) {
            std::cerr << "hint: " << error.hint() << '\n';
        }
        return error.code() == ovround::ErrorCode::usage ? 2 : 1;
    } catch (const std::bad_alloc&) {
        std::cerr << "error: memory is exhausted\n";
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << "\nhint: this is a defect of ovround\n";
    }
    return 1;
}
