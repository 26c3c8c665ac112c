// Tests the parts that need no model. The expected values of sampling are in sampling.json, which Python's tests read
// too.
#include <fstream>
#include <limits>
#include <map>
#include <random>

#include "check.hpp"
#include "manifest.hpp"
#include "model_info.hpp"
#include "options.hpp"
#include "sampling.hpp"
#include "sha256.hpp"
#include "text_stream.hpp"
#include "token_texts.hpp"
#include "utf8.hpp"

namespace {

using namespace ovround;
namespace fs = std::filesystem;

void random_numbers_are_the_published_ones() {
    // splitmix64 of 1234567 begins with these, https://rosettacode.org/wiki/Pseudo-random_numbers/Splitmix64
    const uint64_t state[] = {6457827717110365317U, 3203168211198807973U, 9817491932198370423U, 4593380528125082431U};
    const uint64_t product = state[1] * 5;
    CHECK(Xoshiro256(1234567).next_u64() == (product << 7 | product >> 57) * 9);
}

void sampling_is_python_s(const char* path) {
    std::ifstream file(path);
    const auto cases = nlohmann::json::parse(file);
    CHECK(cases.size() >= 10);
    for (const auto& case_ : cases) {
        const auto logits = case_.at("logits").get<std::vector<float>>();
        Sampler sampler(sampling_options(case_.at("options")), logits.size());
        sampler.see_prompt(case_.at("prompt"));
        for (const int64_t token : case_.at("tokens").get<std::vector<int64_t>>()) {
            CHECK(sampler.choose(logits.data()) == token);
        }
    }
}

void sampling_refuses() {
    SamplingOptions options;
    options.top_p = 0.0;
    CHECK(refused([&] { check_options(options); }, "top_p is 0; a number above 0 to 1 is needed") == ErrorCode::usage);
    options.top_p = std::numeric_limits<double>::quiet_NaN();
    CHECK(refused([&] { check_options(options); }, "top_p is nan") == ErrorCode::usage);
    const float logits[] = {1.0F, std::numeric_limits<float>::quiet_NaN(), 2.0F};
    CHECK(refused([&] { Sampler({}, 3).choose(logits); }, "not finite") == ErrorCode::generation);
}

void sha256_is_the_standard_s() {  // FIPS 180-4 examples
    const std::map<std::string, std::string> known{
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
        {std::string(1000000, 'a'), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"}};
    for (const auto& [text, digest] : known) {
        for (const bool instructions : {false, true}) {
            Sha256 whole(instructions);
            whole.update(text.data(), text.size());
            CHECK(whole.finish() == digest);
        }
        Sha256 parts;
        for (std::size_t index = 0; index < text.size(); index += 61) {
            parts.update(text.data() + index, std::min<std::size_t>(61, text.size() - index));
        }
        CHECK(parts.finish() == digest);
    }
}

void manifests() {
    const auto parse = [](const std::string& text) { return parse_manifest(text, "m"); };
    const std::string rest = R"(, "weights": [{"name": "model.embed_tokens.weight", "shape": [4, 2], "size_bytes": 8},
        {"name": "lm_head.weight", "shape": [4, 2], "size_bytes": 6}]})";
    const auto good = parse(R"({"format_version": 1, "files": {"a.bin": {"size_bytes": 3, "sha256": "ff"}})" + rest);
    CHECK(good.files.at("a.bin").size_bytes == 3 && good.weight_bytes_per_token == 8);
    refused([&] { parse(R"({"format_version": 2, "ovround_version": "9.0", "files": {})" + rest); },
            "this ovround reads format 1");
    refused([&] { parse(R"({"format_version": 1, "files": {"../x": {"size_bytes": 3, "sha256": ""}})" + rest); },
            "outside its folder");
    refused([&] { parse(R"({"format_version": 1, "files": {"/x": {"size_bytes": 3, "sha256": ""}})" + rest); },
            "outside its folder");
    refused([&] { parse(R"({"format_version": 1, "files": {"x": {"size_bytes": "3", "sha256": ""}})" + rest); },
            "is not a manifest");
    refused([&] { parse(R"({"format_version": 1})"); }, "is not a manifest");
    refused([&] { parse("[]"); }, "holds no JSON object");
    refused([&] { parse("{\"a\": "); }, "cannot be read");
    refused([&] { parse("{\"a\": \"\xFF\"}"); }, "cannot be read");
    refused([&] { parse("{\"a\": " + std::string(100000, '[')); }, "nested deeper than 64");
    CHECK(refused([] { check_folder("/nowhere/at/all", true); }, "does not exist") == ErrorCode::artifact);
}

void model_infos() {
    const fs::path folder =
        fs::temp_directory_path() / ("ovround-unit-" + std::to_string(Xoshiro256(std::random_device()()).next_u64()));
    fs::create_directory(folder);
    const auto write = [&](const char* name, const char* text) { std::ofstream(folder / name) << text; };
    refused([&] { read_model_info(folder); }, "states no context length");
    write("config.json", R"({"max_position_embeddings": 512, "eos_token_id": 2})");
    CHECK(read_model_info(folder).context_length == 512 && read_model_info(folder).end_token_ids[0] == 2);
    write("generation_config.json", R"({"eos_token_id": [3, 4]})");
    CHECK(read_model_info(folder).end_token_ids == (std::vector<int64_t>{3, 4}));
    write("config.json", R"({"max_position_embeddings": 512, "context_length": 64})");
    CHECK(read_model_info(folder).context_length == 64);
    write("config.json", R"({"text_config": {"max_position_embeddings": 128}})");
    CHECK(read_model_info(folder).context_length == 128);
    for (const char* wrong : {R"({"context_length": -1})", R"({"context_length": 1.5})", R"({"context_length": 0})"}) {
        write("config.json", wrong);
        CHECK(refused([&] { read_model_info(folder); }, "states no context length") == ErrorCode::artifact);
    }
    fs::remove_all(folder);
}

void utf8() {
    CHECK(is_utf8("") && is_utf8("a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x99\x82") && is_utf8(std::string_view("\0", 1)));
    for (const char* wrong :
         {"\x80", "\xC3", "\xC0\xAF", "\xE0\x80\xAF", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xFF", "\xE2\x82"}) {
        CHECK(!is_utf8(wrong));
    }
    CHECK(count_characters("a\xC3\xA9") == 2 && skip_characters("a\xC3\xA9z", 2) == "z" &&
          skip_characters("a", 3).empty());
    // Unicode 15, table 3-8, and a text that ends within a character
    std::string text;
    append_well_formed("\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64\xED\xA0\x80\xF0\x9F", text);
    const std::string bad(kReplacement);
    CHECK(text == "a" + bad + bad + bad + "b" + bad + "c" + bad + bad + "d" + bad + bad + bad + bad);
}

// Bytes as tokens 0 to 255, then " x", a hidden token and U+4E2D.
void token_texts() {
    TokenTexts texts(true);
    for (int value = 0; value < 256; ++value) {
        const auto byte = static_cast<char>(value);
        texts.add({&byte, 1}, TokenTexts::Kind::byte);
    }
    texts.add(" x", TokenTexts::Kind::text);
    texts.add({}, TokenTexts::Kind::hidden);
    texts.add("\xE4\xB8\xAD", TokenTexts::Kind::text);
    const auto decoded = [&](const std::vector<int64_t>& ids) { return texts.decode(ids.data(), ids.size()); };
    const std::string bad(kReplacement);
    CHECK(decoded({}).empty() && decoded({-1, 259, 1 << 30}).empty());
    CHECK(decoded({256, 256}) == "x x" && decoded({0x20, 0x20}) == " ");
    CHECK(decoded({0xE2, 257, 0x82, 0xAC, 258}) == "\xE2\x82\xAC\xE4\xB8\xAD");
    CHECK(decoded({0x41, 0xE2, 0x82, 256, 0x41}) == bad + bad + bad + " xA");  // a run with a broken character: no text
    TokenTexts plain(false);
    plain.add(" \xE2", TokenTexts::Kind::text);
    plain.add("\x82\xAC", TokenTexts::Kind::text);
    const int64_t ids[] = {0, 1, 1};
    CHECK(plain.decode(ids, 3) == " \xE2\x82\xAC" + bad + bad);
}

// Tokens are bytes, 256 is special; unfinished characters are written as decoders write them.
class Bytes final : public Decodes {
public:
    const std::string& decode(const int64_t* ids, std::size_t count) override {
        text_.clear();
        for (std::size_t index = 0; index < count; ++index) {
            text_ += ids[index] < 256 ? std::string(1, static_cast<char>(ids[index])) : "";
        }
        const std::size_t size = text_.size();
        while (!is_utf8(text_)) {
            text_.pop_back();
        }
        return text_.size() == size ? text_ : text_ += "\xEF\xBF\xBD";
    }
    bool is_special(int64_t id) const override { return id == 256; }
    bool is_byte(int64_t) const override { return false; }

private:
    std::string text_;
};

std::string pushed(StopStrings& stops, std::string_view text) {
    std::string sure;
    stops.push(text, sure);
    return sure;
}

void text_streams() {
    Bytes bytes;
    StreamDecoder decoder(bytes);
    std::string text;
    for (const int64_t id : {0x61, 0xE2, 0x82, 256, 0xAC, 0xC3}) {
        decoder.push(id, text);
        CHECK(is_utf8(text) && text.find("\xEF\xBF\xBD") == std::string::npos);
    }
    CHECK(text == "a\xE2\x82\xAC");
    decoder.finish(text);
    CHECK(text == "a\xE2\x82\xAC\xEF\xBF\xBD");

    StopStrings stops({"bcd", "cd", "x"});
    CHECK(pushed(stops, "ab") == "a" && pushed(stops, "c").empty() && pushed(stops, "de").empty() && stops.matched());
    std::string rest;
    stops.finish(rest);
    CHECK(pushed(stops, "more").empty() && rest.empty());
    StopStrings unmet({"xyz"});
    CHECK(pushed(unmet, "axy") == "a");
    unmet.finish(rest);
    CHECK(rest == "xy");
}

}  // namespace

int main(int count, char** values) {
    CHECK(count == 2);
    random_numbers_are_the_published_ones();
    sampling_is_python_s(values[1]);
    sampling_refuses();
    sha256_is_the_standard_s();
    manifests();
    model_infos();
    utf8();
    token_texts();
    text_streams();
    std::puts("unit: passed");
}
