// The bytes of each token, and the text of several tokens as in the `tokenizers` library, without a graph.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ovround {

// The tokens of a tokenizer whose text is that of its tokens side by side: byte-level BPE, and SentencePiece's BPE with
// a token for each byte.
class TokenTexts {
public:
    enum class Kind : uint8_t {
        text,
        byte,   // one byte of a character, `<0xE2>`; a run of such tokens is a text or as many U+FFFD
        hidden  // left out of texts
    };

    explicit TokenTexts(bool strips_space);  // whether texts lose one space at their beginning

    // The token that follows those added before; ids count from 0.
    void add(std::string_view bytes, Kind kind);
    // The text of `count` ids, good until the next call; ids beyond the vocabulary have none.
    const std::string& decode(const int64_t* ids, std::size_t count);

private:
    void end_run();

    bool strips_space_;
    std::string bytes_;              // of all tokens
    std::vector<std::size_t> ends_;  // of each token in bytes_
    std::vector<Kind> kinds_;        // of each token
    std::string text_;               // of the last call
    std::string run_;                // bytes of byte tokens that are not yet text
    std::string well_formed_;        // text_ where that is no UTF-8
};

}  // namespace ovround
