#include "arguments.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <map>
#include <type_traits>

using ovround::Error;
using ovround::ErrorCode;

const char* const kUsage = R"(Usage: ovround-run [OPTIONS] FOLDER PROMPT
       ovround-run --bench [OPTIONS] FOLDER

Answer PROMPT (`-` reads it from stdin) with the model in FOLDER, which `ovround convert --format openvino` wrote, by
its chat template where it has one; a base model continues the text.

  --max-new-tokens N      number of new tokens at most
  --temperature X         0: the likeliest token; higher: more varied
  --top-k N               number of likeliest tokens to draw from
  --top-p X               sum of probabilities of the likeliest tokens to draw from
  --min-p X               least probability of a token, relative to the likeliest one
  --repetition-penalty X  penalty of tokens that are in the text; above 1: less likely
  --seed N                seed of the random numbers
  --stop TEXT             text before which the answer ends; repeatable
  --stop-token-id N       token after which the answer ends; repeatable
  --num-beams N           number of beams of a beam search
  --regex EXPRESSION      regular expression of the whole answer
  --json-schema FILE      JSON schema of the answer
  --prompt-lookup         propose tokens from the text so far; faster for repetitive texts
  --draft-model FOLDER    smaller model with the same tokenizer, which proposes tokens
  --raw                   PROMPT as it stands, without the model's chat template
  --system-prompt, --system TEXT  system message before PROMPT
  --chat                  PROMPT is a message, whatever it holds; an error if the model has no chat template
  -d, --device NAME       CPU, GPU, NPU, AUTO
  --exact, --default      float32 arithmetic, or the engine's fast defaults
  --threads N             CPU threads
  --verify, --no-verify   compare every byte with the manifest, or only sizes
  --tokenizers FILE       library of openvino_tokenizers
  --llguidance FILE       library of llguidance, for --regex and --json-schema
  --kernel NAME           auto, or native: an error instead of expanded weights if the native operator is missing
  --operator FILE         library of the native operator, for folders that need it
  --json                  print one JSON document
  --quiet                 no notes or statistics on stderr: warnings and errors alone

  --bench                 measure speed and memory
  --prompt-tokens N       length of the random prompt
  --new-tokens N          number of generated tokens
  --repeat N              number of measured runs, after one warm-up run
  --version, -h, --help
)";

namespace {

template <typename T>
T number(const std::string& name, const std::string& text) {
    T value{};
    const char* end = text.data() + text.size();
    const auto [stopped, error] = std::from_chars(text.data(), end, value);
    if (error == std::errc() && stopped == end) {
        return value;
    }
    std::string needed = std::is_integral_v<T> ? "a whole number" : "a number";
    if constexpr (std::is_integral_v<T>) {
        if (std::is_unsigned_v<T> || error == std::errc::result_out_of_range) {
            using Limits = std::numeric_limits<T>;
            needed += " of " + std::to_string(Limits::min()) + " to " + std::to_string(Limits::max());
        }
    }
    throw Error(ErrorCode::usage, name + " is `" + text + "`; " + needed + " is needed");
}

ovround::Kernel kernel(const std::string& name, const std::string& text) {
    if (text != "auto" && text != "native") {
        throw Error(ErrorCode::usage, name + " is `" + text + "`; allowed: auto, native");
    }
    return text == "native" ? ovround::Kernel::native : ovround::Kernel::automatic;
}

std::string read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string text{std::istreambuf_iterator<char>(file), {}};
    if (!file) {
        throw Error(ErrorCode::usage, "`" + path + "` cannot be read: " + std::strerror(errno));
    }
    return text;
}

}  // namespace

Arguments parse(const std::vector<std::string>& arguments) {
    Arguments parsed;
    auto& load = parsed.load;
    auto& sampling = parsed.sampling;
    std::vector<std::string> plain;
    const std::map<std::string, std::function<void()>> switches{
        {"--help", [&] { parsed.help = true; }},
        {"-h", [&] { parsed.help = true; }},
        {"--version", [&] { parsed.version = true; }},
        {"--bench", [&] { parsed.bench = true; }},
        {"--chat", [&] { parsed.chat = true; }},
        {"--raw", [&] { parsed.raw = true; }},
        {"--json", [&] { parsed.json = true; }},
        {"--quiet", [&] { parsed.quiet = true; }},
        {"--exact", [&] { load.exact = true; }},
        {"--default", [&] { load.exact = false; }},
        {"--verify", [&] { load.check_contents = true; }},
        {"--no-verify", [&] { load.check_contents = false; }},
        {"--prompt-lookup", [&] { load.prompt_lookup = true; }},
    };
    using Text = const std::string&;
    const std::map<std::string, std::function<void(Text, Text)>> options{
        {"--max-new-tokens", [&](Text name, Text text) { sampling.max_new_tokens = number<int64_t>(name, text); }},
        {"--temperature", [&](Text name, Text text) { sampling.temperature = number<double>(name, text); }},
        {"--top-k", [&](Text name, Text text) { sampling.top_k = number<int64_t>(name, text); }},
        {"--top-p", [&](Text name, Text text) { sampling.top_p = number<double>(name, text); }},
        {"--min-p", [&](Text name, Text text) { sampling.min_p = number<double>(name, text); }},
        {"--repetition-penalty",
         [&](Text name, Text text) { sampling.repetition_penalty = number<double>(name, text); }},
        {"--seed", [&](Text name, Text text) { sampling.seed = number<uint64_t>(name, text); }},
        {"--stop", [&](Text, Text text) { sampling.stop.push_back(text); }},
        {"--stop-token-id",
         [&](Text name, Text text) { sampling.stop_token_ids.push_back(number<int64_t>(name, text)); }},
        {"--num-beams", [&](Text name, Text text) { sampling.num_beams = number<int64_t>(name, text); }},
        {"--regex",
         [&](Text, Text text) {
             sampling.grammar = {ovround::Grammar::Kind::regex, text};
         }},
        {"--json-schema", [&](Text, Text text) { parsed.json_schema = text; }},
        {"--system-prompt", [&](Text, Text text) { parsed.system_prompt = text; }},
        {"--system", [&](Text, Text text) { parsed.system_prompt = text; }},
        {"--draft-model", [&](Text, Text text) { load.draft_model = text; }},
        {"--device", [&](Text, Text text) { load.device = text; }},
        {"-d", [&](Text, Text text) { load.device = text; }},
        {"--kernel", [&](Text name, Text text) { load.kernel = kernel(name, text); }},
        {"--operator", [&](Text, Text text) { load.operator_library = text; }},
        {"--llguidance", [&](Text, Text text) { load.llguidance_library = text; }},
        {"--threads", [&](Text name, Text text) { load.threads = number<int>(name, text); }},
        {"--tokenizers", [&](Text, Text text) { load.tokenizers_library = text; }},
        {"--prompt-tokens", [&](Text name, Text text) { parsed.prompt_tokens = number<std::size_t>(name, text); }},
        {"--new-tokens", [&](Text name, Text text) { parsed.new_tokens = number<std::size_t>(name, text); }},
        {"--repeat", [&](Text name, Text text) { parsed.repeat = number<std::size_t>(name, text); }},
    };
    for (std::size_t index = 0; index < arguments.size(); ++index) {
        const std::string& argument = arguments[index];
        if (argument == "--") {
            plain.insert(plain.end(), arguments.begin() + static_cast<std::ptrdiff_t>(index) + 1, arguments.end());
            break;
        }
        if (argument.rfind('-', 0) != 0 || argument == "-") {
            plain.push_back(argument);
            continue;
        }
        // `--name=value` and `-nvalue` are one argument each, `--name value` and `-n value` two
        const bool is_long = argument.rfind("--", 0) == 0;
        const std::size_t end = is_long ? std::min(argument.find('='), argument.size()) : 2;
        const std::string name = argument.substr(0, end);
        if (switches.count(argument) > 0) {
            switches.at(argument)();
        } else if (switches.count(name) > 0) {
            throw Error(ErrorCode::usage, name + " takes no value");
        } else if (options.count(name) == 0) {
            throw Error(ErrorCode::usage, "there is no option `" + name + "`",
                        "ovround-run --help lists them; `--` stands before a text that begins with a dash");
        } else if (end < argument.size()) {
            options.at(name)(name, argument.substr(end + (is_long ? 1 : 0)));
        } else if (index + 1 == arguments.size()) {
            throw Error(ErrorCode::usage, name + " needs a value");
        } else {
            options.at(name)(name, arguments[++index]);
        }
    }
    if (parsed.help || parsed.version) {
        return parsed;
    }
    const std::size_t needed = parsed.bench ? 1 : 2;
    if (plain.size() != needed) {
        throw Error(ErrorCode::usage,
                    std::to_string(plain.size()) + " arguments; " +
                        (parsed.bench ? "FOLDER is needed" : "FOLDER and PROMPT are needed"),
                    "ovround-run --help says more");
    }
    if (parsed.raw && (parsed.chat || parsed.system_prompt)) {
        throw Error(ErrorCode::usage, std::string("--raw and ") + (parsed.chat ? "--chat" : "--system-prompt") +
                                          " are both given; a text as it stands has no messages");
    }
    if (!parsed.json_schema.empty()) {
        if (sampling.grammar) {
            throw Error(ErrorCode::usage, "--regex and --json-schema are both given; an answer has one form");
        }
        sampling.grammar = {ovround::Grammar::Kind::json_schema, read(parsed.json_schema)};
    }
    parsed.folder = plain[0];
    parsed.prompt = parsed.bench ? "" : plain[1];
    return parsed;
}
