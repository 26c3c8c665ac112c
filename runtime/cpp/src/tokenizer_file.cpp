#include "tokenizer_file.hpp"

#include "json_object.hpp"
#include "ovround/ovround.hpp"

namespace ovround {
namespace {

using nlohmann::json;

constexpr const char* kSpace = "\xE2\x96\x81";  // SentencePiece's visible space

// Normaliser, pre-tokeniser and decoder of transformers' LlamaTokenizer.
void use_sentencepiece(json& parts, const json& config) {
    const json stated = config.value("add_prefix_space", json());
    const bool prefix = stated.is_null() || stated == true;
    const bool legacy = config.value("legacy", json()) == true;
    json steps = {{{"type", "Replace"}, {"pattern", {{"String", kSpace}}}, {"content", " "}},
                  {{"type", "ByteFallback"}},
                  {{"type", "Fuse"}}};
    if (prefix) {
        steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
    }
    parts["normalizer"] = nullptr;
    parts["pre_tokenizer"] = {{"type", "Metaspace"},
                              {"replacement", kSpace},
                              {"prepend_scheme", !prefix  ? "never"
                                                 : legacy ? "always"
                                                          : "first"},
                              {"split", false}};
    parts["decoder"] = {{"type", "Sequence"}, {"decoders", steps}};
}

void use_byte_level(json& parts, const json& config) {
    const json level = {
        {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
    parts["normalizer"] = nullptr;
    parts["decoder"] = level;
    parts["pre_tokenizer"] = level;
    parts["pre_tokenizer"]["add_prefix_space"] = config.value("add_prefix_space", json()) == true;
}

// Changes `parts` as the declared class does; returns whether it did.
bool rebuild(json& parts, const json& config, const json& model_config) {
    const json named = config.value("tokenizer_class", json());
    std::string declared = named.is_string() ? named.get<std::string>() : "";
    if (declared.size() > 4 && declared.compare(declared.size() - 4, 4, "Fast") == 0) {
        declared.resize(declared.size() - 4);
    }
    const bool is_bpe = parts.value(json::json_pointer("/model/type"), json()) == "BPE";
    if (model_config.value("model_type", json()) != "llama" || !is_bpe) {
        return false;
    }
    const bool byte_level = declared == "GPT2Tokenizer";
    if (!byte_level && (declared != "LlamaTokenizer" || parts.dump().find("\"ByteLevel\"") != std::string::npos)) {
        return false;
    }
    parts["model"].update({{"dropout", nullptr},
                           {"unk_token", nullptr},
                           {"ignore_merges", false},
                           {"fuse_unk", !byte_level},
                           {"byte_fallback", !byte_level}});
    byte_level ? use_byte_level(parts, config) : use_sentencepiece(parts, config);
    return true;
}

// The file's added tokens, overridden by those of tokenizer_config.json; a rebuilt class uses only the latter.
json added_tokens(const json& parts, const json& config, bool rebuilt) {
    std::map<int64_t, json> merged;
    const json stated = config.value("added_tokens_decoder", json::object());
    if (!rebuilt || stated.empty()) {
        for (const auto& token : parts.value("added_tokens", json::array())) {
            merged[token.at("id").get<int64_t>()] = token;
        }
    }
    for (const auto& [id, token] : stated.items()) {
        json& held = merged[std::stoll(id)];
        held = token;
        held["id"] = std::stoll(id);
    }
    json list = json::array();
    for (const auto& [id, token] : merged) {
        list.push_back(token);
    }
    return list;
}

json read_parts(const std::filesystem::path& folder) {
    const auto path = folder / "tokenizer.json";
    json parts = read_object(path);
    const json config = read_object(folder / "tokenizer_config.json", true);
    try {
        const bool rebuilt = rebuild(parts, config, read_object(folder / "config.json", true));
        parts["added_tokens"] = added_tokens(parts, config, rebuilt);
    } catch (const json::exception& error) {
        throw Error(ErrorCode::artifact, "`" + path.string() + "` is no tokenizer: " + error.what());
    } catch (const std::logic_error& error) {  // std::stoll
        throw Error(ErrorCode::artifact,
                    "the added tokens of `" + folder.string() + "` cannot be read: " + error.what());
    }
    parts["truncation"] = parts["padding"] = nullptr;
    return parts;
}

}  // namespace

std::string tokenizer_json(const std::filesystem::path& folder) { return read_parts(folder).dump(); }

std::map<std::string, int64_t> read_vocabulary(const std::filesystem::path& folder) {
    const json parts = read_parts(folder);
    std::map<std::string, int64_t> ids;
    try {
        const json& vocabulary = parts.at("model").at("vocab");
        int64_t index = 0;
        for (const auto& [key, entry] : vocabulary.items()) {  // {text: id}, or [[text, score]] in order
            const bool listed = vocabulary.is_array();
            ids[listed ? entry.at(0).get<std::string>() : key] = listed ? index : entry.get<int64_t>();
            ++index;
        }
        for (const auto& token : parts.at("added_tokens")) {
            ids[token.at("content").get<std::string>()] = token.at("id").get<int64_t>();
        }
    } catch (const json::exception& error) {
        throw Error(ErrorCode::artifact,
                    "`" + (folder / "tokenizer.json").string() + "` is no tokenizer: " + error.what());
    }
    return ids;
}

}  // namespace ovround
