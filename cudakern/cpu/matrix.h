// The operands of a product of matrices, which kernels (matrix_kernels.h) and those who cut it into pieces share.
#pragma once
#include <stddef.h>

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

// Sums over rows are cut into groups of so many.
constexpr int rows_group = 32;

} // namespace matrix
