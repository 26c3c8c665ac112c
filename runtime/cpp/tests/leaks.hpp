// For LeakSanitizer: what is not ours to free. Included once by a program.
#pragma once

#if defined(__linux__)
#include <dlfcn.h>
#endif

// OpenVINO and oneTBB keep memory of each thread and of each model until the end: not ours to free. What is allocated
// by ours has no frame of theirs.
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() { return "leak:libopenvino\nleak:libtbb\n"; }

// The plugins stay in memory, so that a report of leaks can name them.
inline void keep_plugins() {
#if defined(__linux__)
    for (const char* name : {"libopenvino_intel_cpu_plugin.so", "libopenvino_ir_frontend.so.2641",
                             "libopenvino_tokenizers.so", "libtbbbind_2_5.so.3"}) {
        dlopen(name, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
    }
#endif
}
