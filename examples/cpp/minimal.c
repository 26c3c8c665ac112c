/* minimal_c FOLDER PROMPT: streams one answer through the C API. */
#include <ovround/ovround.h>
#include <stdio.h>

static int print_piece(const char* text, size_t size, int64_t token_id, void* user) {
    (void)token_id;
    return fwrite(text, 1, size, user) == size; /* 0 would stop the answer */
}

int main(int count, char** values) {
    if (count != 3) {
        fprintf(stderr, "usage: minimal_c FOLDER PROMPT\n");
        return 2;
    }
    ovround_llm* llm = NULL;
    ovround_completion* completion = NULL;
    ovround_sampling_options options;
    ovround_sampling_defaults(&options);
    options.max_new_tokens = 32;
    ovround_status status = ovround_open(values[1], NULL, &llm);
    if (status == OVROUND_OK) {
        status = ovround_generate(llm, values[2], &options, print_piece, stdout, &completion);
    }
    if (status != OVROUND_OK) {
        fprintf(stderr, "error: %s\nhint: %s\n", ovround_last_error(), ovround_last_hint());
    }
    putchar('\n');
    ovround_completion_free(completion);
    ovround_close(llm);
    return status != OVROUND_OK;
}
