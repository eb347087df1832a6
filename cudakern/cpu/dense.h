// Dense layers: three products of matrices, cut among threads by what comes out. Which operand is which, and how they
// lie, is in DESIGN.md.
#pragma once
#include <memory>

#include "engine.h"
#include "lanes.h"
#include "matrix.h"

namespace dense {

// Geometry is a layer of n x in to n x out features. Weights are blocked: out/B x in x B, out and in rounded up to
// blocks with zeros.
struct Geometry {
  int n, in, out, block;
  int blocks(int features) const { return (features + block - 1) / block; }
  int whole(int features) const { return blocks(features) * block; }
  // Blocks of packed features are a cache line more than their size apart: sums run across them, and at a multiple of
  // 4 KiB they would all fall into one set of the first cache.
  size_t stride(int rows) const { return (size_t)rows * block + 16; }
};

// Sums over features are cut into groups of so many.
constexpr int features_group = 128;

// Kernels are what is compiled for one instruction set. Each computes on the calling thread.
struct Kernels {
  int block;
  // pack puts blocks [first, last) of n x features into v: features/B x n x B, `stride` floats from block to block,
  // with zeros behind the last feature.
  void (*pack)(int n, int features, const float *x, int first, int last, float *v, size_t stride);
  // turn puts images [B*first, B*last) into u: n/B x whole x B, with zeros behind the last image and feature.
  void (*turn)(int n, int features, int whole, const float *x, int first, int last, float *u);
  // unpack ends a forward pass: blocks [first, last) of m go to y, n x out, with what the flags ask for.
  void (*unpack)(const Geometry &g, const float *m, const float *bias, float *y, int flags, int first, int last);
  // back turns m, n/B x rows x B with `stride` floats from block to block, to features [first, first + rows) of x,
  // n x in.
  void (*back)(int n, int in, const float *m, size_t stride, float *x, int first, int rows);
  // bias sums blocks [first, last) of packed dy over images.
  void (*bias)(const Geometry &g, const float *m, float *db, int first, int last);
  // Products of vectors [first, last), onto what is there or instead of it: see matrix::Operands.
  void (*product)(const matrix::Operands &o, int first, int last, bool more);
  void (*gradient)(const matrix::Operands &o, int first, int last, bool more);
};

const Kernels *kernels(int path);
const Kernels *kernels_avx512();
const Kernels *kernels_avx2();
const Kernels *kernels_avx2_wide();
const Kernels *kernels_portable();

// Layer is a dense layer with its workspace.
class Layer {
public:
  Layer(threads::Team *team, const ck_dense_desc &d);
  void forward(const float *x, const float *w, const float *bias, float *y);
  void data(const float *dy, const float *w, float *dx);
  void gradient(const float *x, const float *dy, float *dw, float *db);

private:
  void pack(int features, const float *x, float *v);
  threads::Team *team;
  const Kernels *k;
  Geometry g;
  int flags;
  int rows = 0; // of inputs that data works on at a time
  size_t gathered = 0, part = 0; // floats that a thread has in data: of the weights, and with what comes out of them
  lanes::Memory inputs, outputs; // packed
  lanes::Memory parts; // those, by thread
};

} // namespace dense
