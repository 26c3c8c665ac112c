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

// Some compilers know instructions but not their name for __builtin_cpu_supports (Clang 14: f16c). These are read from
// the processor: a bit of a register of a CPUID leaf.
enum Register { kEax, kEbx, kEcx, kEdx };

bool has_bit(unsigned leaf, unsigned subleaf, Register word, unsigned bit) {
    unsigned registers[4] = {};
    return __get_cpuid_count(leaf, subleaf, &registers[kEax], &registers[kEbx], &registers[kEcx], &registers[kEdx]) !=
               0 &&
           (registers[word] >> bit & 1U) != 0;
}

bool has_f16c() { return has_bit(1, 0, kEcx, 29); }

bool has_avx_vnni() {
#ifdef OVROUND_AVXVNNI
    return has_bit(7, 1, kEax, 4);
#else
    return false;
#endif
}

// AMX-BF16, AMX-TILE, AVX512-BF16, and the system's permission to use the registers, which a process requests once.
bool has_amx() {
#ifdef OVROUND_AMX
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // Linux: ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    static const bool allowed = has_bit(7, 0, kEdx, 22) && has_bit(7, 0, kEdx, 24) && has_bit(7, 1, kEax, 5) &&
                                syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
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
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
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
