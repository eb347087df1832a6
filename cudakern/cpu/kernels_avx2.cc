// The kernels of products for AVX2 and FMA: 16 registers of 8 floats.
#include "dense.h"
#include "shallow.h"
#include "winograd.h"
#include "winograd_points.h"
#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC target("avx2,fma")
#define KERNELS kernels_avx2
#define BLOCK 8
#define FUSED 8
namespace {
struct Registers {
  static constexpr int widest = 3, rows[] = {12, 6, 4};
  static constexpr int tall_widest = 3, tall[] = {8, 4, 4};
};
} // namespace
#include "matrix_kernels.h"

#include "dense_kernels.h"
#include "shallow_kernels.h"
#include "winograd_kernels.h"
#else
const winograd::Kernels *winograd::kernels_avx2(int, int) { return nullptr; }
const shallow::Kernels *shallow::kernels_avx2(int) { return nullptr; }
const dense::Kernels *dense::kernels_avx2() { return nullptr; }
#endif
