#include "grammar.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "utf8.hpp"

namespace ovround {
namespace {

using nlohmann::ordered_json;

constexpr std::size_t kMaxCharacters = 65536;  // the limit of ovround/limits.py
constexpr std::size_t kMaxDepth = 256;

// The deepest nesting of brackets. Brackets in texts count too, because a schema's pattern is parsed as well.
std::size_t depth(const std::string& source) {
    std::size_t open = 0;
    std::size_t deepest = 0;
    for (const char c : source) {
        if (c == '(' || c == '[' || c == '{') {
            deepest = std::max(deepest, ++open);
        } else if (c == ')' || c == ']' || c == '}') {
            open -= open > 0 ? 1 : 0;
        }
    }
    return deepest;
}

std::string first_line(const char* text) {
    const std::string all = text == nullptr ? "" : text;
    const std::size_t begin = all.find_first_not_of(" \t\r\n");
    return begin == std::string::npos ? "" : all.substr(begin, all.find('\n', begin) - begin);
}

// The schema with only the whitespace that JSON writers use.
std::string compact_schema(const std::string& source) {
    auto schema = ordered_json::parse(source);
    if (!schema.is_object()) {
        throw Error(ErrorCode::generation,
                    "this JSON schema cannot be imposed: Expecting object schema to apply options");
    }
    auto& options = schema["x-guidance"];
    if (!options.is_object()) {
        options = ordered_json::object();
    }
    options["whitespace_flexible"] = false;
    return schema.dump();
}

// Tokenizes text for llguidance when a grammar forces it. No exception may pass through llguidance.
std::size_t tokenize(const void* user_data, const uint8_t* bytes, std::size_t count, uint32_t* tokens,
                     std::size_t room) {
    try {
        const auto ids =
            static_cast<const InnerText*>(user_data)->encode({reinterpret_cast<const char*>(bytes), count});
        std::transform(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(std::min(ids.size(), room)), tokens,
                       [](int64_t id) { return static_cast<uint32_t>(id); });
        return ids.size();
    } catch (...) {
        return 0;  // on an error no tokens are forced
    }
}

// The end token, by the names that llguidance knows, if no configuration names one.
uint32_t named_end_token(const Tokenizer& tokenizer) {
    int64_t end_token = kLlgNoToken;
    for (const char* name : {"</s>", "<|endoftext|>", "<|end_of_text|>"}) {
        end_token = tokenizer.special_id(name).value_or(end_token);
    }
    return static_cast<uint32_t>(end_token);
}

}  // namespace

void check_grammar(const Grammar& grammar) {
    const auto& source = grammar.source;
    if (!is_utf8(source) || source.find('\0') != std::string::npos) {
        throw Error(ErrorCode::usage, "the grammar is not UTF-8, or has a zero");
    }
    if (source.empty() || count_characters(source) > kMaxCharacters) {
        throw Error(ErrorCode::usage, "a grammar is a text of 1 to " + std::to_string(kMaxCharacters) + " characters");
    }
    if (depth(source) > kMaxDepth) {
        throw Error(ErrorCode::usage,
                    "a grammar may have " + std::to_string(kMaxDepth) + " brackets within brackets; this one has more");
    }
    if (grammar.kind == Grammar::Kind::json_schema) {
        try {
            [[maybe_unused]] const auto schema = ordered_json::parse(source);
        } catch (const ordered_json::exception& error) {
            throw Error(ErrorCode::usage, "the JSON schema is no JSON: " + std::string(error.what()));
        }
    }
}

InnerText::InnerText(Tokenizer& tokenizer, const std::string& tokenizer_json)
    : tokenizer_(tokenizer), has_prefix_(tokenizer_json.find(R"("type":"Metaspace")") != std::string::npos ||
                                         tokenizer_json.find(R"("type":"Prepend")") != std::string::npos) {}

std::vector<int64_t> InnerText::encode(std::string_view text) const {
    for (const char* front : {"\xEE\x80\x80", "\n", "~"}) {
        if (!has_prefix_) {
            break;
        }
        const auto head = tokenizer_.encode(front, false);
        auto ids = tokenizer_.encode(front + std::string(text), false);
        const bool stays = ids.size() >= head.size() && std::equal(head.begin(), head.end(), ids.begin());
        std::string shown = stays ? tokenizer_.decode(head.data(), head.size()) : "";
        if (shown == front || shown == " " + std::string(front)) {
            ids.erase(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(head.size()));
            return ids;
        }
    }
    return tokenizer_.encode(text, false);
}

Matcher::Matcher(const Llguidance& library, LlgMatcher* matcher, std::size_t vocab_size, uint32_t end_token)
    : library_(library), matcher_(matcher, library.free_matcher), end_token_(end_token), bits_((vocab_size + 31) / 32) {
}

const uint32_t* Matcher::allowed() {
    const std::size_t size = library_.matcher_get_mask_byte_size(matcher_.get());
    check();
    bits_.resize(std::max(bits_.size(), (size + 3) / 4));
    if (ended()) {
        std::fill(bits_.begin(), bits_.end(), 0);
        if (end_token_ != kLlgNoToken) {
            bits_[end_token_ / 32] |= 1U << end_token_ % 32;
        }
        return bits_.data();
    }
    library_.matcher_compute_mask_into(matcher_.get(), bits_.data(), size);
    check();
    return bits_.data();
}

void Matcher::accept(int64_t token) {
    if (ended() && static_cast<uint32_t>(token) == end_token_) {
        return;
    }
    library_.matcher_consume_token(matcher_.get(), static_cast<uint32_t>(token));
    check();
}

void Matcher::check() const {
    if (library_.matcher_is_error(matcher_.get())) {
        throw Error(ErrorCode::generation,
                    "the grammar cannot be followed: " + first_line(library_.matcher_get_error(matcher_.get())));
    }
}

GrammarCompiler::GrammarCompiler(const std::filesystem::path& library, const std::string& tokenizer_json,
                                 Tokenizer& tokenizer, std::size_t vocab_size,
                                 const std::vector<int64_t>& end_token_ids)
    : library_(open_llguidance(library)), vocab_size_(vocab_size), inner_(tokenizer, tokenizer_json),
      end_token_(end_token_ids.empty() ? named_end_token(tokenizer) : static_cast<uint32_t>(end_token_ids[0])),
      tokenizer_(nullptr, library_.free_tokenizer) {
    std::vector<uint32_t> others;
    for (std::size_t index = 1; index < end_token_ids.size(); ++index) {
        others.push_back(static_cast<uint32_t>(end_token_ids[index]));
    }
    LlgTokenizerInitV2 init{};
    init.struct_size = sizeof(init);
    init.vocab_size = static_cast<uint32_t>(vocab_size);
    init.tok_eos = end_token_;
    init.tokenizer_json = tokenizer_json.c_str();
    init.tokenize_assumes_string = true;
    init.tokenize_fn = tokenize;
    init.tokenize_user_data = &inner_;
    init.tok_eos_extra = others.data();
    init.tok_eos_extra_count = static_cast<uint32_t>(others.size());
    char error[1024] = "";
    tokenizer_.reset(library_.new_tokenizer_v2(&init, error, sizeof(error)));
    if (!tokenizer_) {
        throw Error(ErrorCode::generation, "this model's tokenizer cannot be held to a grammar: " + first_line(error));
    }
}

std::unique_ptr<Matcher> GrammarCompiler::matcher(const Grammar& grammar) const {
    static constexpr const char* kTypes[] = {"json_schema", "regex", "lark"};
    static constexpr const char* kNames[] = {"json schema", "regex", "lark"};
    const auto kind = static_cast<std::size_t>(grammar.kind);
    const bool is_schema = grammar.kind == Grammar::Kind::json_schema;
    LlgConstraintInit init{};
    library_.constraint_init_set_defaults(&init, tokenizer_.get());
    init.log_stderr_level = 0;
    const std::string source = is_schema ? compact_schema(grammar.source) : grammar.source;
    auto* made = library_.new_matcher(&init, kTypes[kind], source.c_str());
    auto matcher = std::make_unique<Matcher>(library_, made, vocab_size_, end_token_);
    if (library_.matcher_is_error(made)) {
        throw Error(ErrorCode::generation, "this " + std::string(kNames[kind]) +
                                               " cannot be imposed: " + first_line(library_.matcher_get_error(made)));
    }
    return matcher;
}

}  // namespace ovround
