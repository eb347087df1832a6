// The kernels of products for blocks of 16 maps on AVX2: what AVX-512 runs, where there is none. For tests.
#include "dense.h"
#include "shallow.h"
#include "winograd.h"
#include "winograd_points.h"
#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC target("avx2,fma")
#define KERNELS kernels_avx2_wide
#define BLOCK 16
#define FUSED 8
#include "registers16.h"
#include "matrix_kernels.h"

#include "dense_kernels.h"
#include "shallow_kernels.h"
#include "winograd_kernels.h"
#else
const winograd::Kernels *winograd::kernels_avx2_wide(int, int) { return nullptr; }
const shallow::Kernels *shallow::kernels_avx2_wide(int) { return nullptr; }
const dense::Kernels *dense::kernels_avx2_wide() { return nullptr; }
#endif
