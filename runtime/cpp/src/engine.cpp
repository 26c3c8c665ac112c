#include "engine.hpp"

#include <algorithm>
#include <numeric>
#include <openvino/op/constant.hpp>
#include <openvino/op/slice.hpp>
#include <sstream>

namespace ovround {
namespace {

namespace fs = std::filesystem;

// Float32, no int8 activations, float32 cache: the same three as in Python, where the reason stands.
const ov::AnyMap& exact_options() {
    static const ov::AnyMap options{
        {"INFERENCE_PRECISION_HINT", "f32"}, {"DYNAMIC_QUANTIZATION_GROUP_SIZE", "0"}, {"KV_CACHE_PRECISION", "f32"}};
    return options;
}

template <typename List>
std::string joined(const List& parts) {
    std::string text;
    for (const auto& part : parts) {
        text += (text.empty() ? "" : ", ") + std::string(part);
    }
    return text;
}

std::vector<std::string> split(const std::string& text) {
    std::vector<std::string> parts;
    std::istringstream stream(text);
    for (std::string part; std::getline(stream, part, ',');) {
        parts.push_back(part);
    }
    return parts;
}

// `device` in OpenVINO's spelling; Error(engine) listing what there is when a part of it is not there.
std::string known_device(const ov::Core& core, const std::string& device) {
    std::string name = device;
    std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::toupper(c); });
    const std::size_t colon = name.find(':');
    const std::string kind = name.substr(0, colon);
    const bool meta = kind == "AUTO" || kind == "HETERO" || kind == "MULTI";
    const auto parts = !meta                        ? std::vector<std::string>{name}
                       : colon == std::string::npos ? std::vector<std::string>{}
                                                    : split(name.substr(colon + 1));
    auto available = core.get_available_devices();
    for (const auto& part : parts) {  // a leading minus keeps AUTO off a device, there or not
        const bool there = std::any_of(available.begin(), available.end(), [&](const std::string& known) {
            return part == known || known.rfind(part + ".", 0) == 0;
        });
        if (part.rfind('-', 0) != 0 && !there) {
            available.emplace_back("AUTO");
            throw Error(ErrorCode::engine, "device `" + device + "` is not there",
                        "available for OpenVINO: " + joined(available));
        }
    }
    return name;
}

std::string full_name(ov::Core& core, const std::string& device) {
    try {
        return ", " + core.get_property(device, "FULL_DEVICE_NAME").as<std::string>();
    } catch (const ov::Exception&) {  // AUTO and the like have none
        return "";
    }
}

bool has_port(const std::vector<ov::Output<ov::Node>>& ports, const std::string& name) {
    return std::any_of(ports.begin(), ports.end(), [&](const auto& port) { return port.get_names().count(name) > 0; });
}

std::shared_ptr<ov::Model> read_model(ov::Core& core, const fs::path& path) {
    const fs::path weights = fs::path(path).replace_extension(".bin");
    if (!fs::is_regular_file(weights)) {
        throw Error(ErrorCode::artifact, "`" + weights.string() + "` is missing",
                    "convert again, or copy the whole folder again");
    }
    std::shared_ptr<ov::Model> model;
    try {
        model = core.read_model(path.string());
    } catch (const ov::Exception& error) {
        throw Error(ErrorCode::artifact, "`" + path.string() + "` cannot be read by OpenVINO " +
                                             ov::get_openvino_version().buildNumber + ": " + reason(error));
    }
    std::string missing;
    for (const char* name : {"input_ids", "attention_mask", "beam_idx"}) {
        if (missing.empty() && !has_port(model->inputs(), name)) {
            missing = name;
        }
    }
    if (missing.empty() && !has_port(model->outputs(), "logits")) {
        missing = "logits";
    }
    if (!missing.empty() || model->get_sinks().empty()) {
        throw Error(ErrorCode::artifact,
                    "`" + path.string() + "` has no " + (missing.empty() ? "variables for the KV cache" : missing) +
                        ": it is no stateful text generation model",
                    "with optimum-intel, export for the task text-generation-with-past");
    }
    return model;
}

// Let the head see the last position only.
void add_slice(ov::Model& model) {
    constexpr const char* kAfterHead[] = {"Add", "Transpose", "Multiply", "Divide", "Tanh", "Convert"};
    const auto result = model.output("logits").get_node_shared_ptr();
    auto head = result->input_value(0).get_node_shared_ptr();
    while (std::find(std::begin(kAfterHead), std::end(kAfterHead), std::string(head->get_type_name())) !=
           std::end(kAfterHead)) {
        head = head->input_value(0).get_node_shared_ptr();
    }
    // An unknown head computes all positions, and is cut behind.
    const auto after = std::string(head->get_type_name()) == "MatMul" ? head : result;
    const auto constant = [](int64_t value) {
        return ov::op::v0::Constant::create(ov::element::i64, ov::Shape{1}, {value});
    };
    const auto cut = std::make_shared<ov::op::v8::Slice>(after->input_value(0), constant(-1),
                                                         constant((int64_t{1} << 31) - 1), constant(1), constant(1));
    after->input(0).replace_source_output(cut->output(0));
    model.validate_nodes_and_infer_types();
}

}  // namespace

std::string reason(const std::exception& error) {
    std::istringstream lines(error.what());
    std::string last;
    for (std::string line; std::getline(lines, line);) {
        const std::size_t begin = line.find_first_not_of(" \t\r");
        if (begin != std::string::npos) {
            last = line.substr(begin, line.find_last_not_of(" \t\r") - begin + 1);
        }
    }
    return last;
}

Engine::Engine(ov::Core& core, const fs::path& folder, const LoadOptions& options) {
    if (options.threads < 0) {
        throw Error(ErrorCode::usage, "threads is " + std::to_string(options.threads) +
                                          "; a whole number of 1 or more is needed, or 0 for the engine's choice");
    }
    const std::string device = known_device(core, options.device);
    const auto model = read_model(core, folder / "openvino_model.xml");
    has_positions_ = has_port(model->inputs(), "position_ids");
    const auto size = model->output("logits").get_partial_shape()[2];
    if (size.is_dynamic() || model->output("logits").get_element_type() != ov::element::f32) {
        throw Error(ErrorCode::artifact, "`" + (folder / "openvino_model.xml").string() +
                                             "` does not state how many logits it gives, in float32");
    }
    vocab_size_ = static_cast<std::size_t>(size.get_length());
    add_slice(*model);
    ov::AnyMap config = options.exact ? exact_options() : ov::AnyMap{};
    if (options.threads > 0) {
        if (device != "CPU") {
            throw Error(ErrorCode::usage, "threads is " + std::to_string(options.threads) + " and the device " +
                                              device + "; threads are chosen for CPU only");
        }
        config["INFERENCE_NUM_THREADS"] = options.threads;
    }
    try {
        compiled_ = core.compile_model(model, device, config);
    } catch (const ov::Exception& error) {
        throw Error(ErrorCode::engine,
                    "OpenVINO cannot run `" + folder.string() + "` on " + device + ": " + reason(error));
    }
    device_ = "OpenVINO " + device + full_name(core, device);
}

const float* Engine::prefill(const std::vector<const std::vector<int64_t>*>& prompts) {
    std::size_t longest = 0;
    for (const auto* prompt : prompts) {
        longest = std::max(longest, prompt->size());
    }
    // A new request, not reset_state: OpenVINO 2026.4 keeps something of an 8-bit cache across that.
    request_ = compiled_.create_infer_request();
    length_ = 0;
    paddings_.clear();
    rows_.resize(prompts.size());
    std::iota(rows_.begin(), rows_.end(), 0);
    auto tensor = request_.get_tensor("input_ids");
    tensor.set_shape({prompts.size(), longest});
    auto* ids = tensor.data<int64_t>();
    for (const auto* prompt : prompts) {
        paddings_.push_back(static_cast<int64_t>(longest - prompt->size()));
        ids = std::fill_n(ids, longest - prompt->size(), 0);
        ids = std::copy(prompt->begin(), prompt->end(), ids);
    }
    return infer(longest);
}

const float* Engine::decode(const std::vector<int64_t>& ids) {
    auto tensor = request_.get_tensor("input_ids");
    tensor.set_shape({ids.size(), 1});
    std::copy(ids.begin(), ids.end(), tensor.data<int64_t>());
    return infer(1);
}

void Engine::keep(const std::vector<std::size_t>& rows) {
    for (std::size_t place = 0; place < rows.size(); ++place) {  // rows ascend
        rows_[place] = rows_[rows[place]];
        paddings_[place] = paddings_[rows[place]];
    }
    rows_.resize(rows.size());
    paddings_.resize(rows.size());
}

const float* Engine::infer(std::size_t columns) {
    const std::size_t batch = rows_.size();
    length_ += columns;
    auto mask = request_.get_tensor("attention_mask");
    mask.set_shape({batch, length_});
    auto* to = mask.data<int64_t>();
    for (const int64_t padding : paddings_) {
        to = std::fill_n(to, padding, 0);
        to = std::fill_n(to, static_cast<int64_t>(length_) - padding, 1);
    }
    if (has_positions_) {
        auto positions = request_.get_tensor("position_ids");
        positions.set_shape({batch, columns});
        auto* position = positions.data<int64_t>();
        for (const int64_t padding : paddings_) {
            for (std::size_t column = length_ - columns; column < length_; ++column) {
                *position++ = std::max<int64_t>(static_cast<int64_t>(column) - padding, 0);
            }
        }
    }
    auto beams = request_.get_tensor("beam_idx");
    beams.set_shape({batch});
    std::copy(rows_.begin(), rows_.end(), beams.data<int32_t>());
    try {
        request_.infer();
    } catch (const ov::Exception& error) {
        throw Error(ErrorCode::engine, device_ + " failed: " + reason(error));
    }
    std::iota(rows_.begin(), rows_.end(), 0);
    return request_.get_tensor("logits").data<float>();
}

}  // namespace ovround
