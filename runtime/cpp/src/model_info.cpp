#include "model_info.hpp"

#include "json_object.hpp"
#include "ovround/ovround.hpp"

namespace ovround {
namespace {

using nlohmann::json;

// The first value of `key` in `sources` that is not null.
json first(const std::vector<json>& sources, const char* key) {
    for (const auto& source : sources) {
        if (source.is_object() && source.contains(key) && !source[key].is_null()) {
            return source[key];
        }
    }
    return nullptr;
}

bool is_token(const json& value) { return value.is_number_unsigned() && value.get<uint64_t>() < uint64_t{1} << 31; }

std::vector<int64_t> token_ids(const json& value) {
    const json list = value.is_array() ? value : value.is_null() ? json::array() : json::array({value});
    std::vector<int64_t> ids;
    for (const auto& token : list) {
        if (!is_token(token)) {
            throw Error(ErrorCode::artifact,
                        "eos_token_id is " + value.dump() + "; a token id or a list of them is needed");
        }
        ids.push_back(token.get<int64_t>());
    }
    return ids;
}

}  // namespace

ModelInfo read_model_info(const std::filesystem::path& folder) {
    return parse_model_info(read_object(folder / "config.json", true),
                            read_object(folder / "generation_config.json", true), folder);
}

ModelInfo parse_model_info(const json& config, const json& generation_config, const std::filesystem::path& folder) {
    const std::vector<json> sources{generation_config, config, config.value("text_config", json())};
    // ovround adds context_length to a config.json that has another key, or whose length is that before rope scaling
    json context = config.value("context_length", json());
    for (const char* key : {"max_position_embeddings", "context_length"}) {
        if (context.is_null()) {
            context = first(sources, key);
        }
    }
    if (!is_token(context) || context == 0) {
        throw Error(ErrorCode::artifact, "`" + folder.string() + "` states no context length (" + context.dump() + ")",
                    "config.json needs max_position_embeddings");
    }
    return {context.get<std::size_t>(), token_ids(first(sources, "eos_token_id"))};
}

}  // namespace ovround
