// Converts text to token ids and back, with the graphs that `ovround convert` writes and openvino_tokenizers runs.
#pragma once

#include <map>
#include <openvino/openvino.hpp>
#include <optional>
#include <set>

#include "ovround/ovround.hpp"
#include "text_stream.hpp"
#include "token_texts.hpp"

namespace ovround {

class Tokenizer final : public Decodes {
public:
    // Loads the extension `library` into `core`, which must outlive this object; if `library` is empty, loads the one
    // beside libopenvino.
    Tokenizer(ov::Core& core, const std::filesystem::path& folder, const std::filesystem::path& library);

    std::vector<int64_t> encode(std::string_view text, bool add_special_tokens);
    const std::string& decode(const int64_t* ids, std::size_t count) override;
    bool is_special(int64_t token_id) const override { return special_ids_.count(token_id) > 0; }
    bool is_byte(int64_t token_id) const override { return byte_ids_.count(token_id) > 0; }
    // One more than the highest id, which the model may lack.
    std::size_t id_count() const { return id_count_; }
    // Whether `decode` uses a table; otherwise it runs the detokenizer's graph.
    bool decodes_by_table() const { return texts_.has_value(); }
    // The id of `token` if it is a special token, which decoded text never contains.
    std::optional<int64_t> special_id(const std::string& token) const;
    std::vector<std::string> special_tokens() const;

private:
    void read_tokens(const std::filesystem::path& folder);

    std::map<std::string, int64_t> special_tokens_;
    std::set<int64_t> special_ids_;
    std::set<int64_t> byte_ids_;
    std::size_t id_count_ = 0;
    ov::Core& core_;
    ov::InferRequest with_special_;
    std::shared_ptr<ov::Model> without_special_graph_;
    ov::InferRequest without_special_;  // compiled at the first use: chats, and texts without special tokens
    std::optional<TokenTexts> texts_;
    // The graph runs if it does more than join texts.
    ov::InferRequest decoder_;
    ov::Shape decoder_shape_{1, 256};
    ov::Tensor decoder_ids_;   // i64 [1, T], with spare capacity
    ov::Tensor decoder_text_;  // string [1]
};

}  // namespace ovround
