#include "bandwidth.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <limits>
#include <thread>
#include <vector>

double measure_read_bandwidth(std::size_t threads) {
    constexpr std::size_t kBytes = std::size_t{512} << 20;
    const std::vector<uint64_t> words(kBytes / sizeof(uint64_t), 1);
    const std::size_t share = words.size() / threads;
    std::atomic<uint64_t> together{0};
    double best_s = std::numeric_limits<double>::infinity();
    for (int pass = 0; pass < 3; ++pass) {
        const auto start = std::chrono::steady_clock::now();
        std::vector<std::thread> workers;
        for (std::size_t worker = 0; worker < threads; ++worker) {
            workers.emplace_back([&, first = words.data() + worker * share] {
                uint64_t bits = 0;
                for (std::size_t index = 0; index < share; ++index) {
                    bits |= first[index];
                }
                together |= bits;  // without this the compiler removes the loop
            });
        }
        for (auto& worker : workers) {
            worker.join();
        }
        best_s = std::min(best_s, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    return static_cast<double>(share * threads * sizeof(uint64_t)) / best_s;
}
