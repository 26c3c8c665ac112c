#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

#include "beam_search.hpp"
#include "chat_template.hpp"
#include "file_kind.hpp"
#include "generation.hpp"
#include "manifest.hpp"
#include "model_info.hpp"
#if defined(OVROUND_ONNX)
#include "onnx_engine.hpp"
#endif
#include "openvino_engine.hpp"
#include "openvino_versions.hpp"
#include "template_marker.hpp"
#include "tokenizer.hpp"
#include "tokenizer_file.hpp"

namespace ovround {
namespace {

// Throw if a callback calls its own model, which would otherwise wait for itself forever.
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

void check_load_options(const LoadOptions& options) {
    if (options.threads < 0) {
        throw Error(ErrorCode::usage, "threads is " + std::to_string(options.threads) +
                                          "; a whole number of 1 or more is needed, or 0 for the engine's choice");
    }
    if (options.prompt_lookup && !options.draft_model.empty()) {
        throw Error(ErrorCode::usage,
                    "prompt_lookup and draft_model are both given; only one of them can propose tokens");
    }
    if (options.draft_tokens < 1 || options.draft_tokens > 64) {
        throw Error(ErrorCode::usage, "draft_tokens is " + std::to_string(options.draft_tokens) +
                                          "; a whole number of 1 to 64 is needed");
    }
}

// A library that is not linked to a version of OpenVINO works with those whose interface it was compiled for.
void check_openvino() {
#if defined(OVROUND_UNLINKED)
    const std::string build = ov::get_openvino_version().buildNumber;
    if (!native::openvino_fits(build.c_str())) {
        throw Error(ErrorCode::engine, "OpenVINO is " + build + "; this library works with " + native::openvino_range(),
                    "install a version that it works with, or build ovround for this one");
    }
#endif
}

std::unique_ptr<Engine> open_engine(ov::Core& core, const std::filesystem::path& folder, const LoadOptions& options) {
#if defined(OVROUND_ONNX)
    if (!is_file(folder / "openvino_model.xml")) {
        return std::make_unique<OnnxEngine>(folder, options);
    }
#endif
    return std::make_unique<OpenVinoEngine>(core, folder, options);
}

}  // namespace

struct LLM::State {
    State(const std::filesystem::path& path, const LoadOptions& options)
        : load(options), weight_bytes_per_token(check_folder(path, options.check_contents)),
          info(read_model_info(path)), engine(open_engine(core, path, options)), row(*engine), folder(path),
          tokenizer(core, path, options.tokenizers_library) {
        if (info.end_token_ids
                .empty()) {  // a folder that ovround did not write: it states them in generation_config.json
            const auto name = special_tokens(path).value("eos_token", Value());
            if (const auto id = name.is_string() ? tokenizer.special_id(name.get<std::string>()) : std::nullopt) {
                info.end_token_ids.push_back(*id);
            }
        }
        if (options.prompt_lookup) {
            proposer = std::make_unique<PromptLookup>();
        } else if (!options.draft_model.empty()) {
            proposer = open_draft(options.draft_model);
        }
    }

    std::unique_ptr<Proposer> open_draft(const std::filesystem::path& path) {
        check_folder(path, load.check_contents);
        if (read_vocabulary(path) != read_vocabulary(folder)) {
            throw Error(ErrorCode::usage,
                        "`" + path.string() + "` has another tokenizer than `" + folder.string() + "`",
                        "a draft must share its tokens");
        }
        return std::make_unique<DraftModel>(open_engine(core, path, load), read_model_info(path).context_length,
                                            engine->vocab_size());
    }

    // Whether the folder has a chat template, which is read at the first call.
    bool read_template() {
        if (!chat_template) {
            chat_template = read_chat_template(folder);
        }
        return chat_template.has_value();
    }

    std::unique_ptr<Matcher> matcher(const Grammar& grammar) {
        if (!grammars) {
            const std::size_t ids = std::max(engine->vocab_size(), tokenizer.id_count());
            grammars.emplace(load.llguidance_library, tokenizer_json(folder), tokenizer, ids, info.end_token_ids);
        }
        return grammars->matcher(grammar);
    }

    std::unique_ptr<Request> admit(std::vector<int64_t> ids, const SamplingOptions& options) {
        check_options(options);
        SamplingOptions chosen = options;
        // A special token has no text, so a stop string that is a special token is matched by its id.
        for (const auto& text : options.stop) {
            if (const auto id = tokenizer.special_id(text)) {
                chosen.stop_token_ids.push_back(*id);
            }
        }
        return ovround::admit(std::move(ids), chosen, info.context_length, info.end_token_ids, engine->vocab_size(),
                              tokenizer, options.grammar ? matcher(*options.grammar) : nullptr);
    }

    // Reuse the last request's cache only if that is requested.
    void begin() {
        cancelled = false;
        if (!load.prefix_cache) {
            row.forget();
        }
    }

    void answer(Request& request, const OnPiece& on_piece) {
        if (request.seeded) {
            row.forget();  // a beginning from the cache is rounded otherwise, which a seed's answer must not depend on
        }
        if (request.beams > 1) {
            row.forget();
            beam_search(*engine, request, cancelled);
        } else {
            run_row(row, request, cancelled, on_piece, proposer.get(), static_cast<std::size_t>(load.draft_tokens));
        }
    }

    Completion answer(std::vector<int64_t> ids, const SamplingOptions& options, const OnPiece& on_piece) {
        if (options.num_beams > 1 && on_piece) {
            throw Error(ErrorCode::usage, "num_beams is above 1: the answer is known only at its end",
                        "give no callback");
        }
        const auto request = admit(std::move(ids), options);
        begin();
        answer(*request, on_piece);
        return completion(*request);
    }

    std::mutex lock;
    std::atomic<std::thread::id> owner{};
    std::atomic<bool> cancelled = false;
    LoadOptions load;
    uint64_t weight_bytes_per_token;
    ov::Core core;  // must outlive all objects made with it
    ModelInfo info;
    std::unique_ptr<Engine> engine;
    KVCacheSlot row;
    std::filesystem::path folder;
    Tokenizer tokenizer;
    std::unique_ptr<Proposer> proposer;
    std::optional<GrammarCompiler> grammars;    // created by the first grammar
    std::optional<ChatTemplate> chat_template;  // read by the first chat
    double load_s = 0.0;
};

Error::Error(ErrorCode code, const std::string& message, std::string hint)
    : std::runtime_error(message), code_(code), hint_(std::move(hint)) {}

LLM::LLM(const std::filesystem::path& folder, const LoadOptions& options) {
    const auto start = std::chrono::steady_clock::now();
    check_load_options(options);
    check_openvino();
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
    state_->begin();
    const bool together = !state_->proposer && !options.prompt_logprobs && options.num_beams == 1;
    const std::size_t size = together ? batch_size : 1;
    std::vector<Completion> answers;
    for (std::size_t start = 0; start < requests.size(); start += size) {
        std::vector<Request*> batch;
        for (std::size_t index = start; index < std::min(start + size, requests.size()); ++index) {
            batch.push_back(requests[index].get());
        }
        if (batch.size() == 1) {
            state_->answer(*batch[0], {});
        } else {
            state_->row.forget();
            run_batch(*state_->engine, batch, state_->cancelled);
        }
        for (const auto* request : batch) {
            answers.push_back(completion(*request));
        }
        if (!state_->load.prefix_cache) {
            state_->row.forget();
        }
    }
    return answers;
}

Completion LLM::chat(const std::vector<Message>& messages, const SamplingOptions& options, const OnPiece& on_piece) {
    const std::string prompt = render_chat(messages);
    const Turn turn(state_->lock, state_->owner);
    return state_->answer(state_->tokenizer.encode(prompt, false), options, on_piece);
}

std::vector<TokenLogprobs> LLM::score(const std::vector<int64_t>& ids, std::size_t count) {
    const Turn turn(state_->lock, state_->owner);
    SamplingOptions options;
    options.prompt_logprobs = static_cast<int64_t>(std::min<std::size_t>(count, INT32_MAX));
    check_options(options);
    check_ids(ids, state_->engine->vocab_size());
    if (ids.size() > state_->info.context_length) {
        throw Error(ErrorCode::generation, std::to_string(ids.size()) +
                                               " tokens are more than the model's context of " +
                                               std::to_string(state_->info.context_length));
    }
    std::vector<TokenLogprobs> scored;
    state_->row.start_scored(ids, 0, count, scored);
    return scored;
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
    if (!state_->read_template()) {
        throw Error(ErrorCode::generation,
                    "`" + state_->folder.string() + "` has no chat template: the model was not made for chats",
                    "give plain text instead");
    }
    return state_->chat_template->render(messages, add_generation_prompt);
}

bool LLM::has_chat_template() {
    const Turn turn(state_->lock, state_->owner);
    return state_->read_template();
}

std::string LLM::template_marker(std::string_view text) {
    std::string rendered;
    if (has_chat_template()) {
        try {
            rendered = render_chat({{"user", std::string(kProbe)}});
        } catch (const Error& error) {
            if (error.code() != ErrorCode::generation) {
                throw;
            }
        }  // a template that refuses the message shows no marks
    }
    return ovround::template_marker(text, state_->tokenizer.special_tokens(), rendered);
}

std::size_t LLM::context_length() const noexcept { return state_->info.context_length; }
std::size_t LLM::vocab_size() const noexcept { return state_->engine->vocab_size(); }
const std::string& LLM::device() const noexcept { return state_->engine->device(); }

const char* LLM::kernel() const noexcept { return state_->engine->native() ? "native" : "engine"; }
const std::string& LLM::warning() const noexcept { return state_->engine->warning(); }
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
