// Reads tokenizer.json as transformers 5 does; runtime/text/tokenizer_file.py does the same and documents the reasons.
#pragma once

#include <filesystem>
#include <map>
#include <string>

namespace ovround {

// The tokenizer.json that is really used, which can differ from the folder's file.
std::string tokenizer_json(const std::filesystem::path& folder);

// Token ids by their texts, with added tokens.
std::map<std::string, int64_t> read_vocabulary(const std::filesystem::path& folder);

}  // namespace ovround
