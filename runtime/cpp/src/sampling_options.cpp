#include <sstream>

#include "grammar.hpp"
#include "sampling.hpp"

namespace ovround {
namespace {

constexpr std::size_t kMaxStopStrings = 64;
constexpr std::size_t kMaxLogitBias = 1024;
constexpr int64_t kMaxLogprobs = 100;
constexpr int64_t kMaxBeams = 64;

template <typename T>
void refuse(const char* name, T value, const std::string& allowed) {
    std::ostringstream message;
    message << name << " is " << value << "; " << allowed << " is needed";
    throw Error(ErrorCode::usage, message.str());
}

void check_integer(const char* name, int64_t value, int64_t low, int64_t high = INT64_MAX) {
    if (value < low || value > high) {
        refuse(name, value,
               "a whole number of " + std::to_string(low) +
                   (high == INT64_MAX ? " or more" : " to " + std::to_string(high)));
    }
}

void check_number(const char* name, double value, double low, double high, bool above = false) {
    if (!(value >= low && value <= high) || (above && value == low)) {
        std::ostringstream allowed;
        allowed << "a number " << (above ? "above" : "from") << ' ' << low << " to " << high;
        refuse(name, value, allowed.str());
    }
}

template <typename T>
void need_default(const char* name, T value, T only) {
    if (value != only) {
        std::ostringstream message;
        message << name << " is " << value << "; with num_beams it can only be " << only;
        throw Error(ErrorCode::usage, message.str());
    }
}

void need_none(const char* name, bool given) {
    if (given) {
        throw Error(ErrorCode::usage, std::string(name) + " is given; with num_beams it cannot be");
    }
}

void check_beams(const SamplingOptions& options) {
    const SamplingOptions defaults;
    need_default("temperature", options.temperature, defaults.temperature);
    need_default("top_k", options.top_k, defaults.top_k);
    need_default("top_p", options.top_p, defaults.top_p);
    need_default("min_p", options.min_p, defaults.min_p);
    need_default("repetition_penalty", options.repetition_penalty, defaults.repetition_penalty);
    need_default("presence_penalty", options.presence_penalty, defaults.presence_penalty);
    need_default("frequency_penalty", options.frequency_penalty, defaults.frequency_penalty);
    need_none("stop", !options.stop.empty());
    need_none("logit_bias", !options.logit_bias.empty());
    need_none("logprobs", options.logprobs.has_value());
    need_none("prompt_logprobs", options.prompt_logprobs.has_value());
    need_none("grammar", options.grammar.has_value());
}

}  // namespace

void check_options(const SamplingOptions& options) {
    if (options.max_new_tokens) {
        check_integer("max_new_tokens", *options.max_new_tokens, 1);
    }
    check_number("temperature", options.temperature, 0.0, 100.0);
    check_integer("top_k", options.top_k, 0);
    check_number("top_p", options.top_p, 0.0, 1.0, true);
    check_number("min_p", options.min_p, 0.0, 1.0);
    check_number("repetition_penalty", options.repetition_penalty, 0.0, 10.0, true);
    check_number("presence_penalty", options.presence_penalty, -10.0, 10.0);
    check_number("frequency_penalty", options.frequency_penalty, -10.0, 10.0);
    for (const auto& text : options.stop) {
        if (text.empty()) {
            throw Error(ErrorCode::usage, "stop has an empty string; strings of at least one character are needed");
        }
    }
    if (options.stop.size() > kMaxStopStrings) {
        refuse("the number of stop strings", options.stop.size(), "at most " + std::to_string(kMaxStopStrings));
    }
    for (const int64_t token : options.stop_token_ids) {
        check_integer("stop_token_ids", token, 0);
    }
    if (options.logit_bias.size() > kMaxLogitBias) {
        refuse("the length of logit_bias", options.logit_bias.size(), "at most " + std::to_string(kMaxLogitBias));
    }
    for (const auto& [token, bias] : options.logit_bias) {
        check_integer("logit_bias", token, 0);
        check_number("logit_bias", bias, -100.0, 100.0);
    }
    check_integer("logprobs", options.logprobs.value_or(0), 0, kMaxLogprobs);
    check_integer("prompt_logprobs", options.prompt_logprobs.value_or(0), 0, kMaxLogprobs);
    check_number("length_penalty", options.length_penalty, -10.0, 10.0);
    check_integer("num_beams", options.num_beams, 1, kMaxBeams);
    if (options.grammar) {
        check_grammar(*options.grammar);
    }
    if (options.num_beams > 1) {
        check_beams(options);
    }
}

}  // namespace ovround
