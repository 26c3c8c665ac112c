#include "onnx_engine.hpp"

#include <algorithm>
#include <array>
#include <cstring>

#include "json_object.hpp"
#include "model_info.hpp"

namespace ovround {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::size_t kPrefillTokens = 256;  // a run computes the logits of all its positions; this limits their memory

// Reads `model.decoder` of genai_config.json; throws Error(artifact) if the cache is not one shared buffer.
json read_decoder(const fs::path& path) {
    const json config = read_object(path);
    json decoder = config.value(json::json_pointer("/model/decoder"), json());
    if (!decoder.is_object()) {
        throw Error(ErrorCode::artifact, "`" + path.string() + "` has no model.decoder");
    }
    if (config.value(json::json_pointer("/search/past_present_share_buffer"), json()) != true) {
        throw Error(
            ErrorCode::artifact,
            "`" + path.string() + "`: search.past_present_share_buffer is not true; other caches are not supported",
            "build the model for CPU with GroupQueryAttention");
    }
    return decoder;
}

std::vector<std::pair<std::string, std::string>> session_entries(const json& decoder) {
    std::vector<std::pair<std::string, std::string>> entries;
    const json stated = decoder.value("session_options", json());
    if (stated.is_object()) {
        for (const auto& [key, value] : stated.items()) {
            if (key.find('.') != std::string::npos && value.is_string()) {  // ONNX Runtime's own keys
                entries.emplace_back(key, value.get<std::string>());
            }
        }
    }
    return entries;
}

}  // namespace

OnnxEngine::OnnxEngine(const fs::path& folder, const LoadOptions& options) {
    if (options.device != "CPU" && options.device != "cpu") {
        throw Error(ErrorCode::engine,
                    "device `" + options.device + "` cannot run `" + folder.string() + "`: ONNX models run on CPU",
                    "convert for OpenVINO, or choose CPU");
    }
    context_length_ = read_model_info(folder).context_length;
    const json decoder = read_decoder(folder / "genai_config.json");
    session_ = runtime_.open(folder / "model.onnx", options.exact, options.threads, session_entries(decoder), native_);
    const json head_size = decoder.value("head_size", json());
    auto contract = read_contract(runtime_, session_.get(), folder / "model.onnx",
                                  head_size.is_number_integer() ? head_size.get<int64_t>() : -1);
    vocab_size_ = contract.vocab_size;
    for (auto& state : contract.states) {
        caches_.push_back({std::move(state)});
        has_fixed_ = has_fixed_ || caches_.back().fixed();
    }
    inputs_ = {"input_ids", "attention_mask"};
    outputs_ = {"logits"};
    for (const auto& cache : caches_) {
        inputs_.push_back(cache.past.c_str());
        outputs_.push_back(cache.present.c_str());
    }
    in_.resize(inputs_.size());
    out_.resize(outputs_.size());
    device_ = "ONNX Runtime " + runtime_.version() + " CPU";
}

std::size_t OnnxEngine::row_bytes(const Cache& cache) const {
    std::size_t size = cache.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ? sizeof(float) : sizeof(float) / 2;
    for (const int64_t axis : cache.shape) {
        size *= axis == 0 ? room_ : static_cast<std::size_t>(axis);
    }
    return size;
}

// A tensor over `rows` rows of a buffer from `row` on.
OrtPointer<OrtValue> OnnxEngine::over(std::vector<char>& bytes, const Cache& cache, std::size_t row,
                                      std::size_t rows) const {
    std::vector<int64_t> shape{static_cast<int64_t>(rows)};
    for (const int64_t axis : cache.shape) {
        shape.push_back(axis == 0 ? static_cast<int64_t>(room_) : axis);
    }
    const std::size_t size = row_bytes(cache);
    return runtime_.tensor(bytes.data() + row * size, rows * size, shape.data(), shape.size(), cache.type);
}

OrtPointer<OrtValue> OnnxEngine::matrix(std::vector<int64_t>& values, std::size_t rows) const {
    const std::array<int64_t, 2> shape{static_cast<int64_t>(rows), static_cast<int64_t>(values.size() / rows)};
    return runtime_.tensor(values.data(), values.size() * sizeof(int64_t), shape.data(), 2,
                           ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
}

OrtPointer<OrtValue> OnnxEngine::logits(std::vector<float>& values, std::size_t rows, std::size_t tokens) const {
    const std::array<int64_t, 3> shape{static_cast<int64_t>(rows), static_cast<int64_t>(tokens),
                                       static_cast<int64_t>(vocab_size_)};
    return runtime_.tensor(values.data(), rows * tokens * vocab_size_ * sizeof(float), shape.data(), 3,
                           ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
}

// Tensors over all rows of the buffers, for decoding; only the growing mask is created anew at each step.
void OnnxEngine::bind_rows() {
    const std::size_t rows = lengths_.size();
    for (std::size_t index = 0; index < caches_.size(); ++index) {
        auto& cache = caches_[index];
        cache.value = over(cache.bytes, cache, 0, rows);
        in_[index + 2] = out_[index + 1] = cache.value.get();
        if (cache.fixed()) {
            cache.written_value = over(cache.written, cache, 0, rows);
            out_[index + 1] = cache.written_value.get();
        }
    }
    ids_.resize(rows);
    step_ids_ = matrix(ids_, rows);
    step_logits_ = logits(logits_, rows, 1);
    in_[0] = step_ids_.get();
    out_[0] = step_logits_.get();
}

void OnnxEngine::reset() {
    lengths_.clear();
    room_ = 0;
    history_.clear();
}

// Buffers for rows of `tokens` tokens: allocated once if the length is known, otherwise doubled each time.
void OnnxEngine::make_room(std::size_t tokens) {
    if (tokens <= room_) {
        return;
    }
    const std::size_t old = room_;
    room_ = std::max(tokens, std::min(2 * old, context_length_));
    for (auto& cache : caches_) {
        if (cache.fixed()) {
            if (old == 0) {
                cache.bytes.assign(lengths_.size() * row_bytes(cache), 0);
                cache.written.resize(cache.bytes.size());
            }
            continue;
        }
        const std::size_t heads = lengths_.size() * static_cast<std::size_t>(cache.shape[0]);
        const std::size_t size = row_bytes(cache) / static_cast<std::size_t>(cache.shape[0]);  // bytes of one head
        spare_.assign(heads * size, 0);
        for (std::size_t head = 0; old > 0 && head < heads; ++head) {
            const std::size_t old_size = size / room_ * old;
            std::memcpy(spare_.data() + head * size, cache.bytes.data() + head * old_size, old_size);
        }
        cache.bytes.swap(spare_);
    }
    spare_ = {};
    mask_.reserve(room_ * lengths_.size());
}

const float* OnnxEngine::prefill(const std::vector<const std::vector<int64_t>*>& prompts, std::size_t new_tokens) {
    if (lengths_.empty()) {
        lengths_.assign(prompts.size(), 0);
    }
    std::size_t most = 0;
    for (std::size_t row = 0; row < prompts.size(); ++row) {
        most = std::max(most, lengths_[row] + prompts[row]->size());
    }
    make_room(most + new_tokens);
    ids_.reserve(std::max(kPrefillTokens, prompts.size()));
    logits_.resize(prompts.size() * vocab_size_);
    for (std::size_t row = 0; row < prompts.size(); ++row) {
        const auto& prompt = *prompts[row];
        const auto held = bind_row(row);
        for (std::size_t start = 0; start < prompt.size(); start += kPrefillTokens) {
            extend_row(row, prompt.data() + start, std::min(kPrefillTokens, prompt.size() - start));
        }
        std::copy(positions_.end() - static_cast<std::ptrdiff_t>(vocab_size_), positions_.end(),
                  logits_.begin() + static_cast<std::ptrdiff_t>(row * vocab_size_));
    }
    bind_rows();
    if (has_fixed_ && prompts.size() == 1) {
        history_.reserve(most + new_tokens);
        history_.append(prompts[0]->data(), prompts[0]->size());
        copy_states(Moment::prompt);
    }
    return logits_.data();
}

const float* OnnxEngine::extend(const std::vector<int64_t>& ids) {
    if (lengths_.empty()) {
        lengths_.assign(1, 0);
    } else if (has_fixed_ && ids.size() > 1) {
        copy_states(Moment::guess);
    }
    make_room(lengths_[0] + ids.size());
    ids_.reserve(std::max(kPrefillTokens, ids.size()));
    logits_.resize(vocab_size_);
    const auto held = bind_row(0);
    extend_row(0, ids.data(), ids.size());
    bind_rows();
    if (has_fixed_) {
        history_.append(ids.data(), ids.size());
    }
    return positions_.data();
}

void OnnxEngine::rewind(std::size_t length) {
    if (!has_fixed_ || length == lengths_[0]) {
        lengths_[0] = length;  // later tokens are overwritten
        return;
    }
    const auto* copy = history_.back(length);
    std::size_t index = 0;
    for (auto& cache : caches_) {
        if (!cache.fixed()) {
            continue;
        }
        if (copy == nullptr) {
            std::fill(cache.bytes.begin(), cache.bytes.end(), char{0});
        } else {
            std::copy(copy->state[index].begin(), copy->state[index].end(), cache.bytes.begin());
        }
        ++index;
    }
    lengths_[0] = copy == nullptr ? 0 : copy->length;
    const std::vector<int64_t>& ids = history_.ids();
    const auto held = bind_row(0);
    for (std::size_t start = lengths_[0]; start < length; start += kPrefillTokens) {
        extend_row(0, ids.data() + start, std::min(kPrefillTokens, length - start));
    }
    bind_rows();
}

// Copies the states of fixed size, to go back to.
void OnnxEngine::copy_states(Moment moment) {
    auto& states = history_.copied(moment);
    states.resize(caches_.size());
    std::size_t index = 0;
    for (const auto& cache : caches_) {
        if (cache.fixed()) {
            states[index++] = cache.bytes;
        }
    }
}

// Tensors over one row of the buffers; they must live until the run ends.
std::vector<OrtPointer<OrtValue>> OnnxEngine::bind_row(std::size_t row) {
    std::vector<OrtPointer<OrtValue>> held;
    for (std::size_t index = 0; index < caches_.size(); ++index) {
        auto& cache = caches_[index];
        held.push_back(over(cache.bytes, cache, row, 1));
        in_[index + 2] = out_[index + 1] = held.back().get();
        if (cache.fixed()) {
            held.push_back(over(cache.written, cache, row, 1));
            out_[index + 1] = held.back().get();
        }
    }
    return held;
}

// Appends a piece to a row whose tensors are bound: logits [T, V] in positions_.
void OnnxEngine::extend_row(std::size_t row, const int64_t* ids, std::size_t count) {
    ids_.assign(ids, ids + count);
    lengths_[row] += count;
    mask_.assign(lengths_[row], 1);
    positions_.resize(count * vocab_size_);
    const auto tokens = matrix(ids_, 1);
    const auto scores = logits(positions_, 1, count);
    in_[0] = tokens.get();
    out_[0] = scores.get();
    run(row, 1);
}

const float* OnnxEngine::decode(const std::vector<int64_t>& ids) {
    const std::size_t rows = lengths_.size();
    const std::size_t longest = *std::max_element(lengths_.begin(), lengths_.end()) + 1;
    if (longest > room_) {
        make_room(longest);
        bind_rows();
    }
    for (auto& length : lengths_) {
        ++length;
    }
    std::copy(ids.begin(), ids.end(), ids_.begin());
    mask_.assign(rows * longest, 0);
    for (std::size_t row = 0; row < rows; ++row) {
        std::fill_n(mask_.begin() + static_cast<std::ptrdiff_t>(row * longest), lengths_[row], 1);
    }
    run(0, rows);
    if (has_fixed_ && rows == 1) {
        history_.append(ids.data(), 1);
    }
    return logits_.data();
}

// Runs on `rows` rows from `first_row` on, whose tensors are bound.
void OnnxEngine::run(std::size_t first_row, std::size_t rows) {
    const auto mask = matrix(mask_, rows);
    in_[1] = mask.get();
    OrtStatus* status = runtime_.api().Run(session_.get(), nullptr, inputs_.data(), in_.data(), in_.size(),
                                           outputs_.data(), out_.size(), out_.data());
    if (status != nullptr) {
        runtime_.check(status, ErrorCode::engine, device_ + " failed");
    }
    for (auto& cache : caches_) {
        if (cache.fixed()) {
            const std::size_t size = row_bytes(cache);
            std::memcpy(cache.bytes.data() + first_row * size, cache.written.data() + first_row * size, rows * size);
        }
    }
}

void OnnxEngine::keep(const std::vector<std::size_t>& rows) {
    choose_rows(lengths_, rows, 1, spare_lengths_);
    for (auto& cache : caches_) {
        choose_rows(cache.bytes, rows, row_bytes(cache), spare_);
        if (cache.fixed()) {
            cache.written.resize(cache.bytes.size());
        }
    }
    mask_.reserve(room_ * rows.size());
    logits_.resize(rows.size() * vocab_size_);
    bind_rows();
}

}  // namespace ovround
