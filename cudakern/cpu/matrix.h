// What kernels (matrix_kernels.h) and those who cut products of matrices into pieces share.
#pragma once
#include <stddef.h>

#include "engine.h"

namespace matrix {

// Operands: `tiles` rows of a vector of numbers each, in blocks of B numbers. With v[b][q][i] number b*B + i of row q,
//   product           m[j][q][i] = [m +] sum over b, k of v[b][q][k] * u[j][b*B + k][i]
//   gradient_product  u[j][b*B + k][i] = [u +] sum over q of v[b][q][k] * m[j][q][i]
// for the vectors j that are asked for.
struct Operands {
  const float *v;
  float *u, *m;
  size_t sv, su; // floats from one block of v and m, of u, to the next
  int blocks, tiles;
  int group; // products: sums are cut into groups of so many terms; a multiple of B
};

// What a product may end with, besides writing what it came to: flags of forward passes.
enum { add_bias = 1, accumulate = 2, rectify = 4 };

// flags are those that an op's descriptor asks for.
template <class D> int flags(const D &d) {
  return (d.bias ? add_bias : 0) | (d.accumulate ? accumulate : 0) | (d.relu ? rectify : 0);
}

// of_path chooses what is compiled for a path of engine.h.
template <class T> T of_path(int path, T portable, T avx2, T avx2_wide, T avx512) {
  switch (path) {
  case CK_AVX2: return avx2;
  case CK_AVX2_WIDE: return avx2_wide;
  case CK_AVX512: return avx512;
  }
  return portable;
}

// Sums over rows are cut into groups of so many.
constexpr int rows_group = 32;

} // namespace matrix
