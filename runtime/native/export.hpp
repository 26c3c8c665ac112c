// Marks a function that the library exports.
#pragma once

#if defined(_WIN32)
#define OVROUND_EXPORT __declspec(dllexport)
#else
#define OVROUND_EXPORT __attribute__((visibility("default")))
#endif
