#include "openvino_engine.hpp"

#include <algorithm>
#include <cstring>

#include "expanded_weights.hpp"
#include "native_operator.hpp"
#include "openvino_model.hpp"

namespace ovround {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kPiece = 256;       // tokens of a step, where the model has a state of fixed size
constexpr std::size_t kMaxPadding = 256;  // columns of the cache without a token before the cache is compacted

// Float32, no int8 activations, float32 cache: the same three properties as in Python, which documents the reasons.
const ov::AnyMap& exact_options() {
    static const ov::AnyMap options{
        {"INFERENCE_PRECISION_HINT", "f32"}, {"DYNAMIC_QUANTIZATION_GROUP_SIZE", "0"}, {"KV_CACHE_PRECISION", "f32"}};
    return options;
}

}  // namespace

OpenVinoEngine::OpenVinoEngine(ov::Core& core, const fs::path& folder, const LoadOptions& options) {
    const std::string device = known_device(core, options.device);
    const fs::path path = folder / "openvino_model.xml";
    const auto native = prepare_native(core, path, device, options);
    const auto model = read_model(core, path);
    native_ = native.weights == NativeWeights::computed;
    if (native.weights == NativeWeights::expanded) {
        warning_ = native.reason + expand_weights(*model, path.string());
    } else if (native_ && options.exact) {
        make_exact(*model);
    }
    has_positions_ = has_port(model->inputs(), "position_ids");
    const auto size = model->output("logits").get_partial_shape()[2];
    if (size.is_dynamic() || model->output("logits").get_element_type() != ov::element::f32) {
        throw Error(ErrorCode::artifact, "`" + path.string() + "` does not state how many logits it gives, in float32");
    }
    vocab_size_ = static_cast<std::size_t>(size.get_length());
    whole_ = device.rfind("NPU", 0) != 0;  // an NPU has static shapes and its own way of prefill
    fixed_ = fixed_states(*model);
    windowed_ = has_window(*model, folder);
    add_slice(*model, !whole_);
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

// Create a new request instead of reset_state: in OpenVINO 2026.4 parts of an 8-bit cache survive that call.
void OpenVinoEngine::reset() {
    request_ = {};
    logits_ = {};
    length_ = 0;
    rows_.clear();
    history_.clear();
}

const float* OpenVinoEngine::prefill(const std::vector<const std::vector<int64_t>*>& prompts, std::size_t new_tokens) {
    std::size_t longest = 0;
    for (const auto* prompt : prompts) {
        longest = std::max(longest, prompt->size());
    }
    if (!fixed_.empty() && length_ > 0 && prompts.size() > 1) {
        throw Error(ErrorCode::engine,
                    "a batch's cache cannot be continued by prompts: the model's state has a fixed size");
    }
    begin(prompts.size());
    const std::size_t most = fixed_.empty() ? longest : std::min(longest, kPiece);
    make_room(prompts.size(), most, length_ + longest + new_tokens);
    for (std::size_t start = 0; start < longest; start += most) {
        const std::size_t columns = std::min(most, longest - start);
        ids_.tensor.set_shape(ids_.shape = {prompts.size(), columns});
        auto* ids = ids_.tensor.data<int64_t>();
        auto* positions = has_positions_ ? positions_.tensor.data<int64_t>() : nullptr;
        for (std::size_t row = 0; row < prompts.size(); ++row) {
            const auto& prompt = *prompts[row];
            const std::size_t before = longest - prompt.size();  // columns of padding in front of the whole prompt
            const std::size_t padding = std::min(columns, before > start ? before - start : 0);
            ids = std::fill_n(ids, padding, 0);
            const auto from = prompt.begin() + static_cast<std::ptrdiff_t>(start + padding - before);
            ids = std::copy(from, from + static_cast<std::ptrdiff_t>(columns - padding), ids);
            grow(rows_[row], columns, padding, positions != nullptr ? positions + row * columns : nullptr);
        }
        infer(columns, -1);
    }
    if (!fixed_.empty() && prompts.size() == 1) {
        history_.reserve(length_ + new_tokens);
        history_.append(prompts[0]->data(), longest);
        copy_states(Moment::prompt);
    }
    return logits_.data<float>();
}

const float* OpenVinoEngine::decode(const std::vector<int64_t>& ids) {
    make_room(ids.size(), 1, length_ + 1);
    ids_.shape[0] = ids.size();
    ids_.shape[1] = 1;
    ids_.tensor.set_shape(ids_.shape);
    std::copy(ids.begin(), ids.end(), ids_.tensor.data<int64_t>());
    for (std::size_t row = 0; row < rows_.size(); ++row) {
        grow(rows_[row], 1, 0, has_positions_ ? positions_.tensor.data<int64_t>() + row : nullptr);
    }
    infer(1, -1);
    if (!fixed_.empty() && ids.size() == 1) {
        history_.append(ids.data(), 1);
    }
    return logits_.data<float>();
}

const float* OpenVinoEngine::extend(const std::vector<int64_t>& ids) {
    need_whole("several tokens cannot be verified at once");
    begin(1);
    if (!fixed_.empty() && length_ > 0 && ids.size() > 1) {
        copy_states(Moment::guess);
    }
    make_room(1, ids.size(), length_ + ids.size());
    ids_.tensor.set_shape(ids_.shape = {1, ids.size()});
    std::copy(ids.begin(), ids.end(), ids_.tensor.data<int64_t>());
    grow(rows_[0], ids.size(), 0, has_positions_ ? positions_.tensor.data<int64_t>() : nullptr);
    infer(ids.size(), 0);
    if (!fixed_.empty()) {
        history_.append(ids.data(), ids.size());
    }
    return logits_.data<float>();
}

void OpenVinoEngine::rewind(std::size_t length) {
    need_whole("tokens cannot be taken back");
    if (fixed_.empty()) {
        drop(length);
        return;
    }
    if (length == static_cast<std::size_t>(rows_[0].count)) {
        return;
    }
    const auto* copy = history_.back(length);
    const std::vector<int64_t> ids = history_.ids();
    const std::vector<int64_t>* prompt = &ids;
    if (copy == nullptr) {
        reset();
        prefill({prompt}, 0);
        return;
    }
    try {
        for (auto& state : request_.query_state()) {
            if (fixed_.count(state.get_name()) != 0) {
                state.set_state(copy->state.at(state.get_name()));
            }
        }
    } catch (const ov::Exception& error) {
        throw Error(ErrorCode::engine, device_ + " failed: " + reason(error));
    }
    drop(copy->length);
    const std::vector<int64_t> rest(ids.begin() + static_cast<std::ptrdiff_t>(copy->length), ids.end());
    if (!rest.empty()) {
        make_room(1, rest.size(), length_ + rest.size());
        ids_.tensor.set_shape(ids_.shape = {1, rest.size()});
        std::copy(rest.begin(), rest.end(), ids_.tensor.data<int64_t>());
        grow(rows_[0], rest.size(), 0, has_positions_ ? positions_.tensor.data<int64_t>() : nullptr);
        infer(rest.size(), -1);
    }
}

// Copies the variables of fixed size, to go back to.
void OpenVinoEngine::copy_states(Moment moment) {
    try {
        auto& states = history_.copied(moment);
        for (auto& state : request_.query_state()) {
            if (fixed_.count(state.get_name()) == 0) {
                continue;
            }
            const ov::Tensor held = state.get_state();
            ov::Tensor& copy = states[state.get_name()];
            if (!copy || copy.get_shape() != held.get_shape()) {
                copy = ov::Tensor(held.get_element_type(), held.get_shape());
            }
            held.copy_to(copy);
        }
    } catch (const ov::Exception& error) {
        throw Error(ErrorCode::engine, device_ + " failed: " + reason(error));
    }
}

// Masks the tokens after the first `length`. A window counts columns, so that in front of one no free column may stay.
void OpenVinoEngine::drop(std::size_t length) {
    Row& row = rows_[0];
    std::size_t kept = 0;
    for (auto& held : row.held) {
        held = static_cast<uint8_t>(held != 0 && kept < length);
        kept += held;
    }
    row.count = static_cast<int64_t>(kept);
    if (length_ - kept > (windowed_ ? 0 : std::max(kMaxPadding, kept))) {
        cut(row.held);
    }
}

// Keeps only the columns [S] of the cache that are used.
void OpenVinoEngine::cut(const std::vector<uint8_t>& used) {
    const auto count = static_cast<std::size_t>(rows_[0].count);
    try {
        for (auto& state : request_.query_state()) {
            if (fixed_.count(state.get_name()) != 0) {
                continue;
            }
            ov::Tensor from = state.get_state();  // [1, H_kv, S, D]
            if (!from.is_continuous()) {
                ov::Tensor dense(from.get_element_type(), from.get_shape());
                from.copy_to(dense);
                from = dense;
            }
            ov::Shape shape = from.get_shape();
            const std::size_t column_bytes = shape[3] * from.get_element_type().size();
            shape[2] = count;
            ov::Tensor to(from.get_element_type(), shape);
            const auto* read = static_cast<const char*>(static_cast<const ov::Tensor&>(from).data());
            auto* write = static_cast<char*>(to.data());
            for (std::size_t head = 0; head < shape[0] * shape[1]; ++head) {
                for (std::size_t column = 0; column < used.size(); ++column, read += column_bytes) {
                    if (used[column] != 0) {
                        std::memcpy(write, read, column_bytes);
                        write += column_bytes;
                    }
                }
            }
            state.set_state(to);
        }
    } catch (const ov::Exception& error) {
        throw Error(ErrorCode::engine, device_ + " failed: " + reason(error));
    }
    rows_[0].held.assign(count, 1);
    length_ = count;
}

void OpenVinoEngine::keep(const std::vector<std::size_t>& rows) {
    spare_.resize(rows.size());
    for (std::size_t index = 0; index < rows.size(); ++index) {
        spare_[index].held.reserve(length_room_);
        spare_[index] = rows_[rows[index]];
    }
    rows_.swap(spare_);
}

void OpenVinoEngine::need_whole(const char* why) const {
    if (!whole_) {
        throw Error(ErrorCode::engine, "device NPU: " + std::string(why), "choose another device for this");
    }
}

// Creates the rows of an empty cache.
void OpenVinoEngine::begin(std::size_t rows) {
    if (rows_.empty()) {
        rows_.resize(rows);
        for (std::size_t row = 0; row < rows; ++row) {
            rows_[row].source = static_cast<int32_t>(row);
        }
    }
}

// Tensors for this length: allocated once if the length is known, otherwise doubled each time.
void OpenVinoEngine::make_room(std::size_t rows, std::size_t columns, std::size_t length) {
    if (request_ && rows <= rows_room_ && columns <= columns_room_ && length <= length_room_) {
        return;
    }
    try {
        if (!request_) {
            request_ = compiled_.create_infer_request();
            rows_room_ = columns_room_ = length_room_ = 0;
        }
        rows_room_ = std::max(rows, rows_room_);
        columns_room_ = std::max(columns, columns_room_);
        length_room_ = length <= length_room_ ? length_room_ : std::max(length, 2 * length_room_);
        give_inputs();
    } catch (const ov::Exception& error) {
        throw Error(ErrorCode::engine, device_ + " failed: " + reason(error));
    }
    for (auto& row : rows_) {
        row.held.reserve(length_room_);
    }
}

void OpenVinoEngine::give_inputs() {
    const auto give = [this](Input& input, const char* name, ov::element::Type type, const ov::Shape& largest) {
        input = {ov::Tensor(type, largest), largest};
        request_.set_tensor(name, input.tensor);
    };
    give(ids_, "input_ids", ov::element::i64, {rows_room_, columns_room_});
    give(mask_, "attention_mask", ov::element::i64, {rows_room_, length_room_});
    if (has_positions_) {
        give(positions_, "position_ids", ov::element::i64, {rows_room_, columns_room_});
    }
    give(beams_, "beam_idx", ov::element::i32, {rows_room_});
    if (whole_) {
        first_ = ov::Tensor(ov::element::i64, {1});
        request_.set_tensor(kFirstLogits, first_);
    }
}

// Appends `columns` columns to a row, the first `padding` of which hold no token, and writes their positions.
void OpenVinoEngine::grow(Row& row, std::size_t columns, std::size_t padding, int64_t* positions) {
    for (std::size_t column = 0; column < columns; ++column) {
        const bool held = column >= padding;
        row.held.push_back(static_cast<uint8_t>(held));
        row.count += held ? 1 : 0;
        if (positions != nullptr) {
            positions[column] = std::max<int64_t>(row.count - 1, 0);
        }
    }
}

void OpenVinoEngine::write_mask() {
    mask_.shape[0] = rows_.size();
    mask_.shape[1] = length_;
    mask_.tensor.set_shape(mask_.shape);
    auto* to = mask_.tensor.data<int64_t>();
    for (const auto& row : rows_) {
        to = std::copy(row.held.begin(), row.held.end(), to);
    }
}

void OpenVinoEngine::infer(std::size_t columns, int64_t first) {
    length_ += columns;
    write_mask();
    if (has_positions_) {
        positions_.shape[0] = rows_.size();
        positions_.shape[1] = columns;
        positions_.tensor.set_shape(positions_.shape);
    }
    beams_.shape[0] = rows_.size();
    beams_.tensor.set_shape(beams_.shape);
    std::transform(rows_.begin(), rows_.end(), beams_.tensor.data<int32_t>(),
                   [](const Row& row) { return row.source; });
    try {
        if (whole_) {
            *first_.data<int64_t>() = first;
        }
        request_.infer();
        if (!logits_) {
            logits_ = request_.get_tensor("logits");
        }
    } catch (const ov::Exception& error) {
        throw Error(ErrorCode::engine, device_ + " failed: " + reason(error));
    }
    for (std::size_t row = 0; row < rows_.size(); ++row) {
        rows_[row].source = static_cast<int32_t>(row);
    }
}

}  // namespace ovround
