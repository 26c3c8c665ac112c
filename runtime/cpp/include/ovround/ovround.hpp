// The runtime for C++: a folder that `ovround convert --format openvino` wrote, loaded and ready to answer.
//
//     ovround::LLM llm("out");
//     std::cout << llm.generate("Once upon a time").text;
//
// Threads: the methods of one LLM wait for each other; `cancel` does not. Several LLMs are independent.
// Errors: everything throws ovround::Error, and std::bad_alloc where memory ends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#if defined(_WIN32)
#define OVROUND_API
#else
#define OVROUND_API __attribute__((visibility("default")))
#endif

namespace ovround {

enum class ErrorCode {
    usage = 2,       // an option or argument that cannot be
    artifact = 3,    // a folder that the runtime cannot read
    engine = 4,      // a device that is missing or refuses the model
    generation = 5,  // a request that the loaded model cannot answer
};

class OVROUND_API Error : public std::runtime_error {
public:
    Error(ErrorCode code, const std::string& message, std::string hint = {});
    ErrorCode code() const noexcept { return code_; }
    const std::string& hint() const noexcept { return hint_; }  // what to do about it; may be empty

private:
    ErrorCode code_;
    std::string hint_;
};

// Of weights for the native operator, where its library is not found: expanding them costs memory, see LLM::warning.
enum class OnMissingKernel { expand, error };

struct LoadOptions {
    std::string device = "CPU";                // one of OpenVINO's: CPU, GPU, GPU.1, NPU, AUTO
    bool exact = false;                        // compute in float32, for comparing
    int threads = 0;                           // of the CPU; 0: the engine's own choice
    bool check_contents = true;                // compare every file's sha256 with the manifest; false: sizes only
    std::filesystem::path tokenizers_library;  // libopenvino_tokenizers; empty: looked for beside libopenvino
    std::filesystem::path llguidance_library;  // libllguidance, for grammars; empty: docs/guides/cpp.md says where
    OnMissingKernel on_missing_kernel = OnMissingKernel::expand;
    std::filesystem::path operator_library;  // libovround_operator, where a folder needs it; empty: beside libovround
    bool prefix_cache = false;   // what a prompt shares with the last request and its answer is not computed again
    bool prompt_lookup = false;  // guess tokens from the text so far, which changes the speed and nothing else
    std::filesystem::path draft_model;  // a folder of a smaller model with the same tokenizer makes the guesses
    int draft_tokens = 5;               // guesses a step, 1 to 64
};

// The form of an answer: a schema as JSON text, a regular expression, or a grammar in Lark's notation.
struct Grammar {
    enum class Kind { json_schema, regex, lark };
    Kind kind = Kind::json_schema;
    std::string source;
};

// The fields, ranges and defaults of Python's SamplingOptions; docs/concepts/sampling.md says what each does.
struct SamplingOptions {
    std::optional<int64_t> max_new_tokens;  // none: until an end token or the end of the context
    double temperature = 0.0;
    int64_t top_k = 0;
    double top_p = 1.0;
    double min_p = 0.0;
    double repetition_penalty = 1.0;
    std::optional<uint64_t> seed;  // none: a new one for each request
    std::vector<std::string> stop;
    std::vector<int64_t> stop_token_ids;
    bool ignore_eos = false;
    double presence_penalty = 0.0;
    double frequency_penalty = 0.0;
    std::vector<std::pair<int64_t, double>> logit_bias;
    std::optional<int64_t> logprobs;         // of the answer's tokens, and of so many likeliest ones at each; to 100
    std::optional<int64_t> prompt_logprobs;  // the same of the prompt's tokens after the first
    std::optional<Grammar> grammar;          // needs the library llguidance
    int64_t num_beams = 1;        // beam search, 1 to 64: greedy, without a callback, and with few other options
    double length_penalty = 1.0;  // with beams: sums of log-probabilities are divided by the length to this power
};

enum class FinishReason { stop, length, cancelled };

OVROUND_API const char* to_string(FinishReason reason) noexcept;

// Seconds of work from the start of prefill, without what the callback did.
struct Timings {
    double time_to_first_token_s = 0.0;
    std::optional<double> time_per_output_token_s;  // mean over the tokens after the first
};

// Tokens: of the prompt with its special tokens, and generated, an end token included.
struct Usage {
    std::size_t prompt_tokens = 0;
    std::size_t completion_tokens = 0;
    std::size_t cached_tokens = 0;    // of the prompt, not computed again
    std::size_t drafted_tokens = 0;   // guesses that a draft model or the prompt lookup made
    std::size_t accepted_tokens = 0;  // guesses that the model agreed with
};

// One position: the token that stands there, and the likeliest ones, of the model's own distribution, before penalties,
// temperature and constraints. Natural logarithms.
struct TokenLogprobs {
    int64_t token_id = 0;
    double logprob = 0.0;
    std::vector<std::pair<int64_t, double>> top;  // downwards, lower ids first among equals
};

struct Completion {
    std::string text;                // ends before an end token or a stop string
    std::vector<int64_t> token_ids;  // all that were generated
    FinishReason finish_reason = FinishReason::stop;
    Usage usage;
    Timings timings;
    std::optional<std::vector<TokenLogprobs>> logprobs;         // of each of token_ids, where they were asked for
    std::optional<std::vector<TokenLogprobs>> prompt_logprobs;  // of the prompt's tokens after the first
};

// One token of a stream and the text that it completed, often none; valid during the callback.
struct Piece {
    std::string_view text;
    int64_t token_id;
    const TokenLogprobs* logprobs = nullptr;                      // where they were asked for
    const std::vector<TokenLogprobs>* prompt_logprobs = nullptr;  // the same, with the first piece
};

// Called for each token, in the caller's thread; false cancels the rest.
using OnPiece = std::function<bool(const Piece&)>;

struct Message {
    std::string role;
    std::string content;
};

class OVROUND_API LLM {
public:
    explicit LLM(const std::filesystem::path& folder, const LoadOptions& options = {});
    ~LLM();
    LLM(LLM&&) noexcept;
    LLM& operator=(LLM&&) noexcept;

    Completion generate(std::string_view prompt, const SamplingOptions& options = {}, const OnPiece& on_piece = {});
    Completion generate_ids(const std::vector<int64_t>& prompt_ids, const SamplingOptions& options = {},
                            const OnPiece& on_piece = {});
    // Each prompt is answered as if it were alone, `batch_size` at a time; only rounding may differ.
    std::vector<Completion> generate_batch(const std::vector<std::string>& prompts, const SamplingOptions& options = {},
                                           std::size_t batch_size = 8);
    // The assistant's next message, by the model's chat template; docs/guides/cpp.md says which templates.
    Completion chat(const std::vector<Message>& messages, const SamplingOptions& options = {},
                    const OnPiece& on_piece = {});

    // Log-probabilities of the token ids after the first, each with the `count` likeliest at its place.
    std::vector<TokenLogprobs> score(const std::vector<int64_t>& ids, std::size_t count = 0);

    // End the request that runs now, in whichever thread, after its next token.
    void cancel() noexcept;

    std::vector<int64_t> encode(std::string_view text, bool add_special_tokens = true);
    std::string decode(const std::vector<int64_t>& ids);
    std::string render_chat(const std::vector<Message>& messages, bool add_generation_prompt = true);

    std::size_t context_length() const noexcept;  // most tokens of a prompt and its answer together
    std::size_t vocab_size() const noexcept;
    const std::string& device() const noexcept;        // where the model runs, for people
    const std::string& warning() const noexcept;       // what loading had to say, for people; often empty
    double load_s() const noexcept;                    // seconds that the constructor took
    uint64_t weight_bytes_per_token() const noexcept;  // that a decoding step reads, as stored

private:
    struct State;
    std::unique_ptr<State> state_;
};

OVROUND_API const char* version() noexcept;

}  // namespace ovround
