// Where this library lies, for files that belong beside it.
#pragma once

#include <filesystem>
#include <vector>

namespace ovround {

// The folder of this library, or of the program if it is linked statically; empty if that is unknown.
std::filesystem::path own_folder();

// The folder of Python's packages, if this library is in a wheel (ovround/native/lib); nothing is checked.
std::filesystem::path packages_beside_us();

// The files of `folder`; none if it is not there.
std::vector<std::filesystem::path> files_of(const std::filesystem::path& folder);

}  // namespace ovround
