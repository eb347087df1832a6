// Convolution by oneDNN's direct algorithms, a lane of images at a time: its primitives' sums may depend on how many
// images they are made for, so every lane has one of its own size, on one thread.
#pragma once
#include <memory>
#include <vector>

#include "onednn.h"

namespace direct {

// Passes is which passes are meant.
struct Passes {
  bool forward, data, gradient;
};

class Conv {
public:
  // weights is the layout they lie in, or null: then oneDNN chooses, and weights() says which.
  Conv(threads::Team *team, const ck_conv_desc &d, Passes wanted, const ck_layout *weights);
  const ck_layout *weights() const { return layout; }
  void forward(const float *x, const float *w, const float *b, float *y);
  void data(const float *dy, const float *w, float *dx);
  void gradient(const float *x, const float *dy, float *dw, float *db);

  // slow says of which passes oneDNN has nothing but plain loops, hundreds of times slower than the rest.
  Passes slow() const { return {fwd.slow, bwd.slow, wts.slow}; }

private:
  struct Primitives; // of all passes for one number of images
  // Pass has a primitive for each size of lanes and each thread.
  struct Pass {
    std::vector<onednn::Run> runs[2];
    bool slow = false;       // has nothing but plain loops
    onednn::md inner;        // of the weights, for all lanes
    onednn::Operand weights; // converted once for all lanes
  };
  void make(int size, const Passes &wanted);
  template <class PD, class F> void fill(Pass &pass, int size, const PD &pd, bool out, F operands);
  onednn::Run &of(Pass &pass, int first, int last, int thread) { return pass.runs[last - first - least][thread]; }
  size_t image_x() const { return (size_t)d.in * d.h * d.w; }
  size_t image_y() const { return (size_t)d.out * d.out_h * d.out_w; }

  threads::Team *team;
  ck_conv_desc d;
  const ck_layout *layout;
  int least; // images of a lane; some have one more
  Pass fwd, bwd, wts;
  std::unique_ptr<lanes::Sum> sum;
};

} // namespace direct
