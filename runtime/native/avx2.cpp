// AVX2, FMA and F16C: since Haswell.
#include "avx2.inl"

namespace ovround::native {
const Kernels& avx2_kernels() { return kKernels; }
}  // namespace ovround::native
