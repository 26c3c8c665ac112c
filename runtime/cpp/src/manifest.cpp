#include "manifest.hpp"

#include <algorithm>
#include <optional>

#include "file_kind.hpp"
#include "json_object.hpp"
#include "ovround/ovround.hpp"
#include "sha256.hpp"

namespace ovround {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kAgain = "convert again, or copy the folder again";

bool leaves_folder(const std::string& name) {
    const fs::path path(name);
    return path.empty() || path.is_absolute() || std::find(path.begin(), path.end(), "..") != path.end();
}

bool ends_with(std::string_view text, std::string_view end) {
    return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

uint64_t read_per_token(const json& weights) {
    const bool has_head = std::any_of(weights.begin(), weights.end(), [](const json& weight) {
        return ends_with(weight.at("name").get_ref<const std::string&>(), "lm_head.weight");
    });
    uint64_t total = 0;
    for (const auto& weight : weights) {
        const auto size = weight.at("size_bytes").get<uint64_t>();
        const auto rows = weight.at("shape").at(0).get<uint64_t>();
        // If the embeddings are not also the head, a step reads one row of them.
        const bool gathered =
            has_head && ends_with(weight.at("name").get_ref<const std::string&>(), "embed_tokens.weight");
        total += gathered && rows > 0 ? size / rows : size;
    }
    return total;
}

void check_files(const fs::path& folder, const Manifest& manifest, bool contents) {
    for (const auto& [name, record] : manifest.files) {
        const fs::path path = folder / name;
        if (!is_file(path)) {
            throw Error(ErrorCode::artifact, "`" + path.string() + "` is missing", kAgain);
        }
        const auto size = fs::file_size(path);
        if (size != record.size_bytes) {
            throw Error(ErrorCode::artifact,
                        "`" + path.string() + "` has " + std::to_string(size) + " bytes, " +
                            std::to_string(record.size_bytes) + " were written",
                        kAgain);
        }
        if (contents && sha256_file(path) != record.sha256) {
            throw Error(ErrorCode::artifact, "`" + path.string() + "` has changed since it was written", kAgain);
        }
    }
}

}  // namespace

Manifest parse_manifest(std::string_view text, const fs::path& path) {
    const json raw = parse_object(text, path);
    try {
        const json& version = raw.at("format_version");
        if (version != kFormatVersion) {
            throw Error(ErrorCode::artifact,
                        "`" + path.string() + "` has format " + version.dump() + ", written by ovround " +
                            raw.value("ovround_version", json()).dump() + "; this ovround reads format " +
                            std::to_string(kFormatVersion),
                        "upgrade ovround, or convert again");
        }
        Manifest manifest{{}, read_per_token(raw.at("weights"))};
        for (const auto& [name, record] : raw.at("files").get_ref<const json::object_t&>()) {
            if (leaves_folder(name)) {
                throw Error(ErrorCode::artifact,
                            "`" + path.string() + "` names a file outside its folder: `" + name + "`");
            }
            manifest.files[name] = {record.at("size_bytes").get<uint64_t>(), record.at("sha256").get<std::string>()};
        }
        return manifest;
    } catch (const json::exception& error) {
        throw Error(ErrorCode::artifact, "`" + path.string() + "` is not a manifest: " + error.what());
    }
}

uint64_t check_folder(const fs::path& folder, bool contents) {
    if (!is_folder(folder)) {
        throw Error(ErrorCode::artifact,
                    "`" + folder.string() + (is_there(folder) ? "` is no folder" : "` does not exist"));
    }
    std::optional<Manifest> manifest;
    if (is_file(folder / kManifest)) {
        manifest = parse_manifest(read_text(folder / kManifest), folder / kManifest);
        check_files(folder, *manifest, contents);
    }
    if (is_file(folder / "openvino_model.xml")) {
        std::error_code missing;  // the engine reports a missing file
        return manifest ? manifest->weight_bytes_per_token : fs::file_size(folder / "openvino_model.bin", missing);
    }
#if defined(OVROUND_ONNX)
    if (is_file(folder / "model.onnx")) {
        std::error_code missing;
        return manifest ? manifest->weight_bytes_per_token : fs::file_size(folder / "model.onnx.data", missing);
    }
#endif
    std::string hint = "give a folder that `ovround convert --format openvino` wrote";
    if (is_file(folder / "openvino" / kManifest)) {
        hint = "open `" + (folder / "openvino").string() + "`";
    } else if (is_file(folder / "model.onnx")) {
        hint = "this build reads OpenVINO folders: convert with --format openvino";
    }
    throw Error(ErrorCode::artifact, "`" + folder.string() + "` has no openvino_model.xml", hint);
}

}  // namespace ovround
