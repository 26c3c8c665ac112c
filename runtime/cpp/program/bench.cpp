#include "bench.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <iostream>
#include <numeric>
#include <random>
#include <thread>

#if !defined(_WIN32)
#include <sys/resource.h>
#endif

#include "bandwidth.hpp"

namespace {

constexpr std::size_t kWarmUpRuns = 1;

// A percentile with linear interpolation, the default of numpy.percentile.
double percentile(std::vector<double> values, double percent) {
    std::sort(values.begin(), values.end());
    const double rank = percent / 100.0 * static_cast<double>(values.size() - 1);
    const auto low = static_cast<std::size_t>(rank);
    const std::size_t high = std::min(low + 1, values.size() - 1);
    return values[low] + (values[high] - values[low]) * (rank - std::floor(rank));
}

nlohmann::json peak_memory_bytes() {
#if defined(_WIN32)
    return nullptr;
#else
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
#if defined(__APPLE__)
    return usage.ru_maxrss;
#else
    return usage.ru_maxrss * 1024;
#endif
#endif
}

}  // namespace

nlohmann::json bench(const Arguments& arguments) {
    if (arguments.prompt_tokens < 1 || arguments.new_tokens < 2 || arguments.repeat < 1) {
        throw ovround::Error(ovround::ErrorCode::usage,
                             "--prompt-tokens and --repeat must be 1 or more, and --new-tokens 2 or more");
    }
    ovround::LLM llm(arguments.folder, arguments.load);
    if (!llm.warning().empty()) {
        std::cerr << "warning: " << llm.warning() << '\n';
    }
    std::mt19937_64 source(arguments.sampling.seed.value_or(0));
    std::uniform_int_distribution<int64_t> token(0, static_cast<int64_t>(llm.vocab_size()) - 1);
    std::vector<int64_t> prompt(arguments.prompt_tokens);
    std::generate(prompt.begin(), prompt.end(), [&] { return token(source); });
    ovround::SamplingOptions options;
    options.max_new_tokens = static_cast<int64_t>(arguments.new_tokens);
    options.ignore_eos = true;

    std::vector<double> first;
    std::vector<double> later;
    for (std::size_t run = 0; run < kWarmUpRuns + arguments.repeat; ++run) {
        auto before = std::chrono::steady_clock::now();
        bool is_first = true;
        llm.generate_ids(prompt, options, [&](const ovround::Piece&) {
            const auto now = std::chrono::steady_clock::now();
            if (run >= kWarmUpRuns) {
                (is_first ? first : later).push_back(std::chrono::duration<double>(now - before).count());
            }
            is_first = false;
            before = now;
            return true;
        });
    }
    const auto peak = peak_memory_bytes();  // before the bandwidth test, which allocates memory itself
    const auto threads = arguments.load.threads > 0 ? static_cast<std::size_t>(arguments.load.threads)
                                                    : std::max<std::size_t>(std::thread::hardware_concurrency(), 1);
    const double bandwidth = measure_read_bandwidth(threads);
    const double per_token = percentile(later, 50);
    const auto weight_bytes = llm.weight_bytes_per_token();
    return {{"device", llm.device()},
            {"kernel", llm.kernel()},
            {"prompt_tokens", arguments.prompt_tokens},
            {"new_tokens", arguments.new_tokens},
            {"repeat", arguments.repeat},
            {"warm_up_runs", kWarmUpRuns},
            {"load_s", llm.load_s()},
            {"time_to_first_token_median_s", percentile(first, 50)},
            {"time_to_first_token_p90_s", percentile(first, 90)},
            {"time_per_output_token_median_s", per_token},
            {"time_per_output_token_p90_s", percentile(later, 90)},
            {"tokens_per_s", static_cast<double>(later.size()) / std::accumulate(later.begin(), later.end(), 0.0)},
            {"peak_memory_bytes", peak},
            {"weight_bytes_per_token", weight_bytes},
            {"read_bandwidth_bytes_per_s", bandwidth},
            {"bandwidth_share", static_cast<double>(weight_bytes) / per_token / bandwidth}};
}
