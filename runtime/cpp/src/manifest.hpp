// The manifest of a folder, `ovround.json`, as docs/concepts/artifact.md describes it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>

namespace ovround {

inline constexpr const char* kManifest = "ovround.json";
inline constexpr int kFormatVersion = 1;

struct FileRecord {
    uint64_t size_bytes;
    std::string sha256;
};

struct Manifest {
    std::map<std::string, FileRecord> files;
    uint64_t weight_bytes_per_token;  // what a decoding step reads, as stored
};

// What `text`, the manifest at `path`, says; Error(artifact) when it is damaged or of another format.
Manifest parse_manifest(std::string_view text, const std::filesystem::path& path);

// Error(artifact) unless `folder` holds an OpenVINO model and, where it has a manifest, every file of the manifest: of
// the same size, and with `contents` of the same sha256. Bytes of weights that a decoding step reads: of the manifest,
// else of the whole weight file.
uint64_t check_folder(const std::filesystem::path& folder, bool contents);

}  // namespace ovround
