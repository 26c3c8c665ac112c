// The command line of ovround-run; names and defaults are those of `ovround run` and `ovround bench`.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "ovround/ovround.hpp"

struct Arguments {
    bool help = false;
    bool version = false;
    bool bench = false;
    bool chat = false;  // a base model is an error
    bool raw = false;
    bool json = false;
    bool quiet = false;  // no notes and statistics on stderr
    std::string folder;
    std::string prompt;
    std::optional<std::string> system_prompt;
    std::string json_schema;  // a file name
    ovround::LoadOptions load;
    ovround::SamplingOptions sampling;
    std::size_t prompt_tokens = 128;
    std::size_t new_tokens = 64;
    std::size_t repeat = 5;
};

extern const char* const kUsage;

// Throws ovround::Error(usage) that names the argument.
Arguments parse(const std::vector<std::string>& arguments);
