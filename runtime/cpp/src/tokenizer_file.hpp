// Reading of tokenizer.json as in transformers 5; runtime/text/tokenizer_file.py does the same and gives the reasons.
#pragma once

#include <filesystem>
#include <map>
#include <string>

namespace ovround {

// The text of a tokenizer.json: as the tokenizer is used, which is not always as the folder's file has it.
std::string tokenizer_json(const std::filesystem::path& folder);

// Token ids by their texts, added tokens among them.
std::map<std::string, int64_t> read_vocabulary(const std::filesystem::path& folder);

}  // namespace ovround
