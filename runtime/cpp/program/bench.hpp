#pragma once

#include <nlohmann/json.hpp>

#include "arguments.hpp"

// The fields of Python's BenchResult, for batch 1, greedy, and a random prompt; a first run warms up and is not
// counted.
nlohmann::json bench(const Arguments& arguments);
