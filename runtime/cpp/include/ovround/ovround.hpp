// The runtime for C++: loads a folder that `ovround convert --format openvino` wrote, and generates answers.
//
//     ovround::LLM llm("out");
//     std::cout << llm.generate("Once upon a time").text;
//
// Threads: the methods of one LLM wait for each other; `cancel` does not. Several LLMs are independent.
// Errors: all functions throw ovround::Error, or std::bad_alloc if memory is exhausted.
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
    usage = 2,       // an option or argument that is not allowed
    artifact = 3,    // a folder that the runtime cannot read
    engine = 4,      // a device that is missing or refuses the model
    generation = 5,  // a request that the loaded model cannot answer
};

class OVROUND_API Error : public std::runtime_error {
public:
    Error(ErrorCode code, const std::string& message, std::string hint = {});
    ErrorCode code() const noexcept { return code_; }
    const std::string& hint() const noexcept { return hint_; }  // advice; may be empty

private:
    ErrorCode code_;
    std::string hint_;
};

// The kernels of weights in the layout of the native operator. `automatic` expands them if its library is missing,
// which costs memory, see LLM::warning. `native` refuses that, and refuses ordinary folders, which OpenVINO's kernels
// compute here.
enum class Kernel { automatic, native };

struct LoadOptions {
    std::string device = "CPU";                // an OpenVINO device: CPU, GPU, GPU.1, NPU, AUTO
    bool exact = false;                        // compute in float32, for comparisons
    int threads = 0;                           // CPU threads; 0: the engine's own choice
    bool check_contents = true;                // compare every file's sha256 with the manifest; false: sizes only
    std::filesystem::path tokenizers_library;  // libopenvino_tokenizers; empty: the one beside libopenvino
    std::filesystem::path llguidance_library;  // libllguidance, for grammars; empty: see docs/guides/cpp.md
    Kernel kernel = Kernel::automatic;
    std::filesystem::path operator_library;  // libovround_operator, for folders that need it; empty: beside libovround
    bool prefix_cache = false;          // reuse the cache for the common prefix with the last request and its answer
    bool prompt_lookup = false;         // guess tokens from the text so far, which changes only the speed
    std::filesystem::path draft_model;  // folder of a smaller model with the same tokenizer, which makes the guesses
    int draft_tokens = 5;               // guesses a step, 1 to 64
};

// A constraint on the answer: a JSON schema, a regular expression, or a grammar in Lark's notation.
struct Grammar {
    enum class Kind { json_schema, regex, lark };
    Kind kind = Kind::json_schema;
    std::string source;
};

// The fields, ranges and defaults of Python's SamplingOptions; see docs/concepts/sampling.md.
struct SamplingOptions {
    std::optional<int64_t> max_new_tokens;  // none: until an end token or the end of the context
    double temperature = 0.0;
    int64_t top_k = 0;
    double top_p = 1.0;
    double min_p = 0.0;
    double repetition_penalty = 1.0;
    std::optional<uint64_t> seed;  // none: a new seed for each request
    std::vector<std::string> stop;
    std::vector<int64_t> stop_token_ids;
    bool ignore_eos = false;
    double presence_penalty = 0.0;
    double frequency_penalty = 0.0;
    std::vector<std::pair<int64_t, double>> logit_bias;
    std::optional<int64_t> logprobs;  // for the answer's tokens, and this number of likeliest tokens at each; up to 100
    std::optional<int64_t> prompt_logprobs;  // the same for the prompt's tokens after the first
    std::optional<Grammar> grammar;          // needs the llguidance library
    int64_t num_beams = 1;        // beams, 1 to 64; several are greedy, without a callback, and allow few other options
    double length_penalty = 1.0;  // with beams: the sum of log-probabilities is divided by the length to this power
};

enum class FinishReason { stop, length, cancelled };

OVROUND_API const char* to_string(FinishReason reason) noexcept;

// Seconds of work from the start of prefill, without the time of the callback.
struct Timings {
    double time_to_first_token_s = 0.0;
    std::optional<double> time_per_output_token_s;  // mean over the tokens after the first
};

// Numbers of tokens: of the prompt with its special tokens, and generated ones with an end token.
struct Usage {
    std::size_t prompt_tokens = 0;
    std::size_t completion_tokens = 0;
    std::size_t cached_tokens = 0;    // tokens of the prompt that were reused from the cache
    std::size_t drafted_tokens = 0;   // guesses of a draft model or the prompt lookup
    std::size_t accepted_tokens = 0;  // guesses that the model accepted
};

// The token at one position and the likeliest tokens there, by the model's own distribution before penalties,
// temperature and constraints. Natural logarithms.
struct TokenLogprobs {
    int64_t token_id = 0;
    double logprob = 0.0;
    std::vector<std::pair<int64_t, double>> top;  // descending, lower ids first for equal values
};

struct Completion {
    std::string text;                // ends before an end token or a stop string
    std::vector<int64_t> token_ids;  // all generated tokens
    FinishReason finish_reason = FinishReason::stop;
    Usage usage;
    Timings timings;
    std::optional<std::vector<TokenLogprobs>> logprobs;         // for each of token_ids, if requested
    std::optional<std::vector<TokenLogprobs>> prompt_logprobs;  // for the prompt's tokens after the first
};

// One token of a stream and the text that it completed, which is often empty; valid during the callback.
struct Piece {
    std::string_view text;
    int64_t token_id;
    const TokenLogprobs* logprobs = nullptr;                      // if requested
    const std::vector<TokenLogprobs>* prompt_logprobs = nullptr;  // if requested, with the first piece
};

// Called for each token in the caller's thread; return false to cancel.
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
    // Answers each prompt as if it were alone, `batch_size` prompts at a time; only rounding may differ.
    std::vector<Completion> generate_batch(const std::vector<std::string>& prompts, const SamplingOptions& options = {},
                                           std::size_t batch_size = 8);
    // The assistant's next message, by the model's chat template; docs/guides/cpp.md lists the supported templates.
    Completion chat(const std::vector<Message>& messages, const SamplingOptions& options = {},
                    const OnPiece& on_piece = {});

    // Log-probabilities of the token ids after the first, each with the `count` likeliest tokens at its position.
    std::vector<TokenLogprobs> score(const std::vector<int64_t>& ids, std::size_t count = 0);

    // Ends the running request after its next token; may be called from any thread.
    void cancel() noexcept;

    std::vector<int64_t> encode(std::string_view text, bool add_special_tokens = true);
    std::string decode(const std::vector<int64_t>& ids);
    std::string render_chat(const std::vector<Message>& messages, bool add_generation_prompt = true);
    bool has_chat_template();  // false: a base model, which continues text
    // The mark of the model's chat template that `text` has already, such as a special token at its begin; else empty.
    std::string template_marker(std::string_view text);

    std::size_t context_length() const noexcept;  // maximum number of tokens of a prompt and its answer together
    std::size_t vocab_size() const noexcept;
    const std::string& device() const noexcept;  // readable name of the device
    const char* kernel() const noexcept;  // "native" if the native operator multiplies quantised weights, or "engine"
    const std::string& warning() const noexcept;       // a readable warning from loading; often empty
    double load_s() const noexcept;                    // seconds of the constructor
    uint64_t weight_bytes_per_token() const noexcept;  // bytes of stored weights that a decoding step reads

private:
    struct State;
    std::unique_ptr<State> state_;
};

OVROUND_API const char* version() noexcept;

}  // namespace ovround
