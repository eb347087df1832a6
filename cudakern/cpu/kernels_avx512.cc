// The kernels of products for AVX-512: 32 registers of 16 floats.
#include "dense.h"
#include "shallow.h"
#include "winograd.h"
#include "winograd_points.h"
#if defined(__x86_64__)
#include <immintrin.h>

#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")
#define KERNELS kernels_avx512
#define BLOCK 16
#define FUSED 16
#include "registers16.h"
#include "matrix_kernels.h"

#include "dense_kernels.h"
#include "shallow_kernels.h"
#include "winograd_kernels.h"
#else
const winograd::Kernels *winograd::kernels_avx512(int, int) { return nullptr; }
const shallow::Kernels *shallow::kernels_avx512(int) { return nullptr; }
const dense::Kernels *dense::kernels_avx512() { return nullptr; }
#endif
