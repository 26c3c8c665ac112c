// Streams text token by token: only complete characters, and never a part of a stop string.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ovround {

// The part of a tokenizer that streaming needs.
class Decodes {
public:
    virtual ~Decodes() = default;
    // The text of `count` ids, valid until the next call.
    virtual const std::string& decode(const int64_t* ids, std::size_t count) = 0;
    virtual bool is_special(int64_t token_id) const = 0;  // left out of decoded text
    virtual bool is_byte(int64_t token_id) const = 0;     // one byte of a character, `<0xE2>`
};

// Converts token ids to text and appends it to `to`; the total text is exactly `decode` of all ids.
//
// It decodes a short window of tokens and appends the text that is new. An unfinished character at the end is held
// back; so is a run of byte tokens, because one wrong byte at its end changes the text of the whole run.
class StreamDecoder {
public:
    explicit StreamDecoder(Decodes& tokenizer) : tokenizer_(tokenizer) { window_.reserve(64); }

    // No text is needed before `finish`, which then decodes all of at most `tokens` ids.
    void wait(std::size_t tokens) {
        waits_ = true;
        window_.reserve(tokens);
    }
    void push(int64_t token_id, std::string& to);
    void finish(std::string& to) { take(true, to); }

private:
    void take(bool last, std::string& to);

    Decodes& tokenizer_;
    bool waits_ = false;
    std::vector<int64_t> window_;
    std::size_t given_ = 0;              // tokens of the window whose text was appended
    std::optional<std::size_t> before_;  // characters of their text, if already counted
};

// Cuts a text before the first complete stop string; holds back text that may become one.
class StopStrings {
public:
    explicit StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) { held_.reserve(256); }

    bool empty() const { return stops_.empty(); }
    bool matched() const { return matched_; }
    void push(std::string_view text, std::string& to);
    void finish(std::string& to) const { to += matched_ ? std::string_view() : std::string_view(held_); }

private:
    std::vector<std::string> stops_;
    std::string held_;
    bool matched_ = false;
};

// The text of one answer: `StreamDecoder`, then `StopStrings`.
class TextStream {
public:
    TextStream(Decodes& tokenizer, std::vector<std::string> stops) : decoder_(tokenizer), stops_(std::move(stops)) {
        decoded_.reserve(256);
    }

    // See StreamDecoder; it has no effect if there are stop strings.
    void wait(std::size_t tokens) {
        if (stops_.empty()) {
            decoder_.wait(tokens);
        }
    }
    bool stopped() const { return stops_.matched(); }
    void push(int64_t token_id, std::string& to) {
        decoded_.clear();
        decoder_.push(token_id, decoded_);
        stops_.push(decoded_, to);
    }
    void finish(std::string& to) {
        decoded_.clear();
        decoder_.finish(decoded_);
        stops_.push(decoded_, to);
        stops_.finish(to);
    }

private:
    StreamDecoder decoder_;
    StopStrings stops_;
    std::string decoded_;
};

}  // namespace ovround
