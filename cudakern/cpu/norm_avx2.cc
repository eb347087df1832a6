// The kernels of norm.h for AVX2.
#include "norm.h"
#if defined(__x86_64__)
// Before what follows says for which processor: what these define may be shared with others.
#include <cfloat>
#include <cmath>
#include <cstring>
#include <immintrin.h>

#pragma GCC optimize("fp-contract=off", "no-math-errno", "no-trapping-math")
#pragma GCC target("avx2")
#define AVX
#define KERNELS kernels_avx2
#include "norm_kernels.h"
#else
const norm::Kernels *norm::kernels_avx2() { return nullptr; }
#endif
