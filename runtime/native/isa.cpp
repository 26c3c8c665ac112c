#include "calls.hpp"

#ifdef OVROUND_X86
#include <cpuid.h>
#endif
#ifdef OVROUND_AMX
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace ovround::native {

#ifdef OVROUND_X86
namespace {

// Compilers that know the instructions need not know their name for __builtin_cpu_supports: leaf 7, subleaf 1, EAX
// bit 4.
bool has_avx_vnni() {
#ifdef OVROUND_AVXVNNI
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & 16U) != 0;
#else
    return false;
#endif
}

// AMX-TILE and AMX-BF16 (leaf 7, EDX), AVX512-BF16 (its subleaf 1, EAX), and the system's leave to use the registers,
// which a process asks for once.
bool has_amx() {
#ifdef OVROUND_AMX
    constexpr unsigned kAmxBfloat16 = 1U << 22, kAmxTile = 1U << 24, kAvxBfloat16 = 1U << 5;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // Linux: ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    bool there =
        __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx & kAmxBfloat16) != 0 && (edx & kAmxTile) != 0;
    there = there && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & kAvxBfloat16) != 0;
    static const bool allowed = there && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
    return allowed;
#else
    return false;
#endif
}

}  // namespace
#endif

const Kernels& kernels_of(Isa isa) {
    switch (isa) {
#ifdef OVROUND_X86
        case Isa::avx2: return avx2_kernels();
#ifdef OVROUND_AVXVNNI
        case Isa::avxvnni: return avxvnni_kernels();
#endif
        case Isa::avx512: return avx512_kernels();
        case Isa::avx512vbmi: return avx512vbmi_kernels();
#ifdef OVROUND_AMX
        case Isa::amx: return amx_kernels();
#endif
#endif
        default: return portable_kernels();
    }
}

const char* name(Isa isa) {
    constexpr const char* kNames[] = {"portable", "avx2", "avxvnni", "avx512", "avx512vbmi", "amx"};
    return kNames[static_cast<int>(isa)];
}

bool has(Isa isa) {
#ifdef OVROUND_X86
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    const bool avx512vbmi = avx512 && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni");
    switch (isa) {
        case Isa::avx2: return avx2;
        case Isa::avxvnni: return avx2 && has_avx_vnni();
        case Isa::avx512: return avx512;
        case Isa::avx512vbmi: return avx512vbmi;
        case Isa::amx: return avx512vbmi && has_amx();
        default: return true;
    }
#else
    return isa == Isa::portable;
#endif
}

Isa best_isa() {
    static const Isa best = [] {
        for (const Isa isa : {Isa::amx, Isa::avx512vbmi, Isa::avx512, Isa::avxvnni, Isa::avx2}) {
            if (has(isa)) {
                return isa;
            }
        }
        return Isa::portable;
    }();
    return best;
}

}  // namespace ovround::native
