// Winograd convolution: what the driver (winograd.cc) and the kernels for each instruction set (winograd_kernels.h)
// share. Shapes, buffers and order of every sum are described in DESIGN.md.
#pragma once
#include <stddef.h>

#include <memory>
#include <vector>

#include "engine.h"
#include "lanes.h"
#include "matrix.h"

namespace winograd {

// Geometry is a convolution of stride 1 of n x c x h x w to n x k x oh x ow by r x r filters, as the transforms see it.
// c and k are multiples of the block. What lies outside the image is zero.
struct Geometry {
  int n, c, h, w, k, oh, ow, pad_top, pad_left;
  // The maps are phases of plain ones: channel (p*4 + s)*4 + t at (y, x) is plane p at (4y + s, 4x + t), and a filter
  // of `kernel` pixels every 4 is one of 3 x 3 pixels over the phases. h and w are then those of the plain maps, and
  // pad_top and pad_left count plain pixels.
  bool phases;
  int kernel; // of the filters as they are stored
};

constexpr int phase_stride = 4, phase_maps = phase_stride * phase_stride;

// Tiles cover the output: m x m pixels each, the last row and column ragged.
struct Tiling {
  int rows, columns;
  int each() const { return rows * columns; }
};
inline Tiling tiling(const Geometry &g, int m) { return {(g.oh + m - 1) / m, (g.ow + m - 1) / m}; }

// Work is memory a lane computes in, for up to `tiles` tiles at a time. Of each of the t*t points there is a matrix:
//   u  k/B x c x B      filters (forward, by data), or their gradient (by weights)
//   v  c/B x tiles x B  input
//   m  k/B x tiles x B  output, or its gradient
// Points lie a cache line more than a matrix apart, so that they do not all fall into the same sets of the cache.
struct Work {
  float *u, *v, *m;
  int tiles;
  size_t su, sv, sm; // floats from one point to the next
};

// Sums over maps are cut into groups of so many.
constexpr int maps_group(int maps) { return maps <= 64 ? 16 : 32; }

// Kernels are what is compiled for one instruction set, block and tile F(m x m, r x r). Each computes on the calling
// thread. Images [first, last) are a lane: what a lane yields does not depend on what else is computed.
struct Kernels {
  int m, r, block;
  // weights puts the transformed filters w (k/B x c x kernel x kernel x B) of blocks [first, last) of k into work.u;
  // turned takes the filters of the convolution that g is the backward pass of: c/B x k x r x r x B, each turned by
  // half a turn.
  void (*weights)(const Geometry &g, const float *w, int first, int last, const Work &work);
  void (*turned)(const Geometry &g, const float *w, int first, int last, const Work &work);
  void (*forward)(const Geometry &g, const float *x, const float *bias, float *y, int flags, int first, int last,
      const Work &work);
  // gradient overwrites dw, laid out like w, and db if it is not null, with the sums over the lane's images.
  void (*gradient)(const Geometry &g, const float *x, const float *dy, float *dw, float *db, int first, int last,
      const Work &work);
};

// kernels finds those of a path (CK_AVX512 ...), or null.
const Kernels *kernels(int path, int m, int r);
const Kernels *kernels_avx512(int m, int r);
const Kernels *kernels_avx2(int m, int r);
const Kernels *kernels_avx2_wide(int m, int r);
const Kernels *kernels_portable(int m, int r);

// Pass is one direction of a convolution by Winograd's algorithm, with a workspace for each thread.
class Pass {
public:
  // small has it work on as few tiles at a time as it can, which is for tests: the bits are the same.
  Pass(threads::Team *team, const Geometry &g, const Kernels *k, bool gradient, bool small);
  void forward(const float *x, const float *w, const float *bias, float *y, int flags);
  void data(const float *dy, const float *w, float *dx);
  void gradient(const float *x, const float *dy, float *dw, float *db);
  const Kernels *tile() const { return k; }

private:
  void images(const float *x, const float *bias, float *y, int flags);
  threads::Team *team;
  Geometry g;
  const Kernels *k;
  int pieces; // that the images of forward and data are cut into
  std::vector<Work> work; // by thread; forward and data share the filters
  lanes::Memory memory;
  std::unique_ptr<lanes::Sum> sum; // of gradients
};

// Plan is which passes of a convolution are done by Winograd's algorithm: null where direct ones are expected faster.
struct Plan {
  std::unique_ptr<Pass> forward, data, gradient;
  bool any() const { return forward || data || gradient; }
};
Plan plan(threads::Team *team, const ck_conv_desc &d);

} // namespace winograd
