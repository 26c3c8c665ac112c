#include "json_object.hpp"

#include <fstream>

#include "file_kind.hpp"
#include "ovround/ovround.hpp"

namespace ovround {
namespace {

constexpr int kMaxDepth = 64;
constexpr std::uintmax_t kMaxBytes = std::uintmax_t{256} << 20;
constexpr const char* kHint = "copy the whole folder again";

}  // namespace

std::string read_text(const std::filesystem::path& path) {
    std::error_code failed;
    const std::uintmax_t size = std::filesystem::file_size(path, failed);
    if (failed) {
        throw Error(ErrorCode::artifact, "`" + path.string() + "` cannot be read: " + failed.message(), kHint);
    }
    if (size > kMaxBytes) {
        throw Error(ErrorCode::artifact, "`" + path.string() + "` has " + std::to_string(size) + " bytes; at most " +
                                             std::to_string(kMaxBytes) + " are read");
    }
    std::string text(static_cast<std::size_t>(size), '\0');
    std::ifstream file(path, std::ios::binary);
    if (!file.read(text.data(), static_cast<std::streamsize>(size))) {
        throw Error(ErrorCode::artifact, "`" + path.string() + "` cannot be read", kHint);
    }
    return text;
}

nlohmann::json parse_object(std::string_view text, const std::filesystem::path& path) {
    const auto limit = [&path](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
        if (depth > kMaxDepth) {
            throw Error(ErrorCode::artifact,
                        "`" + path.string() + "` is nested deeper than " + std::to_string(kMaxDepth));
        }
        return true;
    };
    try {
        auto object = nlohmann::json::parse(text, limit);
        if (object.is_object()) {
            return object;
        }
    } catch (const nlohmann::json::exception& error) {
        throw Error(ErrorCode::artifact, "`" + path.string() + "` cannot be read: " + error.what(), kHint);
    }
    throw Error(ErrorCode::artifact, "`" + path.string() + "` holds no JSON object", kHint);
}

nlohmann::json read_object(const std::filesystem::path& path, bool optional) {
    if (optional && !is_there(path)) {
        return nlohmann::json::object();
    }
    return parse_object(read_text(path), path);
}

}  // namespace ovround
