// The manifest `ovround.json` of a folder, described in docs/concepts/artifact.md.
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
    uint64_t weight_bytes_per_token;  // bytes of stored weights that a decoding step reads
};

// Parses `text`, the manifest at `path`; throws Error(artifact) if it is damaged or has another format.
Manifest parse_manifest(std::string_view text, const std::filesystem::path& path);

// Throws Error(artifact) unless `folder` holds an OpenVINO model and, if it has a manifest, every file of the manifest
// with the same size, and with `contents` the same sha256. Returns the bytes of weights that a decoding step reads:
// from the manifest, or else the size of the weight file.
uint64_t check_folder(const std::filesystem::path& folder, bool contents);

}  // namespace ovround
