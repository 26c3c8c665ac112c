// The assertion of these tests: prints the location and the expression, and ends the program.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

#include "ovround/ovround.hpp"

#define CHECK(condition)                                                         \
    do {                                                                         \
        if (!(condition)) {                                                      \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            std::exit(1);                                                        \
        }                                                                        \
    } while (false)

// The error that `work` throws; checks that its message contains `words`.
template <typename Work>
ovround::ErrorCode refused(const Work& work, const std::string& words) {
    try {
        work();
    } catch (const ovround::Error& error) {
        if (std::string(error.what()).find(words) == std::string::npos) {
            std::fprintf(stderr, "`%s` does not say `%s`\n", error.what(), words.c_str());
            std::exit(1);
        }
        return error.code();
    }
    std::fprintf(stderr, "nothing was refused, where `%s` was expected\n", words.c_str());
    std::exit(1);
}
