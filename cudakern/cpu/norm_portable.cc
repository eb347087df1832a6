// The kernels of norm.h for any processor that the compiler knows.
#pragma GCC optimize("fp-contract=off", "no-math-errno", "no-trapping-math")
#define KERNELS kernels_portable
#include "norm_kernels.h"
