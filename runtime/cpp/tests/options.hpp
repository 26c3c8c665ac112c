// Reads sampling options from the JSON that Python's tests write.
#pragma once

#include <nlohmann/json.hpp>

#include "ovround/ovround.hpp"

inline ovround::SamplingOptions sampling_options(const nlohmann::json& from) {
    ovround::SamplingOptions to;
    for (const auto& [name, value] : from.items()) {
        if (name == "max_new_tokens")
            to.max_new_tokens = value.get<int64_t>();
        else if (name == "temperature")
            to.temperature = value.get<double>();
        else if (name == "top_k")
            to.top_k = value.get<int64_t>();
        else if (name == "top_p")
            to.top_p = value.get<double>();
        else if (name == "min_p")
            to.min_p = value.get<double>();
        else if (name == "repetition_penalty")
            to.repetition_penalty = value.get<double>();
        else if (name == "seed")
            to.seed = value.get<uint64_t>();
        else if (name == "stop")
            to.stop = value.get<std::vector<std::string>>();
        else if (name == "stop_token_ids")
            to.stop_token_ids = value.get<std::vector<int64_t>>();
        else if (name == "ignore_eos")
            to.ignore_eos = value.get<bool>();
        else if (name == "presence_penalty")
            to.presence_penalty = value.get<double>();
        else if (name == "frequency_penalty")
            to.frequency_penalty = value.get<double>();
        else if (name == "logit_bias")
            to.logit_bias = value.get<std::vector<std::pair<int64_t, double>>>();
        else if (name == "logprobs")
            to.logprobs = value.get<int64_t>();
        else if (name == "prompt_logprobs")
            to.prompt_logprobs = value.get<int64_t>();
        else if (name == "num_beams")
            to.num_beams = value.get<int64_t>();
        else if (name == "length_penalty")
            to.length_penalty = value.get<double>();
        else if (name == "json_schema")
            to.grammar = {ovround::Grammar::Kind::json_schema, value.get<std::string>()};
        else if (name == "regex")
            to.grammar = {ovround::Grammar::Kind::regex, value.get<std::string>()};
        else if (name == "lark")
            to.grammar = {ovround::Grammar::Kind::lark, value.get<std::string>()};
        else
            throw std::runtime_error("no option " + name);
    }
    return to;
}
