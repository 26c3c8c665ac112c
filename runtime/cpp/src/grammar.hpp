// Constrains answers to a JSON schema, a regular expression or a Lark grammar, with the llguidance library.
//
// A constraint that cannot be applied is an error before the first token; no answer is ever left unconstrained.
#pragma once

#include "llguidance.hpp"
#include "tokenizer.hpp"

namespace ovround {

// Throws Error(usage) for a source that is empty, too long, nested too deeply, or not JSON if it is a JSON schema.
void check_grammar(const Grammar& grammar);

// The position of one answer in its grammar. Throws Error(generation) if the grammar becomes too large to follow.
class Matcher {
public:
    Matcher(const Llguidance& library, LlgMatcher* matcher, std::size_t vocab_size, uint32_t end_token);

    // The tokens that may come next, one bit each, [V / 32].
    const uint32_t* allowed();
    // Advances by `token`.
    void accept(int64_t token);
    // Whether the answer is complete and no token may follow.
    bool ended() const { return library_.matcher_is_stopped(matcher_.get()); }

private:
    void check() const;

    const Llguidance& library_;
    std::unique_ptr<LlgMatcher, void (*)(LlgMatcher*)> matcher_;
    uint32_t end_token_;
    std::vector<uint32_t> bits_;
};

// Encodes a text that is not at the beginning, without the space that some tokenizers prepend: it is encoded after a
// character that merges with no other.
class InnerText {
public:
    InnerText(Tokenizer& tokenizer, const std::string& tokenizer_json);
    std::vector<int64_t> encode(std::string_view text) const;

private:
    Tokenizer& tokenizer_;
    bool has_prefix_;
};

// llguidance's data for one tokenizer, which takes a second to build for a large vocabulary, and its matchers.
class GrammarCompiler {
public:
    // `tokenizer_json` is the result of the function of that name; `tokenizer` must outlive this object.
    GrammarCompiler(const std::filesystem::path& library, const std::string& tokenizer_json, Tokenizer& tokenizer,
                    std::size_t vocab_size, const std::vector<int64_t>& end_token_ids);

    GrammarCompiler(const GrammarCompiler&) = delete;
    GrammarCompiler& operator=(const GrammarCompiler&) = delete;

    // The state of a new answer; throws Error(generation) with the library's reason for an unsupported constraint.
    std::unique_ptr<Matcher> matcher(const Grammar& grammar) const;

private:
    const Llguidance& library_;
    std::size_t vocab_size_;
    InnerText inner_;  // llguidance keeps a pointer to it
    uint32_t end_token_;
    std::unique_ptr<LlgTokenizer, void (*)(LlgTokenizer*)> tokenizer_;
};

}  // namespace ovround
