#include "openvino_model.hpp"

#include <algorithm>
#include <openvino/op/constant.hpp>
#include <openvino/op/parameter.hpp>
#include <openvino/op/slice.hpp>
#include <sstream>

#include "file_kind.hpp"
#include "json_object.hpp"
#include "native_operator.hpp"

namespace ovround {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

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

// Whether a part of config.json states a sliding window that is used.
bool states_window(const json& part) {
    const auto is_set = [](const json& value) { return !value.is_null() && value != false && value != 0; };
    return part.is_object() && is_set(part.value("sliding_window", json())) &&
           is_set(part.value("use_sliding_window", json(true)));
}

}  // namespace

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
    for (const auto& part : parts) {  // a leading minus excludes a device from AUTO, whether it exists or not
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
    } catch (const ov::Exception&) {  // virtual devices such as AUTO have no name
        return "";
    }
}

bool has_port(const std::vector<ov::Output<ov::Node>>& ports, const std::string& name) {
    return std::any_of(ports.begin(), ports.end(), [&](const auto& port) { return port.get_names().count(name) > 0; });
}

std::shared_ptr<ov::Model> read_model(ov::Core& core, const fs::path& path) {
    const fs::path weights = fs::path(path).replace_extension(".bin");
    if (!is_file(weights)) {
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

std::set<std::string> fixed_states(const ov::Model& model) {
    std::set<std::string> names;
    for (const auto& variable : model.get_variables()) {
        const auto info = variable->get_info();
        const auto& shape = info.data_shape;
        if (shape.rank().is_dynamic() || shape.size() != 4 || shape[2].is_static()) {
            names.insert(info.variable_id);
        }
    }
    return names;
}

bool has_window(const ov::Model& model, const fs::path& folder) {
    for (const auto& node : model.get_ops()) {
        if (node->get_friendly_name().rfind("const/window/", 0) == 0) {
            return true;
        }
    }
    const json config = read_object(folder / "config.json", true);
    return states_window(config) || states_window(config.value("text_config", json()));
}

void add_slice(ov::Model& model, bool last_only) {
    constexpr const char* kAfterHead[] = {"Add", "Transpose", "Multiply", "Divide", "Tanh", "Convert"};
    const auto result = model.output("logits").get_node_shared_ptr();
    auto head = result->input_value(0).get_node_shared_ptr();
    while (std::find(std::begin(kAfterHead), std::end(kAfterHead), std::string(head->get_type_name())) !=
           std::end(kAfterHead)) {
        head = head->input_value(0).get_node_shared_ptr();
    }
    // An unknown head computes all positions, and its output is sliced.
    const std::string type = head->get_type_name();
    const auto after = type == "MatMul" || type == kNativeOperator ? head : result;
    const auto constant = [](int64_t value) {
        return ov::op::v0::Constant::create(ov::element::i64, ov::Shape{1}, {value});
    };
    ov::Output<ov::Node> first = constant(-1);
    if (!last_only) {
        const auto input = std::make_shared<ov::op::v0::Parameter>(ov::element::i64, ov::PartialShape{1});
        input->output(0).set_names({kFirstLogits});
        model.add_parameters({input});
        first = input->output(0);
    }
    const auto cut = std::make_shared<ov::op::v8::Slice>(after->input_value(0), first, constant((int64_t{1} << 31) - 1),
                                                         constant(1), constant(1));
    after->input(0).replace_source_output(cut->output(0));
    model.validate_nodes_and_infer_types();
}

std::string reason(const std::exception& error) {
    std::istringstream lines(error.what());
    std::string last;
    for (std::string line; std::getline(lines, line);) {
        const std::size_t begin = line.find_first_not_of(" \t\r");
        if (begin != std::string::npos) {
            last = line.substr(begin, line.find_last_not_of(" \t\r") - begin + 1);
        }
    }
    if (last.find("std::bad_alloc") != std::string::npos) {
        throw std::bad_alloc();
    }
    return last;
}

}  // namespace ovround
