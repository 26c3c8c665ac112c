// AVX-512 of Skylake servers.
#include "avx512.inl"

namespace ovround::native {
const Kernels& avx512_kernels() { return kKernels; }
}  // namespace ovround::native
