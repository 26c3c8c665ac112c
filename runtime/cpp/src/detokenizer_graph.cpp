#include "detokenizer_graph.hpp"

#include <cctype>
#include <openvino/op/constant.hpp>

namespace ovround {
namespace {

using NodePointer = std::shared_ptr<ov::Node>;

constexpr std::string_view kSpace = "\xE2\x96\x81";  // SentencePiece's visible space

NodePointer source(const NodePointer& node, std::size_t input) {
    return node->input_value(input).get_node_shared_ptr();
}

bool is(const NodePointer& node, std::string_view type, std::size_t inputs) {
    return node->get_type_name() == type && node->get_input_size() == inputs;
}

// A constant's elements; empty if `node` is not a constant of that type.
template <typename T>
std::vector<T> elements(const NodePointer& node) {
    const auto constant = ov::as_type_ptr<ov::op::v0::Constant>(node);
    if (!constant || constant->get_element_type() != ov::element::from<T>()) {
        return {};
    }
    return {constant->get_data_ptr<T>(), constant->get_data_ptr<T>() + ov::shape_size(constant->get_shape())};
}

bool replaces(const NodePointer& node, std::string_view pattern, std::string_view by) {
    if (!is(node, "RegexNormalization", 5)) {
        return false;
    }
    const auto search = elements<uint8_t>(source(node, 3));
    const auto term = elements<uint8_t>(source(node, 4));
    return std::string_view(reinterpret_cast<const char*>(search.data()), search.size()) == pattern &&
           std::string_view(reinterpret_cast<const char*>(term.data()), term.size()) == by;
}

struct Steps {
    NodePointer vocabulary;  // null for a graph with other steps
    bool shows_spaces = false;
    bool has_bytes = false;
    bool strips_space = false;
};

// The graph's steps from the text back to the tokens; each occurs at most once.
Steps read_steps(const ov::Model& detokenizer) {
    Steps steps;
    if (detokenizer.get_results().size() != 1) {
        return {};
    }
    auto node = source(detokenizer.get_results()[0], 0);
    if (!is(node, "StringTensorPack", 3)) {
        return {};
    }
    node = source(node, 0);
    if (is(node, "UTF8Validate", 3)) {
        node = source(node, 0);
    }
    if (replaces(node, "^ ", "")) {
        steps.strips_space = true;
        node = source(node, 0);
    }
    if (!is(node, "FuzeRagged", 4)) {
        return {};
    }
    node = source(node, 2);
    for (int step = 0; step < 2; ++step) {  // in either order
        if (!steps.shows_spaces && replaces(node, kSpace, " ")) {
            steps.shows_spaces = true;
            node = source(node, 0);
        } else if (!steps.has_bytes && is(node, "ByteFallback", 3)) {
            steps.has_bytes = true;
            node = source(node, 0);
        }
    }
    if (is(node, "VocabDecoder", 5) && is(source(node, 0), "Convert", 1) &&
        is(source(source(node, 0), 0), "Parameter", 0)) {
        steps.vocabulary = node;
    }
    return steps;
}

std::string with_spaces(std::string token) {
    for (auto index = token.find(kSpace); index != std::string::npos; index = token.find(kSpace, index + 1)) {
        token.replace(index, kSpace.size(), " ");
    }
    return token;
}

}  // namespace

bool is_byte_token(std::string_view token) {
    return token.size() == 6 && token.substr(0, 3) == "<0x" && token[5] == '>' &&
           std::isxdigit(static_cast<unsigned char>(token[3])) != 0 &&
           std::isxdigit(static_cast<unsigned char>(token[4])) != 0;
}

std::optional<TokenTexts> read_token_texts(const ov::Model& detokenizer) {
    const Steps steps = read_steps(detokenizer);
    if (!steps.vocabulary) {
        return std::nullopt;
    }
    const auto begins = elements<int32_t>(source(steps.vocabulary, 1));
    const auto ends = elements<int32_t>(source(steps.vocabulary, 2));
    const auto bytes = elements<uint8_t>(source(steps.vocabulary, 3));
    const auto hidden = elements<int32_t>(source(steps.vocabulary, 4));
    if (begins.empty() || begins.size() != ends.size()) {
        return std::nullopt;
    }
    std::vector<bool> is_hidden(begins.size());
    for (const int32_t id : hidden) {
        if (id >= 0 && static_cast<std::size_t>(id) < is_hidden.size()) {
            is_hidden[static_cast<std::size_t>(id)] = true;
        }
    }
    TokenTexts texts(steps.strips_space);
    for (std::size_t id = 0; id < begins.size(); ++id) {
        if (begins[id] < 0 || ends[id] < begins[id] || static_cast<std::size_t>(ends[id]) > bytes.size()) {
            return std::nullopt;
        }
        std::string token(bytes.begin() + begins[id], bytes.begin() + ends[id]);
        if (is_hidden[id]) {
            texts.add({}, TokenTexts::Kind::hidden);
        } else if (steps.has_bytes && is_byte_token(token)) {
            const auto value = static_cast<char>(std::stoi(token.substr(3, 2), nullptr, 16));
            texts.add({&value, 1}, TokenTexts::Kind::byte);
        } else {
            texts.add(steps.shows_spaces ? with_spaces(std::move(token)) : token, TokenTexts::Kind::text);
        }
    }
    return texts;
}

}  // namespace ovround
