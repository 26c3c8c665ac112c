// For LeakSanitizer: suppresses leaks of other libraries. A program includes it once.
#pragma once

#if defined(__linux__)
#include <dlfcn.h>
#endif

// OpenVINO and oneTBB keep memory of each thread and model until the end, which is not ours to free. Our own
// allocations have no stack frame of these libraries.
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() { return "leak:libopenvino\nleak:libtbb\n"; }

// Plugins stay loaded, so that a leak report can name them.
inline void keep_plugins() {
#if defined(__linux__)
    for (const char* name : {"libopenvino_intel_cpu_plugin.so", "libopenvino_ir_frontend.so.2641",
                             "libopenvino_tokenizers.so", "libtbbbind_2_5.so.3"}) {
        dlopen(name, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
    }
#endif
}
