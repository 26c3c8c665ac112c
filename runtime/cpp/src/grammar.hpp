// Constrained answers: a JSON schema, a regular expression, or a Lark grammar, by the llguidance library.
//
// A grammar that cannot be imposed is an error before the first token; an answer is never left unconstrained.
#pragma once

#include "llguidance.hpp"
#include "tokenizer.hpp"

namespace ovround {

// Error(usage) for a source that is empty or too long, nested too deeply, or, as a JSON schema, no JSON.
void check_grammar(const Grammar& grammar);

// Where one answer stands in its grammar. Error(generation) when the grammar became too large to follow.
class Matcher {
public:
    Matcher(const Llguidance& library, LlgMatcher* matcher, std::size_t vocab_size, uint32_t end_token);

    // Which tokens may come next, a bit each, [V / 32].
    const uint32_t* allowed();
    // Go on behind `token`.
    void accept(int64_t token);
    // Whether nothing may follow.
    bool ended() const { return library_.matcher_is_stopped(matcher_.get()); }

private:
    void check() const;

    const Llguidance& library_;
    std::unique_ptr<LlgMatcher, void (*)(LlgMatcher*)> matcher_;
    uint32_t end_token_;
    std::vector<uint32_t> bits_;
};

// The tokens of a text that is not the beginning of one: without the space that some tokenizers put there. It is
// encoded behind a character that merges with nothing.
class InnerText {
public:
    InnerText(Tokenizer& tokenizer, const std::string& tokenizer_json);
    std::vector<int64_t> encode(std::string_view text) const;

private:
    Tokenizer& tokenizer_;
    bool has_prefix_;
};

// llguidance's view of one tokenizer, a second's work for a large vocabulary, and the matchers made from it.
class GrammarCompiler {
public:
    // `tokenizer_json` as `tokenizer_json` gives it; `tokenizer` outlives this.
    GrammarCompiler(const std::filesystem::path& library, const std::string& tokenizer_json, Tokenizer& tokenizer,
                    std::size_t vocab_size, const std::vector<int64_t>& end_token_ids);

    GrammarCompiler(const GrammarCompiler&) = delete;
    GrammarCompiler& operator=(const GrammarCompiler&) = delete;

    // A new answer's state; Error(generation), with the library's reason, for a form that it does not know.
    std::unique_ptr<Matcher> matcher(const Grammar& grammar) const;

private:
    const Llguidance& library_;
    std::size_t vocab_size_;
    InnerText inner_;  // whose place llguidance keeps
    uint32_t end_token_;
    std::unique_ptr<LlgTokenizer, void (*)(LlgTokenizer*)> tokenizer_;
};

}  // namespace ovround
