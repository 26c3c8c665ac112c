#include "text_stream.hpp"

#include <algorithm>
#include <utility>

#include "utf8.hpp"

namespace ovround {
namespace {

constexpr std::string_view kIncomplete = "\xEF\xBF\xBD";  // how decoders write bytes that are no character, or not yet

bool ends_with(std::string_view text, std::string_view end) {
    return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

// Bytes of the longest end of `text` that is a beginning of `stop`.
std::size_t overlap(std::string_view text, std::string_view stop) {
    std::size_t size = std::min(text.size(), stop.size() - 1);
    while (size > 0 && !ends_with(text, stop.substr(0, size))) {
        --size;
    }
    return size;
}

}  // namespace

std::string StreamDecoder::push(int64_t token_id) {
    window_.push_back(token_id);
    return tokenizer_.is_special(token_id) || tokenizer_.is_byte(token_id) ? std::string() : take(false);
}

std::string StreamDecoder::take(bool last) {
    const auto split = window_.begin() + static_cast<std::ptrdiff_t>(given_);
    const std::size_t before = given_ == 0 ? 0 : count_characters(tokenizer_.decode({window_.begin(), split}));
    const std::string after = tokenizer_.decode(window_);
    if (count_characters(after) <= before || (!last && ends_with(after, kIncomplete))) {
        return {};
    }
    window_.erase(window_.begin(), split);
    given_ = window_.size();
    return std::string(skip_characters(after, before));
}

std::string StopStrings::push(std::string text) {
    if (found_ || stops_.empty()) {
        return found_ ? std::string() : std::move(text);
    }
    held_ += text;
    // Of several that end at the same place the longest counts, so the cut does not depend on how the text is split.
    std::pair<std::size_t, std::size_t> first{std::string::npos, 0};  // end, beginning
    for (const auto& stop : stops_) {
        const std::size_t place = held_.find(stop);
        if (place != std::string::npos) {
            found_ = true;
            first = std::min(first, {place + stop.size(), place});
        }
    }
    if (found_) {
        return held_.substr(0, first.second);
    }
    std::size_t keep = 0;
    for (const auto& stop : stops_) {
        keep = std::max(keep, overlap(held_, stop));
    }
    std::string sure = held_.substr(0, held_.size() - keep);
    held_.erase(0, sure.size());
    return sure;
}

}  // namespace ovround
