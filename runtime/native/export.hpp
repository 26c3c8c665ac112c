// Marks a function that a library shows to those who load it.
#pragma once

#if defined(_WIN32)
#define OVROUND_EXPORT __declspec(dllexport)
#else
#define OVROUND_EXPORT __attribute__((visibility("default")))
#endif
