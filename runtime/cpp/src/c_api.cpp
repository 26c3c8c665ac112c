#include <algorithm>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ovround/ovround.h"
#include "ovround/ovround.hpp"

struct ovround_llm {
    ovround::LLM llm;
};

namespace {

// Log-probabilities in the layout of the C API: one list holds the `top` entries of all positions.
struct Positions {
    explicit Positions(const std::optional<std::vector<ovround::TokenLogprobs>>& from) {
        if (!from) {
            return;
        }
        for (const auto& position : *from) {
            for (const auto& [token, logprob] : position.top) {
                likeliest.push_back({token, logprob});
            }
        }
        const auto* top = likeliest.data();
        list.reserve(from->size() + 1);  // so that data() is never NULL
        for (const auto& position : *from) {
            list.push_back({position.token_id, position.logprob, top, position.top.size()});
            top += position.top.size();
        }
    }

    const ovround_token_logprobs* get(size_t* count) const {
        if (count != nullptr) {
            *count = list.size();
        }
        return list.data();
    }

    std::vector<ovround_logprob> likeliest;
    std::vector<ovround_token_logprobs> list;
};

}  // namespace

struct ovround_completion {
    explicit ovround_completion(ovround::Completion from)
        : completion(std::move(from)), logprobs(completion.logprobs), prompt_logprobs(completion.prompt_logprobs) {}

    ovround::Completion completion;
    Positions logprobs;
    Positions prompt_logprobs;
};

namespace {

using ovround::Error;
using ovround::ErrorCode;

thread_local std::string last_error;
thread_local std::string last_hint;

ovround_status failed(ovround_status status, const char* message, const char* hint) noexcept {
    try {
        last_error = message;
        last_hint = hint;
    } catch (...) {  // no memory for the message either
        last_error.clear();
        last_hint.clear();
    }
    return status;
}

// Runs `work`, which may throw, and returns a status to the C caller.
template <typename Work>
ovround_status guarded(const Work& work) noexcept {
    try {
        work();
        return OVROUND_OK;
    } catch (const Error& error) {
        return failed(static_cast<ovround_status>(error.code()), error.what(), error.hint().c_str());
    } catch (const std::bad_alloc&) {
        return failed(OVROUND_OUT_OF_MEMORY, "memory is exhausted", "choose a smaller model, context or batch");
    } catch (const std::exception& error) {
        return failed(OVROUND_INTERNAL, error.what(), "");
    } catch (...) {
        return failed(OVROUND_INTERNAL, "an unknown exception", "");
    }
}

template <typename T>
T* given(T* pointer, const char* name) {
    if (pointer == nullptr) {
        throw Error(ErrorCode::usage, std::string(name) + " is NULL");
    }
    return pointer;
}

template <typename Options>
bool filled(const Options* options, const char* defaults) {
    if (options != nullptr && options->struct_size != sizeof(Options)) {
        throw Error(ErrorCode::usage,
                    "the options have the size " + std::to_string(options->struct_size) + ", not " +
                        std::to_string(sizeof(Options)),
                    std::string("fill them with ") + defaults);
    }
    return options != nullptr;
}

ovround::LoadOptions converted(const ovround_load_options* from) {
    ovround::LoadOptions to;
    if (filled(from, "ovround_load_defaults")) {
        to.device = given(from->device, "device");
        to.exact = from->exact != 0;
        to.threads = from->threads;
        to.check_contents = from->check_contents != 0;
        to.tokenizers_library = from->tokenizers_library == nullptr ? "" : from->tokenizers_library;
        to.llguidance_library = from->llguidance_library == nullptr ? "" : from->llguidance_library;
        to.operator_library = from->operator_library == nullptr ? "" : from->operator_library;
        to.kernel = from->native_kernel != 0 ? ovround::Kernel::native : ovround::Kernel::automatic;
        to.prefix_cache = from->prefix_cache != 0;
        to.prompt_lookup = from->prompt_lookup != 0;
        to.draft_model = from->draft_model == nullptr ? "" : from->draft_model;
        to.draft_tokens = from->draft_tokens;
    }
    return to;
}

std::optional<ovround::Grammar> grammar(const ovround_sampling_options& from) {
    if (from.grammar_kind == OVROUND_NO_GRAMMAR) {
        return std::nullopt;
    }
    const int kind = static_cast<int>(from.grammar_kind) - static_cast<int>(OVROUND_JSON_SCHEMA);
    if (kind < 0 || kind > static_cast<int>(ovround::Grammar::Kind::lark)) {
        throw Error(ErrorCode::usage, "grammar_kind is " + std::to_string(static_cast<int>(from.grammar_kind)) +
                                          "; OVROUND_JSON_SCHEMA, OVROUND_REGEX, OVROUND_LARK are allowed");
    }
    return ovround::Grammar{static_cast<ovround::Grammar::Kind>(kind), given(from.grammar, "grammar")};
}

ovround::SamplingOptions converted(const ovround_sampling_options* from) {
    ovround::SamplingOptions to;
    if (!filled(from, "ovround_sampling_defaults")) {
        return to;
    }
    if (from->max_new_tokens != 0) {
        to.max_new_tokens = from->max_new_tokens;
    }
    to.temperature = from->temperature;
    to.top_k = from->top_k;
    to.top_p = from->top_p;
    to.min_p = from->min_p;
    to.repetition_penalty = from->repetition_penalty;
    if (from->has_seed != 0) {
        to.seed = from->seed;
    }
    for (size_t i = 0; i < from->stop_count; ++i) {
        to.stop.emplace_back(given(given(from->stop, "stop")[i], "stop"));
    }
    if (from->stop_token_count > 0) {
        const auto* ids = given(from->stop_token_ids, "stop_token_ids");
        to.stop_token_ids.assign(ids, ids + from->stop_token_count);
    }
    to.ignore_eos = from->ignore_eos != 0;
    to.presence_penalty = from->presence_penalty;
    to.frequency_penalty = from->frequency_penalty;
    for (size_t i = 0; i < from->logit_bias_count; ++i) {
        const auto& bias = given(from->logit_bias, "logit_bias")[i];
        to.logit_bias.emplace_back(bias.token_id, bias.bias);
    }
    if (from->logprobs >= 0) {
        to.logprobs = from->logprobs;
    }
    if (from->prompt_logprobs >= 0) {
        to.prompt_logprobs = from->prompt_logprobs;
    }
    to.grammar = grammar(*from);
    to.num_beams = from->num_beams;
    to.length_penalty = from->length_penalty;
    return to;
}

ovround::OnPiece converted(ovround_on_piece on_piece, void* user) {
    if (on_piece == nullptr) {
        return {};
    }
    return [=](const ovround::Piece& piece) {
        return on_piece(piece.text.data(), piece.text.size(), piece.token_id, user) != 0;
    };
}

}  // namespace

const char* ovround_version() { return ovround::version(); }
const char* ovround_last_error() { return last_error.c_str(); }
const char* ovround_last_hint() { return last_hint.c_str(); }

void ovround_load_defaults(ovround_load_options* options) {
    *options = {};
    options->struct_size = sizeof(*options);
    options->device = "CPU";
    options->check_contents = 1;
    options->draft_tokens = ovround::LoadOptions().draft_tokens;
}

void ovround_sampling_defaults(ovround_sampling_options* options) {
    *options = {};
    options->struct_size = sizeof(*options);
    options->top_p = options->repetition_penalty = options->length_penalty = 1.0;
    options->logprobs = options->prompt_logprobs = -1;
    options->num_beams = 1;
}

ovround_status ovround_open(const char* folder, const ovround_load_options* options, ovround_llm** llm) {
    return guarded([&] {
        *given(llm, "llm") = nullptr;
        *llm = new ovround_llm{ovround::LLM(given(folder, "folder"), converted(options))};
    });
}

void ovround_close(ovround_llm* llm) { delete llm; }

size_t ovround_context_length(const ovround_llm* llm) { return llm->llm.context_length(); }
size_t ovround_vocab_size(const ovround_llm* llm) { return llm->llm.vocab_size(); }
const char* ovround_kernel(const ovround_llm* llm) { return llm->llm.kernel(); }
double ovround_load_s(const ovround_llm* llm) { return llm->llm.load_s(); }
const char* ovround_warning(const ovround_llm* llm) { return llm->llm.warning().c_str(); }

ovround_status ovround_generate(ovround_llm* llm, const char* prompt, const ovround_sampling_options* options,
                                ovround_on_piece on_piece, void* user, ovround_completion** completion) {
    return guarded([&] {
        *given(completion, "completion") = nullptr;
        *completion = new ovround_completion(
            given(llm, "llm")->llm.generate(given(prompt, "prompt"), converted(options), converted(on_piece, user)));
    });
}

ovround_status ovround_generate_ids(ovround_llm* llm, const int64_t* prompt_ids, size_t count,
                                    const ovround_sampling_options* options, ovround_on_piece on_piece, void* user,
                                    ovround_completion** completion) {
    return guarded([&] {
        *given(completion, "completion") = nullptr;
        const std::vector<int64_t> ids(given(prompt_ids, "prompt_ids"), prompt_ids + count);
        *completion = new ovround_completion(
            given(llm, "llm")->llm.generate_ids(ids, converted(options), converted(on_piece, user)));
    });
}

ovround_status ovround_chat(ovround_llm* llm, const ovround_message* messages, size_t count,
                            const ovround_sampling_options* options, ovround_on_piece on_piece, void* user,
                            ovround_completion** completion) {
    return guarded([&] {
        *given(completion, "completion") = nullptr;
        std::vector<ovround::Message> list;
        for (size_t i = 0; i < count; ++i) {
            const auto& message = given(messages, "messages")[i];
            list.push_back({given(message.role, "role"), given(message.content, "content")});
        }
        *completion =
            new ovround_completion(given(llm, "llm")->llm.chat(list, converted(options), converted(on_piece, user)));
    });
}

void ovround_cancel(ovround_llm* llm) { llm->llm.cancel(); }

ovround_status ovround_encode(ovround_llm* llm, const char* text, int add_special_tokens, int64_t* ids, size_t capacity,
                              size_t* count) {
    return guarded([&] {
        const auto encoded = given(llm, "llm")->llm.encode(given(text, "text"), add_special_tokens != 0);
        *given(count, "count") = encoded.size();
        std::copy_n(encoded.begin(), std::min(capacity, encoded.size()), capacity == 0 ? ids : given(ids, "ids"));
    });
}

const char* ovround_completion_text(const ovround_completion* completion, size_t* size) {
    if (size != nullptr) {
        *size = completion->completion.text.size();
    }
    return completion->completion.text.c_str();
}

const int64_t* ovround_completion_token_ids(const ovround_completion* completion, size_t* count) {
    if (count != nullptr) {
        *count = completion->completion.token_ids.size();
    }
    return completion->completion.token_ids.data();
}

ovround_finish_reason ovround_completion_finish_reason(const ovround_completion* completion) {
    return static_cast<ovround_finish_reason>(completion->completion.finish_reason);
}

size_t ovround_completion_prompt_tokens(const ovround_completion* completion) {
    return completion->completion.usage.prompt_tokens;
}

ovround_usage ovround_completion_usage(const ovround_completion* completion) {
    const auto& usage = completion->completion.usage;
    return {usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.drafted_tokens,
            usage.accepted_tokens};
}

const ovround_token_logprobs* ovround_completion_logprobs(const ovround_completion* completion, size_t* count) {
    return completion->logprobs.get(count);
}

const ovround_token_logprobs* ovround_completion_prompt_logprobs(const ovround_completion* completion, size_t* count) {
    return completion->prompt_logprobs.get(count);
}

double ovround_completion_time_to_first_token_s(const ovround_completion* completion) {
    return completion->completion.timings.time_to_first_token_s;
}

double ovround_completion_time_per_output_token_s(const ovround_completion* completion) {
    return completion->completion.timings.time_per_output_token_s.value_or(-1.0);
}

void ovround_completion_free(ovround_completion* completion) { delete completion; }
