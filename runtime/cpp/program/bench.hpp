#pragma once

#include <nlohmann/json.hpp>

#include "arguments.hpp"

// The fields of Python's BenchResult: batch 1, greedy, a random prompt; one run before the measured ones warms up.
nlohmann::json bench(const Arguments& arguments);
