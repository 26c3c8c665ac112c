#pragma once

#include <cstddef>

// Bytes per second that `threads` threads read from main memory, measured as ovround/measure/bandwidth.py does.
double measure_read_bandwidth(std::size_t threads);
