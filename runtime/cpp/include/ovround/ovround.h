/* The C API of ovround, for C and for other languages. ovround.hpp documents the fields.
 *
 * Every function that can fail returns an ovround_status; ovround_last_error describes the last failure of the calling
 * thread. No exception leaves a function. Text is UTF-8. A handle may be used from any thread: calls on one handle wait
 * for each other, but ovround_cancel does not wait. ovround_close must be the last call on its handle.
 */
#ifndef OVROUND_H
#define OVROUND_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define OVROUND_C_API
#else
#define OVROUND_C_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ovround_status {
    OVROUND_OK = 0,
    OVROUND_INTERNAL = 1,   /* a defect of the library */
    OVROUND_USAGE = 2,      /* an option or argument that is not allowed */
    OVROUND_ARTIFACT = 3,   /* a folder that the runtime cannot read */
    OVROUND_ENGINE = 4,     /* a device that is missing or refuses the model */
    OVROUND_GENERATION = 5, /* a request that the loaded model cannot answer */
    OVROUND_OUT_OF_MEMORY = 6
} ovround_status;

typedef enum ovround_finish_reason {
    OVROUND_STOP = 0,
    OVROUND_LENGTH = 1,
    OVROUND_CANCELLED = 2
} ovround_finish_reason;

typedef struct ovround_llm ovround_llm;
typedef struct ovround_completion ovround_completion;

/* Initialize it with ovround_load_defaults; a struct that was not initialized is refused. */
typedef struct ovround_load_options {
    size_t struct_size;
    const char* device;
    int exact;
    int threads;
    int check_contents;
    const char* tokenizers_library; /* NULL: the one beside libopenvino */
    const char* llguidance_library; /* NULL: searched as docs/guides/cpp.md describes */
    const char* operator_library;   /* for folders that need it; NULL: the one beside libovround */
    int native_kernel;              /* 1: an error instead of expanded weights if the library is missing */
    int prefix_cache;
    int prompt_lookup;
    const char* draft_model; /* NULL: none */
    int draft_tokens;
} ovround_load_options;

typedef struct ovround_token_bias {
    int64_t token_id;
    double bias;
} ovround_token_bias;

typedef enum ovround_grammar_kind {
    OVROUND_NO_GRAMMAR = 0,
    OVROUND_JSON_SCHEMA = 1,
    OVROUND_REGEX = 2,
    OVROUND_LARK = 3
} ovround_grammar_kind;

/* Initialize it with ovround_sampling_defaults; a struct that was not initialized is refused. */
typedef struct ovround_sampling_options {
    size_t struct_size;
    int64_t max_new_tokens; /* 0: until an end token or the end of the context */
    double temperature;
    int64_t top_k;
    double top_p;
    double min_p;
    double repetition_penalty;
    int has_seed; /* 0: a new seed for each request */
    uint64_t seed;
    const char* const* stop;
    size_t stop_count;
    const int64_t* stop_token_ids;
    size_t stop_token_count;
    int ignore_eos;
    double presence_penalty;
    double frequency_penalty;
    const ovround_token_bias* logit_bias;
    size_t logit_bias_count;
    int64_t logprobs;        /* number of the likeliest tokens at each position; negative: no log-probabilities */
    int64_t prompt_logprobs; /* the same for the prompt */
    ovround_grammar_kind grammar_kind;
    const char* grammar;
    int64_t num_beams;
    double length_penalty;
} ovround_sampling_options;

typedef struct ovround_usage {
    size_t prompt_tokens;
    size_t completion_tokens;
    size_t cached_tokens;
    size_t drafted_tokens;
    size_t accepted_tokens;
} ovround_usage;

typedef struct ovround_logprob {
    int64_t token_id;
    double logprob;
} ovround_logprob;

/* The token at one position, and the likeliest tokens there. */
typedef struct ovround_token_logprobs {
    int64_t token_id;
    double logprob;
    const ovround_logprob* top;
    size_t top_count;
} ovround_token_logprobs;

typedef struct ovround_message {
    const char* role;
    const char* content;
} ovround_message;

/* Called for each token with the text that it completed: `size` bytes, not zero-terminated. Return 0 to cancel. */
typedef int (*ovround_on_piece)(const char* text, size_t size, int64_t token_id, void* user);

OVROUND_C_API const char* ovround_version(void);
/* Message and hint of the last failed call of this thread; never NULL, valid until the thread's next call. */
OVROUND_C_API const char* ovround_last_error(void);
OVROUND_C_API const char* ovround_last_hint(void);

OVROUND_C_API void ovround_load_defaults(ovround_load_options* options);
OVROUND_C_API void ovround_sampling_defaults(ovround_sampling_options* options);

/* `options` may be NULL in all functions, for the defaults. */
OVROUND_C_API ovround_status ovround_open(const char* folder, const ovround_load_options* options, ovround_llm** llm);
OVROUND_C_API void ovround_close(ovround_llm* llm); /* NULL is allowed */

OVROUND_C_API size_t ovround_context_length(const ovround_llm* llm);
OVROUND_C_API size_t ovround_vocab_size(const ovround_llm* llm);
OVROUND_C_API double ovround_load_s(const ovround_llm* llm);
/* "native" if the native operator multiplies quantised weights, or "engine"; valid for ever. */
OVROUND_C_API const char* ovround_kernel(const ovround_llm* llm);
OVROUND_C_API const char* ovround_warning(const ovround_llm* llm); /* a warning from loading; often empty */

/* `on_piece` may be NULL. The completion is freed with ovround_completion_free. */
OVROUND_C_API ovround_status ovround_generate(ovround_llm* llm, const char* prompt,
                                              const ovround_sampling_options* options, ovround_on_piece on_piece,
                                              void* user, ovround_completion** completion);
OVROUND_C_API ovround_status ovround_generate_ids(ovround_llm* llm, const int64_t* prompt_ids, size_t count,
                                                  const ovround_sampling_options* options, ovround_on_piece on_piece,
                                                  void* user, ovround_completion** completion);
OVROUND_C_API ovround_status ovround_chat(ovround_llm* llm, const ovround_message* messages, size_t count,
                                          const ovround_sampling_options* options, ovround_on_piece on_piece,
                                          void* user, ovround_completion** completion);
OVROUND_C_API void ovround_cancel(ovround_llm* llm);

/* Writes at most `capacity` ids to `ids`, and the number of all ids to `count`. */
OVROUND_C_API ovround_status ovround_encode(ovround_llm* llm, const char* text, int add_special_tokens, int64_t* ids,
                                            size_t capacity, size_t* count);

OVROUND_C_API const char* ovround_completion_text(const ovround_completion* completion, size_t* size);
OVROUND_C_API const int64_t* ovround_completion_token_ids(const ovround_completion* completion, size_t* count);
OVROUND_C_API ovround_finish_reason ovround_completion_finish_reason(const ovround_completion* completion);
OVROUND_C_API size_t ovround_completion_prompt_tokens(const ovround_completion* completion);
OVROUND_C_API ovround_usage ovround_completion_usage(const ovround_completion* completion);
/* Log-probabilities of the answer's tokens; NULL if not requested. Valid as long as the completion. */
OVROUND_C_API const ovround_token_logprobs* ovround_completion_logprobs(const ovround_completion* completion,
                                                                        size_t* count);
/* Log-probabilities of the prompt's tokens after the first. */
OVROUND_C_API const ovround_token_logprobs* ovround_completion_prompt_logprobs(const ovround_completion* completion,
                                                                               size_t* count);
OVROUND_C_API double ovround_completion_time_to_first_token_s(const ovround_completion* completion);
/* Negative if there is no second token. */
OVROUND_C_API double ovround_completion_time_per_output_token_s(const ovround_completion* completion);
OVROUND_C_API void ovround_completion_free(ovround_completion* completion); /* NULL is allowed */

#ifdef __cplusplus
}
#endif

#endif
