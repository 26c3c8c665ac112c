// AVX2 with AVX-VNNI: every Intel client processor since Alder Lake.
#define OVROUND_VNNI
#include "avx2.inl"

namespace ovround::native {
const Kernels& avxvnni_kernels() { return kKernels; }
}  // namespace ovround::native
