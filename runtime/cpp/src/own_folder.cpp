#include "own_folder.hpp"

#include <system_error>

#if !defined(_WIN32)
#include <dlfcn.h>
#endif

namespace ovround {

namespace fs = std::filesystem;

fs::path own_folder() {
#if !defined(_WIN32)
    Dl_info info{};
    if (dladdr(reinterpret_cast<const void*>(&own_folder), &info) != 0 && info.dli_fname != nullptr) {
        return fs::absolute(info.dli_fname).parent_path();
    }
#endif
    return {};
}

fs::path packages_beside_us() { return own_folder() / ".." / ".." / ".."; }

std::vector<fs::path> files_of(const fs::path& folder) {
    std::vector<fs::path> files;
    std::error_code missing;
    for (const auto& entry : fs::directory_iterator(folder, missing)) {
        files.push_back(entry.path());
    }
    return files;
}

}  // namespace ovround
