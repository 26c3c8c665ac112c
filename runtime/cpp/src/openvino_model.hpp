// Reads and checks an IR, and restricts its head to the positions that are needed.
#pragma once

#include <openvino/openvino.hpp>
#include <set>

#include "ovround/ovround.hpp"

namespace ovround {

constexpr const char* kFirstLogits = "ovround.first_logits";  // i64 [1], an input that `add_slice` adds

// `device` in OpenVINO's spelling; throws Error(engine) with the available devices if one does not exist.
std::string known_device(const ov::Core& core, const std::string& device);

// ", " and the name of the hardware; empty if a device has none.
std::string full_name(ov::Core& core, const std::string& device);

// Throws Error(artifact) for a model that is not a stateful text generation model.
std::shared_ptr<ov::Model> read_model(ov::Core& core, const std::filesystem::path& path);

bool has_port(const std::vector<ov::Output<ov::Node>>& ports, const std::string& name);

// The variables of fixed size: those that are no keys or values, [B, H_kv, S, D] with growing S.
std::set<std::string> fixed_states(const ov::Model& model);

// Whether a layer has a sliding window: ovround's graphs name it, other folders state it in config.json.
bool has_window(const ov::Model& model, const std::filesystem::path& folder);

// Makes the head compute positions from kFirstLogits on (negative counts from the end), or only the last one.
void add_slice(ov::Model& model, bool last_only);

// The last line of an OpenVINO message; earlier lines name its source files. Throws std::bad_alloc if the message is
// about memory.
std::string reason(const std::exception& error);

}  // namespace ovround
