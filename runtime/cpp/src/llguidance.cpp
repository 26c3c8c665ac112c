#include "llguidance.hpp"

#include <map>
#include <mutex>
#include <string>
#include <vector>

#if !defined(_WIN32)
#include <dlfcn.h>
#endif

#include "ovround/ovround.hpp"
#include "own_folder.hpp"

namespace ovround {
namespace {

constexpr const char* kHint =
    "build it from the crate (cargo build --release, in llguidance/parser), or pip install llguidance for the Python "
    "that ovround was built with, or name the library: llguidance_library";

#if defined(_WIN32)

void* open_library(const std::filesystem::path&) {
    throw Error(ErrorCode::engine, "grammars are not available on Windows");
}

void* function(void*, const char*) { return nullptr; }

#else

#if defined(__APPLE__)
constexpr const char* kName = "libllguidance.dylib";
#else
constexpr const char* kName = "libllguidance.so";
#endif

// The library of the Python that the build names; or, if ovround is in a wheel (ovround/native/lib), beside that.
std::vector<std::string> wheels() {
    return {OVROUND_LLGUIDANCE_WHEEL, (packages_beside_us() / "llguidance" / "_lib.abi3.so").string()};
}

// The wheel's library is a Python module. It refers to symbols of Python's library that no function used here calls, so
// it is loaded after that library; the interpreter is not started.
void* open_behind_python(const std::string& module) {
    const bool in_python = dlsym(RTLD_DEFAULT, "Py_IncRef") != nullptr;
    for (const char* python : {OVROUND_PYTHON_LIBRARY, OVROUND_PYTHON_SONAME, "libpython3.13.so.1.0",
                               "libpython3.12.so.1.0", "libpython3.11.so.1.0", "libpython3.10.so.1.0"}) {
        if (in_python || (*python != '\0' && dlopen(python, RTLD_NOW | RTLD_GLOBAL) != nullptr)) {
            break;
        }
    }
    return dlopen(module.c_str(), RTLD_NOW | RTLD_LOCAL);
}

void* open_wheel() {
    for (const auto& wheel : wheels()) {
        if (std::filesystem::is_regular_file(wheel)) {
            return open_behind_python(wheel);
        }
    }
    return nullptr;
}

void* open_library(const std::filesystem::path& given) {
    void* library = nullptr;
    if (!given.empty()) {
        library = dlopen(given.c_str(), RTLD_NOW | RTLD_LOCAL);
        library = library != nullptr ? library : open_behind_python(given.string());
    } else {
        for (const char* name : {OVROUND_LLGUIDANCE_LIBRARY, kName}) {
            library = library != nullptr || *name == '\0' ? library : dlopen(name, RTLD_NOW | RTLD_LOCAL);
        }
        library = library != nullptr ? library : open_wheel();
    }
    if (library == nullptr) {
        const char* why = dlerror();
        throw Error(ErrorCode::engine,
                    "grammars need llguidance, whose library cannot be loaded: " +
                        std::string(why == nullptr ? "it is not there" : why),
                    kHint);
    }
    return library;
}

void* function(void* library, const char* name) { return dlsym(library, name); }

#endif

template <typename Function>
void find(void* library, const char* name, Function& entry) {
    entry = reinterpret_cast<Function>(function(library, name));
    if (entry == nullptr) {
        throw Error(ErrorCode::engine, "llguidance's library has no `" + std::string(name) + "`; 1.9 is needed", kHint);
    }
}

Llguidance loaded(const std::filesystem::path& given) {
    void* library = open_library(given);
    Llguidance api{};
    find(library, "llg_new_tokenizer_v2", api.new_tokenizer_v2);
    find(library, "llg_free_tokenizer", api.free_tokenizer);
    find(library, "llg_constraint_init_set_defaults", api.constraint_init_set_defaults);
    find(library, "llg_new_matcher", api.new_matcher);
    find(library, "llg_free_matcher", api.free_matcher);
    find(library, "llg_matcher_compute_mask_into", api.matcher_compute_mask_into);
    find(library, "llg_matcher_get_mask_byte_size", api.matcher_get_mask_byte_size);
    find(library, "llg_matcher_consume_token", api.matcher_consume_token);
    find(library, "llg_matcher_get_error", api.matcher_get_error);
    find(library, "llg_matcher_is_error", api.matcher_is_error);
    find(library, "llg_matcher_is_stopped", api.matcher_is_stopped);
    return api;
}

}  // namespace

const Llguidance& open_llguidance(const std::filesystem::path& given) {
    static std::mutex lock;
    static std::map<std::filesystem::path, Llguidance> opened;
    const std::lock_guard<std::mutex> held(lock);
    const auto known = opened.find(given);
    return known != opened.end() ? known->second : opened.emplace(given, loaded(given)).first->second;
}

}  // namespace ovround
