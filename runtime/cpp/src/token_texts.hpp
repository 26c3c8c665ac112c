// The bytes of each token and the text of several tokens, equal to the `tokenizers` library's, without a graph.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ovround {

// The tokens of a tokenizer whose text is the concatenation of its tokens: byte-level BPE, and SentencePiece's BPE with
// byte tokens.
class TokenTexts {
public:
    enum class Kind : uint8_t {
        text,
        byte,   // one byte, such as `<0xE2>`; a run of such tokens is a text or as many U+FFFD
        hidden  // left out of texts
    };

    explicit TokenTexts(bool strips_space);  // whether one space at the beginning of a text is stripped

    // Adds the next token; ids count from 0.
    void add(std::string_view bytes, Kind kind);
    // The text of `count` ids, valid until the next call; ids beyond the vocabulary have no text.
    const std::string& decode(const int64_t* ids, std::size_t count);

private:
    void end_run();

    bool strips_space_;
    std::string bytes_;              // the bytes of all tokens
    std::vector<std::size_t> ends_;  // the end of each token in bytes_
    std::vector<Kind> kinds_;        // of each token
    std::string text_;               // the text of the last call
    std::string run_;                // bytes of byte tokens that are not converted yet
    std::string well_formed_;        // a valid version of text_ if that is not UTF-8
};

}  // namespace ovround
