// An IR for the engine: read, checked, and with a head that computes only the requested positions.
#pragma once

#include <openvino/openvino.hpp>

#include "ovround/ovround.hpp"

namespace ovround {

constexpr const char* kFirstLogits = "ovround.first_logits";  // i64 [1], an input that `add_slice` adds

// `device` in OpenVINO's spelling; Error(engine) listing what there is when a part of it is not there.
std::string known_device(const ov::Core& core, const std::string& device);

// ", " and the name of the hardware; empty where a device has none.
std::string full_name(ov::Core& core, const std::string& device);

// Error(artifact) for what is no stateful text generation model.
std::shared_ptr<ov::Model> read_model(ov::Core& core, const std::filesystem::path& path);

bool has_port(const std::vector<ov::Output<ov::Node>>& ports, const std::string& name);

// Whether all of a model's state is keys and values, [B, H_kv, S, D] with S growing.
bool has_plain_cache(const ov::Model& model);

// Let the head see positions from kFirstLogits on, where negative counts from the end; or the last one only.
void add_slice(ov::Model& model, bool last_only);

// The last line of an OpenVINO message; those before it say where in its sources it was. Throws std::bad_alloc where
// that is what the message is about.
std::string reason(const std::exception& error);

}  // namespace ovround
