/* Tests the C API from C: results and errors. Returns 0, or the line of the first failure. */
#include <stddef.h>
#include <string.h>

#include "ovround/ovround.h"

#define CHECK(condition)     \
    do {                     \
        if (!(condition)) {  \
            return __LINE__; \
        }                    \
    } while (0)

static int count_three(const char* text, size_t size, int64_t token_id, void* user) {
    int* count = user;
    (void)text;
    (void)size;
    (void)token_id;
    return ++*count < 3;
}

static int check_logprobs(ovround_llm* llm, ovround_sampling_options options) {
    size_t count = 0;
    ovround_completion* completion = NULL;
    options.logprobs = 3;
    options.prompt_logprobs = 0;
    CHECK(ovround_generate(llm, "Return the", &options, NULL, NULL, &completion) == OVROUND_OK);
    const int64_t* ids = ovround_completion_token_ids(completion, &count);
    const ovround_usage usage = ovround_completion_usage(completion);
    CHECK(usage.completion_tokens == count && usage.cached_tokens == 0 && usage.drafted_tokens == 0);
    const ovround_token_logprobs* logprobs = ovround_completion_logprobs(completion, &count);
    CHECK(count == usage.completion_tokens);
    for (size_t index = 0; index < count; ++index) {
        CHECK(logprobs[index].token_id == ids[index] && logprobs[index].top_count == 3 && logprobs[index].logprob <= 0);
        CHECK(logprobs[index].top[0].token_id == ids[index] &&
              logprobs[index].top[0].logprob == logprobs[index].logprob);
        CHECK(logprobs[index].top[1].logprob >= logprobs[index].top[2].logprob);
    }
    logprobs = ovround_completion_prompt_logprobs(completion, &count);
    CHECK(count == usage.prompt_tokens - 1 && logprobs[0].top_count == 0 && logprobs[0].logprob < 0);
    ovround_completion_free(completion);
    return 0;
}

int check_c_api(const char* folder);

int check_c_api(const char* folder) {
    ovround_llm* llm = NULL;
    ovround_load_options load;
    ovround_load_defaults(&load);
    CHECK(ovround_open("/nowhere", &load, &llm) == OVROUND_ARTIFACT && llm == NULL);
    CHECK(strstr(ovround_last_error(), "does not exist") != NULL);
    load.device = "NONE";
    CHECK(ovround_open(folder, &load, &llm) == OVROUND_ENGINE && strstr(ovround_last_hint(), "CPU") != NULL);
    load.struct_size = 1;
    CHECK(ovround_open(folder, &load, &llm) == OVROUND_USAGE);
    CHECK(ovround_open(NULL, NULL, &llm) == OVROUND_USAGE && ovround_open(folder, NULL, NULL) == OVROUND_USAGE);
    CHECK(ovround_open(folder, NULL, &llm) == OVROUND_OK && ovround_vocab_size(llm) > 1);
    CHECK(strcmp(ovround_kernel(llm), "engine") == 0);

    int64_t ids[64];
    size_t count = 0;
    CHECK(ovround_encode(llm, "Return the", 1, ids, 64, &count) == OVROUND_OK && count > 0 && count <= 64);
    CHECK(ovround_encode(llm, "\xFF", 1, ids, 64, &count) == OVROUND_USAGE);

    ovround_sampling_options options;
    ovround_sampling_defaults(&options);
    options.max_new_tokens = 8;
    options.ignore_eos = 1;
    int pieces = 0;
    ovround_completion* completion = NULL;
    CHECK(ovround_encode(llm, "Return the", 1, ids, 64, &count) == OVROUND_OK);
    CHECK(ovround_generate_ids(llm, ids, count, &options, count_three, &pieces, &completion) == OVROUND_OK);
    CHECK(ovround_completion_finish_reason(completion) == OVROUND_CANCELLED && pieces == 3);
    ovround_completion_free(completion);
    CHECK(ovround_generate(llm, "Return the", &options, NULL, NULL, &completion) == OVROUND_OK);
    CHECK(ovround_completion_finish_reason(completion) == OVROUND_LENGTH);
    CHECK(ovround_completion_token_ids(completion, &count) != NULL && count == 8);
    CHECK(ovround_completion_text(completion, &count) != NULL &&
          strlen(ovround_completion_text(completion, NULL)) == count);
    CHECK(ovround_completion_time_per_output_token_s(completion) > 0);
    CHECK(ovround_completion_logprobs(completion, &count) == NULL && count == 0);
    ovround_completion_free(completion);
    CHECK(check_logprobs(llm, options) == 0);
    options.num_beams = 3;
    CHECK(ovround_generate(llm, "Return the", &options, NULL, NULL, &completion) == OVROUND_OK);
    CHECK(ovround_completion_token_ids(completion, &count) != NULL && count == 8);
    ovround_completion_free(completion);
    CHECK(ovround_generate(llm, "Return the", &options, count_three, &pieces, &completion) == OVROUND_USAGE);
    options.num_beams = 1;
    options.grammar_kind = OVROUND_REGEX;
    options.grammar = "";
    CHECK(ovround_generate(llm, "Return the", &options, NULL, NULL, &completion) == OVROUND_USAGE);
    CHECK(strstr(ovround_last_error(), "a grammar is a text of 1 to") != NULL);
    options.grammar = NULL;
    CHECK(ovround_generate(llm, "Return the", &options, NULL, NULL, &completion) == OVROUND_USAGE);
    options.grammar_kind = OVROUND_NO_GRAMMAR;
    options.temperature = -1;
    CHECK(ovround_generate(llm, "Return the", &options, NULL, NULL, &completion) == OVROUND_USAGE &&
          completion == NULL);
    CHECK(strstr(ovround_last_error(), "temperature is -1") != NULL);
    ovround_close(llm);
    ovround_close(NULL);
    ovround_completion_free(NULL);
    return 0;
}
