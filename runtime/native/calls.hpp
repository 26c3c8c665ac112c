// Resources of a running product: kernels, memory, threads.
#pragma once

#include <cstdint>
#include <mutex>
#include <vector>

#include "kernels.hpp"
#include "linear.hpp"

namespace ovround::native {

constexpr int64_t kDepth = 512;  // inputs of a decoded tile: 64 rows of this many float32 fit a second-level cache
constexpr int64_t kCacheLine = 64;

const Kernels& kernels_of(Isa isa);

template <typename Body>
void parallel(const Threads& threads, int64_t tasks, const Body& body) {
    if (tasks == 1) {
        body(int64_t{0});
        return;
    }
    threads.run(
        threads.self, tasks, [](const void* context, int64_t index) { (*static_cast<const Body*>(context))(index); },
        &body);
}

inline int64_t pieces(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

// Memory that calls reuse, so that the decode loop allocates nothing. Each call has its own buffer while it runs.
class Scratch {
public:
    Scratch() {
        const std::lock_guard<std::mutex> lock(mutex());
        if (!idle().empty()) {
            bytes_ = std::move(idle().back());
            idle().pop_back();
        }
    }
    ~Scratch() {
        const std::lock_guard<std::mutex> lock(mutex());
        idle().push_back(std::move(bytes_));
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    // Reserves memory for all parts at once; each begins at a cache line.
    template <typename... Sizes>
    void reserve(Sizes... sizes) {
        const std::size_t size = (... + (static_cast<std::size_t>(sizes) + kCacheLine)) + kCacheLine;
        if (bytes_.size() < size) {
            bytes_.resize(size);
        }
        used_ = 0;
    }
    template <typename Value>
    Value* take(int64_t count) {
        const auto at = reinterpret_cast<std::uintptr_t>(bytes_.data() + used_);
        used_ += (kCacheLine - at % kCacheLine) % kCacheLine;
        auto* part = reinterpret_cast<Value*>(bytes_.data() + used_);
        used_ += static_cast<std::size_t>(count) * sizeof(Value);
        return part;
    }

private:
    static std::mutex& mutex() {
        static std::mutex guard;
        return guard;
    }
    static std::vector<std::vector<uint8_t>>& idle() {
        static std::vector<std::vector<uint8_t>> all;
        return all;
    }
    std::vector<uint8_t> bytes_;
    std::size_t used_ = 0;
};

}  // namespace ovround::native
