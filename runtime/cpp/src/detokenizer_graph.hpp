// Reads each token's text from a detokenizer's graph, so that the graph need not run for every token.
#pragma once

#include <memory>
#include <openvino/openvino.hpp>
#include <optional>

#include "token_texts.hpp"

namespace ovround {

// The token texts of `detokenizer`, if its graph only joins them, as openvino_tokenizers writes it:
//
//     VocabDecoder, [replace the visible space], [ByteFallback], FuzeRagged, [strip a space], [UTF8Validate]
//
// Empty for any other graph, such as one that cleans up spaces; such a graph must run.
std::optional<TokenTexts> read_token_texts(const ov::Model& detokenizer);

// Whether `token` represents a byte, such as <0xE2>.
bool is_byte_token(std::string_view token);

}  // namespace ovround
