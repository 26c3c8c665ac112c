#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

#include "chat_template.hpp"
#include "generation.hpp"
#include "manifest.hpp"
#include "model_info.hpp"
#if defined(OVROUND_ONNX)
#include "onnx_engine.hpp"
#endif
#include "openvino_engine.hpp"
#include "tokenizer.hpp"

namespace ovround {
namespace {

// Prefer to say that a callback asked its own model, over waiting forever for oneself.
class Turn {
public:
    Turn(std::mutex& lock, std::atomic<std::thread::id>& owner) : owner_(owner) {
        if (owner.load() == std::this_thread::get_id()) {
            throw Error(ErrorCode::generation, "a callback of this model has asked it again",
                        "let the callback return first");
        }
        lock_ = std::unique_lock(lock);
        owner_ = std::this_thread::get_id();
    }
    ~Turn() { owner_ = std::thread::id(); }
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;

private:
    std::unique_lock<std::mutex> lock_;
    std::atomic<std::thread::id>& owner_;
};

std::unique_ptr<Engine> open_engine(ov::Core& core, const std::filesystem::path& folder, const LoadOptions& options) {
    if (options.threads < 0) {
        throw Error(ErrorCode::usage, "threads is " + std::to_string(options.threads) +
                                          "; a whole number of 1 or more is needed, or 0 for the engine's choice");
    }
#if defined(OVROUND_ONNX)
    if (!std::filesystem::is_regular_file(folder / "openvino_model.xml")) {
        return std::make_unique<OnnxEngine>(folder, options);
    }
#endif
    return std::make_unique<OpenVinoEngine>(core, folder, options);
}

}  // namespace

struct LLM::State {
    State(const std::filesystem::path& path, const LoadOptions& options)
        : weight_bytes_per_token(check_folder(path, options.check_contents)), info(read_model_info(path)),
          engine(open_engine(core, path, options)), folder(path), tokenizer(core, path, options.tokenizers_library) {}

    std::unique_ptr<Request> admit(std::vector<int64_t> ids, const SamplingOptions& options) {
        check_options(options);
        SamplingOptions chosen = options;
        // A special token has no text in which a stop string could be found: it is looked for by its id.
        for (const auto& text : options.stop) {
            if (const auto id = tokenizer.special_id(text)) {
                chosen.stop_token_ids.push_back(*id);
            }
        }
        return ovround::admit(std::move(ids), chosen, info.context_length, info.end_token_ids, engine->vocab_size(),
                              tokenizer);
    }

    Completion answer(std::vector<int64_t> ids, const SamplingOptions& options, const OnPiece& on_piece) {
        const auto request = admit(std::move(ids), options);
        cancelled = false;
        run(*engine, {request.get()}, cancelled, on_piece);
        return completion(*request);
    }

    std::mutex lock;
    std::atomic<std::thread::id> owner{};
    std::atomic<bool> cancelled = false;
    uint64_t weight_bytes_per_token;
    ov::Core core;  // outlives what was made with it
    ModelInfo info;
    std::unique_ptr<Engine> engine;
    std::filesystem::path folder;
    Tokenizer tokenizer;
    std::optional<ChatTemplate> chat_template;  // read by the first chat
    double load_s = 0.0;
};

Error::Error(ErrorCode code, const std::string& message, std::string hint)
    : std::runtime_error(message), code_(code), hint_(std::move(hint)) {}

LLM::LLM(const std::filesystem::path& folder, const LoadOptions& options) {
    const auto start = std::chrono::steady_clock::now();
    state_ = std::make_unique<State>(folder, options);
    state_->load_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

LLM::~LLM() = default;
LLM::LLM(LLM&&) noexcept = default;
LLM& LLM::operator=(LLM&&) noexcept = default;

Completion LLM::generate(std::string_view prompt, const SamplingOptions& options, const OnPiece& on_piece) {
    const Turn turn(state_->lock, state_->owner);
    return state_->answer(state_->tokenizer.encode(prompt, true), options, on_piece);
}

Completion LLM::generate_ids(const std::vector<int64_t>& prompt_ids, const SamplingOptions& options,
                             const OnPiece& on_piece) {
    const Turn turn(state_->lock, state_->owner);
    return state_->answer(prompt_ids, options, on_piece);
}

std::vector<Completion> LLM::generate_batch(const std::vector<std::string>& prompts, const SamplingOptions& options,
                                            std::size_t batch_size) {
    if (batch_size == 0) {
        throw Error(ErrorCode::usage, "batch_size is 0; a whole number of 1 or more is needed");
    }
    const Turn turn(state_->lock, state_->owner);
    std::vector<std::unique_ptr<Request>> requests;
    requests.reserve(prompts.size());
    for (const auto& prompt : prompts) {
        requests.push_back(state_->admit(state_->tokenizer.encode(prompt, true), options));
    }
    state_->cancelled = false;
    std::vector<Completion> answers;
    for (std::size_t start = 0; start < requests.size(); start += batch_size) {
        std::vector<Request*> batch;
        for (std::size_t place = start; place < std::min(start + batch_size, requests.size()); ++place) {
            batch.push_back(requests[place].get());
        }
        run(*state_->engine, batch, state_->cancelled, {});
        for (const auto* request : batch) {
            answers.push_back(completion(*request));
        }
    }
    return answers;
}

Completion LLM::chat(const std::vector<Message>& messages, const SamplingOptions& options, const OnPiece& on_piece) {
    const std::string prompt = render_chat(messages);
    const Turn turn(state_->lock, state_->owner);
    return state_->answer(state_->tokenizer.encode(prompt, false), options, on_piece);
}

void LLM::cancel() noexcept { state_->cancelled = true; }

std::vector<int64_t> LLM::encode(std::string_view text, bool add_special_tokens) {
    const Turn turn(state_->lock, state_->owner);
    return state_->tokenizer.encode(text, add_special_tokens);
}

std::string LLM::decode(const std::vector<int64_t>& ids) {
    const Turn turn(state_->lock, state_->owner);
    return state_->tokenizer.decode(ids.data(), ids.size());
}

std::string LLM::render_chat(const std::vector<Message>& messages, bool add_generation_prompt) {
    const Turn turn(state_->lock, state_->owner);
    if (!state_->chat_template) {
        state_->chat_template = read_chat_template(state_->folder);
    }
    if (!state_->chat_template) {
        throw Error(ErrorCode::generation,
                    "`" + state_->folder.string() + "` has no chat template: the model was not made for chats",
                    "give plain text instead");
    }
    return state_->chat_template->render(messages, add_generation_prompt);
}

std::size_t LLM::context_length() const noexcept { return state_->info.context_length; }
std::size_t LLM::vocab_size() const noexcept { return state_->engine->vocab_size(); }
const std::string& LLM::device() const noexcept { return state_->engine->device(); }
uint64_t LLM::weight_bytes_per_token() const noexcept { return state_->weight_bytes_per_token; }
double LLM::load_s() const noexcept { return state_->load_s; }

const char* to_string(FinishReason reason) noexcept {
    switch (reason) {
        case FinishReason::stop: return "stop";
        case FinishReason::length: return "length";
        case FinishReason::cancelled: break;
    }
    return "cancelled";
}

const char* version() noexcept { return OVROUND_VERSION; }

}  // namespace ovround
