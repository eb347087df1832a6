// Gradients of the filters of a convolution of a plain map or two (a grey network's input) to blocked ones, stride 1:
// too shallow for Winograd's algorithm to pay, and what oneDNN is slow at.
#pragma once
#include <memory>

#include "engine.h"
#include "lanes.h"

namespace shallow {

// Geometry is a convolution of n x in x h x w to n x out x oh x ow by kernel x kernel filters at stride 1. What lies
// outside the image is zero.
struct Geometry {
  int n, in, h, w, out, oh, ow, kernel, pad_top, pad_left;
  int rows() const { return oh + kernel - 1; } // that windows touch
  int columns() const { return ow + kernel - 1; }
};

// Kernels are what is compiled for one instruction set and kernel size. gradient overwrites dw, which is
// out/B x in x kernel x kernel x B, and db if it is not null, with the sums over images [first, last). padded is room
// for one image with its border.
struct Kernels {
  int kernel;
  void (*gradient)(const Geometry &g, const float *x, const float *dy, float *dw, float *db, int first, int last,
      float *padded);
};
const Kernels *kernels_avx512(int kernel);
const Kernels *kernels_avx2(int kernel);
const Kernels *kernels_avx2_wide(int kernel);
const Kernels *kernels_portable(int kernel);

// Pass is the gradient, with workspace.
class Pass {
public:
  Pass(threads::Team *team, const Geometry &g, const Kernels *k);
  void gradient(const float *x, const float *dy, float *dw, float *db);

private:
  Geometry g;
  const Kernels *k;
  size_t image; // with its border
  lanes::Memory padded; // one by thread
  lanes::Sum sum;
};

// plan is null where the convolution is not such a one.
std::unique_ptr<Pass> plan(threads::Team *team, const ck_conv_desc &d);

} // namespace shallow
