// AVX-512 with VBMI and VNNI: since Ice Lake servers and Zen 4.
#define OVROUND_VBMI
#include "avx512.inl"

namespace ovround::native {
const Kernels& avx512vbmi_kernels() { return kKernels; }
}  // namespace ovround::native
