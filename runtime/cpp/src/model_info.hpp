// Properties of a model that are not in its graph.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

namespace ovround {

struct ModelInfo {
    std::size_t context_length;          // tokens of prompt and answer together
    std::vector<int64_t> end_token_ids;  // may be empty
};

// Reads config.json and generation_config.json; the end tokens of the latter win. Throws Error(artifact) without a
// context length.
ModelInfo read_model_info(const std::filesystem::path& folder);

// The same from the objects in these files.
ModelInfo parse_model_info(const nlohmann::json& config, const nlohmann::json& generation_config,
                           const std::filesystem::path& folder);

}  // namespace ovround
