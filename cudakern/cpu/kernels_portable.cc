// The kernels of products for any processor that the compiler knows.
#include "dense.h"
#include "shallow.h"
#include "winograd.h"
#include "winograd_points.h"

#define KERNELS kernels_portable
#define BLOCK 8
#define FUSED 0
namespace {
struct Registers {
  static constexpr int widest = 2, rows[] = {4, 3};
  static constexpr int tall_widest = 2, tall[] = {4, 2};
};
} // namespace
#include "matrix_kernels.h"

#include "dense_kernels.h"
#include "shallow_kernels.h"
#include "winograd_kernels.h"
