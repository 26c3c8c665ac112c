// A model's context length and end tokens, from the configuration files of its folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

namespace ovround {

struct ModelInfo {
    std::size_t context_length;          // tokens, prompt and answer together
    std::vector<int64_t> end_token_ids;  // may be empty
};

// Of config.json and generation_config.json; the end tokens of the latter win. Error(artifact) without a context
// length.
ModelInfo read_model_info(const std::filesystem::path& folder);

// The same of the objects that these files hold.
ModelInfo parse_model_info(const nlohmann::json& config, const nlohmann::json& generation_config,
                           const std::filesystem::path& folder);

}  // namespace ovround
