#include "tokenizer.hpp"

#include <algorithm>
#include <limits>
#include <openvino/op/constant.hpp>

#if !defined(_WIN32)
#include <dlfcn.h>
#endif

#include "detokenizer_graph.hpp"
#include "file_kind.hpp"
#include "json_object.hpp"
#include "openvino_model.hpp"
#include "utf8.hpp"

namespace ovround {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

#if defined(_WIN32)
constexpr const char* kLibrary = "openvino_tokenizers.dll";
#elif defined(__APPLE__)
constexpr const char* kLibrary = "libopenvino_tokenizers.dylib";
#else
constexpr const char* kLibrary = "libopenvino_tokenizers.so";
#endif

// The places of the extension in OpenVINO's packages: beside libopenvino (archive, apt), or in its own wheel.
fs::path find_library() {
#if !defined(_WIN32)
    Dl_info info{};
    if (dladdr(reinterpret_cast<const void*>(&ov::get_openvino_version), &info) != 0 && info.dli_fname != nullptr) {
        const fs::path libraries = fs::absolute(info.dli_fname).parent_path();
        for (const auto& path :
             {libraries / kLibrary, libraries.parent_path().parent_path() / "openvino_tokenizers" / "lib" / kLibrary}) {
            if (fs::is_regular_file(path)) {
                return path;
            }
        }
    }
#endif
    return kLibrary;
}

void add_extension(ov::Core& core, const fs::path& given) {
    const fs::path library = given.empty() ? find_library() : given;
    try {
        core.add_extension(library.string());
    } catch (const std::exception& error) {
        throw Error(ErrorCode::engine, "`" + library.string() + "` cannot be loaded: " + reason(error),
                    "install openvino_tokenizers of OpenVINO's version, or name its library: tokenizers_library");
    }
}

std::shared_ptr<ov::Model> read_graph(ov::Core& core, const fs::path& path) {
    if (!is_file(path)) {
        throw Error(ErrorCode::artifact,
                    "`" + path.string() + "` is missing: the C++ runtime needs the tokenizer as a graph",
                    "convert again with ovround, or run openvino_tokenizers' convert_tokenizer on the checkpoint");
    }
    try {
        return core.read_model(path.string());
    } catch (const std::exception& error) {
        throw Error(ErrorCode::artifact, "`" + path.string() + "` cannot be read: " + reason(error),
                    "OpenVINO and openvino_tokenizers must be of one version, and not older than the folder");
    }
}

ov::InferRequest compiled(ov::Core& core, const std::shared_ptr<ov::Model>& model) {
    return core.compile_model(model, "CPU").create_infer_request();
}

// Turns truncation off: a text that is too long for the model is an error of the request. Graphs since
// openvino_tokenizers 2026 truncate only if a state says so; in older ones the length is a constant.
void stop_truncation(ov::Model& model) {
    for (const auto& node : model.get_ops()) {
        if (std::string(node->get_type_name()) !=
            "Truncate") {  // inputs: (begins, ends, tokens) n times, length, side, mode
            continue;
        }
        const auto length = node->input(node->get_input_size() - 3);
        if (ov::is_type<ov::op::v0::Constant>(length.get_source_output().get_node())) {
            const auto most = ov::op::v0::Constant::create(length.get_element_type(), length.get_shape(),
                                                           {std::numeric_limits<int32_t>::max()});
            length.replace_source_output(most->output(0));
        }
    }
}

// Special tokens are constant segments, which become empty.
void drop_special_tokens(ov::Model& model) {
    for (const auto& node : model.get_ops()) {
        if (std::string(node->get_type_name()) != "CombineSegments") {  // inputs: (begins, ends, tokens) n times, ids
            continue;
        }
        for (std::size_t segment = 0; segment + 3 < node->get_input_size(); segment += 3) {
            const auto begins = node->input_value(segment);
            if (ov::is_type<ov::op::v0::Constant>(begins.get_node())) {
                node->input(segment + 1).replace_source_output(begins);
            }
        }
    }
}

}  // namespace

Tokenizer::Tokenizer(ov::Core& core, const fs::path& folder, const fs::path& library) : core_(core) {
    add_extension(core, library);
    read_tokens(folder);
    const auto encoder = read_graph(core, folder / "openvino_tokenizer.xml");
    without_special_graph_ = read_graph(core, folder / "openvino_tokenizer.xml");
    const auto decoder = read_graph(core, folder / "openvino_detokenizer.xml");
    try {
        stop_truncation(*encoder);
        stop_truncation(*without_special_graph_);
        drop_special_tokens(*without_special_graph_);
        with_special_ = compiled(core, encoder);
        texts_ = read_token_texts(*decoder);
        if (!texts_) {
            decoder_ = compiled(core, decoder);
            decoder_ids_ = ov::Tensor(ov::element::i64, decoder_shape_);
            decoder_.set_input_tensor(decoder_ids_);
        }
    } catch (const ov::Exception& error) {
        throw Error(ErrorCode::artifact, "the tokenizer of `" + folder.string() + "` cannot be run: " + reason(error));
    }
}

void Tokenizer::read_tokens(const fs::path& folder) {
    const fs::path path = folder / "tokenizer.json";
    const json parts = read_object(path);
    const json config = read_object(folder / "tokenizer_config.json", true);
    try {
        std::map<int64_t, json> added;
        for (const auto& token : parts.value("added_tokens", json::array())) {
            added[token.at("id").get<int64_t>()] = token;
        }
        const json stated = config.value("added_tokens_decoder", json::object());  // these entries win
        for (const auto& [id, token] : stated.items()) {
            added[std::stoll(id)] = token;
        }
        if (!added.empty()) {
            id_count_ = static_cast<std::size_t>(added.rbegin()->first + 1);
        }
        for (const auto& [id, token] : added) {
            if (token.value("special", false)) {
                special_ids_.insert(id);
                special_tokens_[token.at("content").get<std::string>()] = id;
            }
        }
        const json& vocabulary = parts.at("model").at("vocab");
        int64_t index = 0;
        for (const auto& [key, entry] : vocabulary.items()) {  // {text: id}, or [[text, score]] in order
            const bool listed = vocabulary.is_array();
            const int64_t id = listed ? index : entry.get<int64_t>();
            if (is_byte_token(listed ? entry.at(0).get_ref<const std::string&>() : key)) {
                byte_ids_.insert(id);
            }
            id_count_ = std::max(id_count_, static_cast<std::size_t>(id + 1));
            ++index;
        }
    } catch (const std::logic_error& error) {  // std::stoll
        throw Error(ErrorCode::artifact,
                    "the added tokens of `" + folder.string() + "` cannot be read: " + error.what());
    } catch (const json::exception& error) {
        throw Error(ErrorCode::artifact, "`" + path.string() + "` is no tokenizer: " + error.what());
    }
}

std::vector<int64_t> Tokenizer::encode(std::string_view text, bool add_special_tokens) {
    if (!is_utf8(text)) {
        throw Error(ErrorCode::usage, "the text is not UTF-8");
    }
    auto& request = add_special_tokens ? with_special_ : without_special_;
    try {
        if (!request) {
            request = compiled(core_, without_special_graph_);
        }
        ov::Tensor input(ov::element::string, ov::Shape{1});
        input.data<std::string>()[0] = text;
        request.set_input_tensor(input);
        request.infer();
        const auto ids = request.get_tensor("input_ids");
        return {ids.data<int64_t>(), ids.data<int64_t>() + ids.get_size()};
    } catch (const ov::Exception& error) {
        throw Error(ErrorCode::engine, "the tokenizer failed: " + reason(error));
    }
}

const std::string& Tokenizer::decode(const int64_t* ids, std::size_t count) {
    if (texts_) {
        return texts_->decode(ids, count);
    }
    static const std::string empty;
    if (count == 0) {
        return empty;
    }
    try {
        decoder_shape_[1] = count;
        decoder_ids_.set_shape(decoder_shape_);
        std::copy_n(ids, count, decoder_ids_.data<int64_t>());
        decoder_.infer();
        if (!decoder_text_) {
            decoder_text_ = decoder_.get_output_tensor();
        }
        return decoder_text_.data<std::string>()[0];
    } catch (const ov::Exception& error) {
        throw Error(ErrorCode::engine, "the detokenizer failed: " + reason(error));
    }
}

std::optional<int64_t> Tokenizer::special_id(const std::string& token) const {
    const auto token_id = special_tokens_.find(token);
    return token_id == special_tokens_.end() ? std::nullopt : std::optional<int64_t>(token_id->second);
}

std::vector<std::string> Tokenizer::special_tokens() const {
    std::vector<std::string> names;
    names.reserve(special_tokens_.size());
    for (const auto& token : special_tokens_) {
        names.push_back(token.first);
    }
    return names;
}

}  // namespace ovround
