#include "file_kind.hpp"

#include "ovround/ovround.hpp"

namespace ovround {
namespace {

namespace fs = std::filesystem;

fs::file_type kind(const fs::path& path) {
    std::error_code failed;
    const auto type = fs::status(path, failed).type();
    if (type == fs::file_type::none) {
        throw Error(ErrorCode::artifact, "`" + path.string() + "` cannot be opened: " + failed.message());
    }
    return type;
}

}  // namespace

bool is_file(const fs::path& path) { return kind(path) == fs::file_type::regular; }

bool is_folder(const fs::path& path) { return kind(path) == fs::file_type::directory; }

bool is_there(const fs::path& path) { return kind(path) != fs::file_type::not_found; }

}  // namespace ovround
