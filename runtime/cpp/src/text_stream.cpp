#include "text_stream.hpp"

#include <algorithm>
#include <utility>

#include "utf8.hpp"

namespace ovround {
namespace {

bool ends_with(std::string_view text, std::string_view end) {
    return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

// Length in bytes of the longest suffix of `text` that is a prefix of `stop`.
std::size_t overlap(std::string_view text, std::string_view stop) {
    std::size_t size = std::min(text.size(), stop.size() - 1);
    while (size > 0 && !ends_with(text, stop.substr(0, size))) {
        --size;
    }
    return size;
}

}  // namespace

void StreamDecoder::push(int64_t token_id, std::string& to) {
    window_.push_back(token_id);
    if (!waits_ && !tokenizer_.is_special(token_id) && !tokenizer_.is_byte(token_id)) {
        take(false, to);
    }
}

void StreamDecoder::take(bool last, std::string& to) {
    if (!before_) {
        before_ = given_ == 0 ? 0 : count_characters(tokenizer_.decode(window_.data(), given_));
    }
    const std::string& after = tokenizer_.decode(window_.data(), window_.size());
    if (count_characters(after) <= *before_ || (!last && ends_with(after, kReplacement))) {
        return;
    }
    to += skip_characters(after, *before_);
    window_.erase(window_.begin(), window_.begin() + static_cast<std::ptrdiff_t>(given_));
    given_ = window_.size();
    before_.reset();
}

void StopStrings::push(std::string_view text, std::string& to) {
    if (matched_) {
        return;
    }
    if (stops_.empty()) {
        to += text;
        return;
    }
    held_ += text;
    // If several end at the same position, the longest counts, so that the cut does not depend on how the text is
    // split.
    std::pair<std::size_t, std::size_t> first{std::string::npos, 0};  // end, beginning
    for (const auto& stop : stops_) {
        const std::size_t index = held_.find(stop);
        if (index != std::string::npos) {
            matched_ = true;
            first = std::min(first, {index + stop.size(), index});
        }
    }
    if (matched_) {
        to.append(held_, 0, first.second);
        return;
    }
    std::size_t keep = 0;
    for (const auto& stop : stops_) {
        keep = std::max(keep, overlap(held_, stop));
    }
    to.append(held_, 0, held_.size() - keep);
    held_.erase(0, held_.size() - keep);
}

}  // namespace ovround
