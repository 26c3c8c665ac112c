// Reading of a model folder's small JSON files.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>

namespace ovround {

// The object that `text` is; Error(artifact), naming `path`, when it is none or nested deeper than 64.
nlohmann::json parse_object(std::string_view text, const std::filesystem::path& path);

// The object in a file of at most 256 MiB; an empty one where an `optional` file is missing.
nlohmann::json read_object(const std::filesystem::path& path, bool optional = false);

// A whole file, as it is.
std::string read_text(const std::filesystem::path& path);

}  // namespace ovround
