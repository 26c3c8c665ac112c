// What stands at a path.
#pragma once

#include <filesystem>

namespace ovround {

// Whether a file is there, and not a folder. Throws Error(artifact) if nobody may look or links lead in a circle.
bool is_file(const std::filesystem::path& path);

// The same of a folder.
bool is_folder(const std::filesystem::path& path);

// Whether anything is there.
bool is_there(const std::filesystem::path& path);

}  // namespace ovround
