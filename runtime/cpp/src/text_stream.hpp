// Text as it grows, token by token: only complete characters, and never a part of a stop string.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ovround {

// What of a tokenizer is needed here.
class Decodes {
public:
    virtual ~Decodes() = default;
    virtual std::string decode(const std::vector<int64_t>& ids) = 0;
    virtual bool is_special(int64_t token_id) const = 0;  // left out of decoded text
    virtual bool is_byte(int64_t token_id) const = 0;     // one byte of a character, `<0xE2>`
};

// Token ids in, text out; all pieces together are exactly `decode` of all ids.
//
// A piece is what the text of a short window of tokens gained. Held back: an unfinished character at the end, and a run
// of byte tokens, because one wrong byte at its end changes how the whole run is written.
class StreamDecoder {
public:
    explicit StreamDecoder(Decodes& tokenizer) : tokenizer_(tokenizer) {}

    std::string push(int64_t token_id);
    std::string finish() { return take(true); }

private:
    std::string take(bool last);

    Decodes& tokenizer_;
    std::vector<int64_t> window_;
    std::size_t given_ = 0;  // tokens of the window whose text is out
};

// Cuts a text before the one of `stops` that is complete first, holding back what may become one.
class StopStrings {
public:
    explicit StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {}

    bool found() const { return found_; }
    std::string push(std::string text);
    std::string finish() { return found_ ? std::string() : held_; }

private:
    std::vector<std::string> stops_;
    std::string held_;
    bool found_ = false;
};

// The text of one answer: `StreamDecoder`, then `StopStrings`.
class TextStream {
public:
    TextStream(Decodes& tokenizer, std::vector<std::string> stops) : decoder_(tokenizer), stops_(std::move(stops)) {}

    bool stopped() const { return stops_.found(); }
    std::string push(int64_t token_id) { return stops_.push(decoder_.push(token_id)); }
    std::string finish() {
        std::string text = stops_.push(decoder_.finish());
        return text + stops_.finish();
    }

private:
    StreamDecoder decoder_;
    StopStrings stops_;
};

}  // namespace ovround
