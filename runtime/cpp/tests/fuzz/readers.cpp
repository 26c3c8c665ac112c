// Fuzzes the readers of a model's files: for any bytes they return a result or throw an Error.
//
// The first byte selects the reader: `m` the manifest, `c` config.json, `g` generation_config.json, `t` a chat
// template, which is rendered too.
#include <cstddef>
#include <cstdint>
#include <string>

#include "chat_template.hpp"
#include "json_object.hpp"
#include "manifest.hpp"
#include "model_info.hpp"

namespace {

void read(char reader, const std::string& text) {
    const std::filesystem::path path = "fuzz";
    if (reader == 'm') {
        ovround::parse_manifest(text, path);
    } else if (reader == 'c') {
        ovround::parse_model_info(ovround::parse_object(text, path), nlohmann::json::object(), path);
    } else if (reader == 'g') {
        ovround::parse_model_info({{"max_position_embeddings", 8}}, ovround::parse_object(text, path), path);
    } else if (reader == 't') {
        const ovround::ChatTemplate source(text, {{"bos_token", "<s>"}, {"eos_token", "</s>"}});
        source.render({{"system", " Be brief.\n"}, {"user", "A"}, {"assistant", "<think>b</think>"}}, true);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size);
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, std::size_t size) {
    if (size == 0) {
        return 0;
    }
    try {
        read(static_cast<char>(data[0]), {reinterpret_cast<const char*>(data) + 1, size - 1});
    } catch (const ovround::Error&) {
    }
    return 0;
}
