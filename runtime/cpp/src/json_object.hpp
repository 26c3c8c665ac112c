// Reads the small JSON files of a model folder.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>

namespace ovround {

// Parses `text` as an object; throws Error(artifact) that names `path` if it is no object or nested deeper than 64.
nlohmann::json parse_object(std::string_view text, const std::filesystem::path& path);

// The object in a file of at most 256 MiB; an empty object if an `optional` file is missing.
nlohmann::json read_object(const std::filesystem::path& path, bool optional = false);

// The contents of a file.
std::string read_text(const std::filesystem::path& path);

}  // namespace ovround
