#pragma once

#include <cstddef>

// Bytes per second that `threads` threads read from main memory; ovround/measure/bandwidth.py does the same.
double measure_read_bandwidth(std::size_t threads);
