// The C interface of the kernels.
#include <algorithm>
#include <cstring>
#include <new>
#include <vector>

#include "linear.hpp"
#include "weight_layout.hpp"

namespace ovround::native {
namespace {

constexpr Isa kAll[] = {Isa::portable, Isa::avx2, Isa::avxvnni, Isa::avx512, Isa::avx512vbmi, Isa::amx};

// A caller's structure as this library knows it: what an older caller did not have is zero.
template <typename Structure>
Structure known(const void* from) {
    std::size_t size = 0;
    std::memcpy(&size, from, sizeof(size));
    Structure to{};
    std::memcpy(&to, from, std::min(size, sizeof(to)));
    to.size = sizeof(to);
    return to;
}

std::vector<IntegerWeight> known(const IntegerWeight* weights, int64_t count) {
    std::vector<IntegerWeight> all;
    const auto* at = reinterpret_cast<const unsigned char*>(weights);
    for (int64_t index = 0; index < count; ++index, at += weights->size) {
        all.push_back(known<IntegerWeight>(at));
    }
    return all;
}

bool valid(const IntegerWeight& weight) {
    return bits_fit(weight.bits, weight.blocks > 0) && sizes_fit(weight.outputs, weight.inputs) && weight.groups > 0;
}

bool find_isa(const char* text, Isa& found) {
    if (text == nullptr) {
        found = best_isa();
        return true;
    }
    for (const Isa isa : kAll) {
        if (std::strcmp(text, name(isa)) == 0) {
            found = isa;
            return has(isa);
        }
    }
    return false;
}

void run_here(const void*, int64_t tasks, void (*task)(const void*, int64_t), const void* context) {
    for (int64_t index = 0; index < tasks; ++index) {
        task(context, index);
    }
}

// Calls compute(product, isa, threads) and returns what the interface says: no exception passes it.
template <typename Compute>
int guarded(const ovround_product* given, const Compute& compute) noexcept {
    const auto product = known<ovround_product>(given);
    Isa isa = Isa::portable;
    if (!find_isa(product.isa, isa) || product.tokens < 0) {
        return OVROUND_KERNELS_INVALID;
    }
    try {
        return compute(product, isa, Threads{product.run == nullptr ? run_here : product.run, product.threads});
    } catch (const std::bad_alloc&) {
        return OVROUND_KERNELS_NO_MEMORY;
    }
}

}  // namespace
}  // namespace ovround::native

namespace native = ovround::native;

int ovround_kernels_version() { return OVROUND_KERNELS_VERSION; }

const char* ovround_kernels_isa() { return native::name(native::best_isa()); }

int ovround_kernels_has(const char* isa) {
    native::Isa found = native::Isa::portable;
    return isa != nullptr && native::find_isa(isa, found) ? 1 : 0;
}

int ovround_kernels_is_faster() {
    const native::Isa best = native::best_isa();
    return best == native::Isa::amx || best == native::Isa::avx512vbmi || best == native::Isa::avxvnni ? 1 : 0;
}

int ovround_codebook_product(const ovround_codebook_weight* weight, const ovround_product* product, float* y) {
    const auto known = native::known<native::CodebookWeight>(weight);
    return native::guarded(product, [&](const auto& how, native::Isa isa, const native::Threads& threads) {
        native::linear(known, how.x, how.tokens, y, how.exact != 0, isa, threads);
        return OVROUND_KERNELS_OK;
    });
}

int ovround_integer_products(const ovround_integer_weight* weights, int64_t count, const ovround_product* product,
                             float* const* y) {
    return native::guarded(product, [&](const auto& how, native::Isa isa, const native::Threads& threads) {
        const auto all = native::known(weights, count);
        if (all.empty() || !std::all_of(all.begin(), all.end(), native::valid)) {
            return OVROUND_KERNELS_INVALID;
        }
        native::linear(all.data(), count, how.x, how.tokens, y, how.exact != 0, isa, threads);
        return OVROUND_KERNELS_OK;
    });
}

int ovround_gated_product(const ovround_integer_weight* weights, const ovround_product* product, float* y) {
    return native::guarded(product, [&](const auto& how, native::Isa isa, const native::Threads& threads) {
        const auto both = native::known(weights, 2);
        if (!std::all_of(both.begin(), both.end(), native::valid)) {
            return OVROUND_KERNELS_INVALID;
        }
        native::gated_linear(both.data(), how.x, how.tokens, y, how.exact != 0, isa, threads);
        return OVROUND_KERNELS_OK;
    });
}
