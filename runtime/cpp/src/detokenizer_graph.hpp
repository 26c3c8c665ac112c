// The texts of all tokens from a detokenizer's graph, so that the graph need not run for each token.
#pragma once

#include <memory>
#include <openvino/openvino.hpp>
#include <optional>

#include "token_texts.hpp"

namespace ovround {

// The tokens of `detokenizer` where its graph, as openvino_tokenizers writes it, joins them and does nothing else:
//
//     VocabDecoder, [replace the visible space], [ByteFallback], FuzeRagged, [strip a space], [UTF8Validate]
//
// Nothing for any other graph, such as one that cleans up spaces: it has to be run.
std::optional<TokenTexts> read_token_texts(const ov::Model& detokenizer);

// Whether `token` stands for a byte: <0xE2>.
bool is_byte_token(std::string_view token);

}  // namespace ovround
