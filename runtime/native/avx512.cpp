// AVX-512 as Skylake servers have it.
#include "avx512.inl"

namespace ovround::native {
const Kernels& avx512_kernels() { return kKernels; }
}  // namespace ovround::native
