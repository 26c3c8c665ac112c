#include "token_texts.hpp"

#include "utf8.hpp"

namespace ovround {
namespace {

constexpr std::size_t kRoom = 1024;  // bytes of a text that is decoded without an allocation

}  // namespace

TokenTexts::TokenTexts(bool strips_space) : strips_space_(strips_space) {
    for (auto* text : {&text_, &run_, &well_formed_}) {
        text->reserve(kRoom);
    }
}

void TokenTexts::add(std::string_view bytes, Kind kind) {
    bytes_ += bytes;
    ends_.push_back(bytes_.size());
    kinds_.push_back(kind);
}

const std::string& TokenTexts::decode(const int64_t* ids, std::size_t count) {
    text_.clear();
    for (const int64_t* id = ids; id != ids + count; ++id) {
        const auto token = static_cast<std::size_t>(*id);
        if (*id < 0 || token >= ends_.size() || kinds_[token] == Kind::hidden) {
            continue;
        }
        const std::size_t begin = token == 0 ? 0 : ends_[token - 1];
        if (kinds_[token] == Kind::text) {
            end_run();
        }
        (kinds_[token] == Kind::byte ? run_ : text_).append(bytes_, begin, ends_[token] - begin);
    }
    end_run();
    if (strips_space_ && !text_.empty() && text_.front() == ' ') {
        text_.erase(0, 1);
    }
    if (is_utf8(text_)) {
        return text_;
    }
    well_formed_.clear();
    append_well_formed(text_, well_formed_);
    return well_formed_;
}

void TokenTexts::end_run() {
    if (is_utf8(run_)) {
        text_ += run_;
    } else {
        for (std::size_t index = 0; index < run_.size(); ++index) {
            text_ += kReplacement;
        }
    }
    run_.clear();
}

}  // namespace ovround
