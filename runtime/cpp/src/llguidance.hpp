// The used part of llguidance's C API, and its library, which is loaded when the first grammar needs it.
//
// Declared after llguidance.h of llguidance 1.9 (MIT, https://github.com/guidance-ai/llguidance), which no package
// carries: the names and layouts are that header's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>

namespace ovround {

struct LlgTokenizer;
struct LlgMatcher;

using LlgTokenizeFn = std::size_t (*)(const void* user_data, const uint8_t* bytes, std::size_t bytes_len,
                                      uint32_t* output_tokens, std::size_t output_tokens_len);

struct LlgParserLimits {
    std::size_t max_items_in_row;
    uint64_t initial_lexer_fuel;
    uint64_t step_lexer_fuel;
    std::size_t step_max_items;
    std::size_t max_lexer_states;
    std::size_t max_grammar_size;
    bool precompute_large_lexemes;
    bool verbose_errors;
};

struct LlgConstraintInit {
    const LlgTokenizer* tokenizer;
    uint32_t log_buffer_level;
    uint32_t log_stderr_level;
    bool ff_tokens_ok;
    bool backtrack_ok;
    LlgParserLimits limits;
    char later[256];  // not in the header: the struct has no size field, and the library fills the struct
};

struct LlgTokenizerInitV2 {
    std::size_t struct_size;
    uint32_t vocab_size;
    uint32_t tok_eos;
    const uint32_t* token_lens;
    const uint8_t* token_bytes;
    const char* tokenizer_json;
    bool tokenize_assumes_string;
    LlgTokenizeFn tokenize_fn;
    bool use_approximate_greedy_tokenize_fn;
    const void* tokenize_user_data;
    const char* const* slices;
    const uint32_t* tok_eos_extra;
    uint32_t tok_eos_extra_count;
};

constexpr uint32_t kLlgNoToken = 0xFFFFFFFF;

// The library's functions.
struct Llguidance {
    LlgTokenizer* (*new_tokenizer_v2)(const LlgTokenizerInitV2*, char* error, std::size_t error_len);
    void (*free_tokenizer)(LlgTokenizer*);
    void (*constraint_init_set_defaults)(LlgConstraintInit*, const LlgTokenizer*);
    LlgMatcher* (*new_matcher)(const LlgConstraintInit*, const char* constraint_type, const char* data);
    void (*free_matcher)(LlgMatcher*);
    int32_t (*matcher_compute_mask_into)(LlgMatcher*, uint32_t* mask_dest, std::size_t mask_byte_len);
    std::size_t (*matcher_get_mask_byte_size)(LlgMatcher*);
    int32_t (*matcher_consume_token)(LlgMatcher*, uint32_t token);
    const char* (*matcher_get_error)(LlgMatcher*);
    bool (*matcher_is_error)(LlgMatcher*);
    bool (*matcher_is_stopped)(const LlgMatcher*);
};

// Loads `given`; if it is empty, the first that loads of: the library named at build time, libllguidance in the
// loader's path, the library in Python's wheel. It stays loaded. Throws Error(engine) with a hint if there is none.
const Llguidance& open_llguidance(const std::filesystem::path& given);

}  // namespace ovround
