// The driver of gradients over a plain map or two.
#include "shallow.h"

#include "matrix.h"

namespace shallow {

namespace {

constexpr int most_maps = 2; // from three on oneDNN is as fast

const Kernels *kernels(int path, int kernel) {
  return matrix::of_path(path, kernels_portable, kernels_avx2, kernels_avx2_wide, kernels_avx512)(kernel);
}

} // namespace

Pass::Pass(threads::Team *team, const Geometry &g, const Kernels *k)
    : g(g), k(k), image((size_t)g.in * g.rows() * g.columns()), padded(lanes::allocate(image * team->size())),
      sum(team, g.n, (size_t)g.in * g.out * g.kernel * g.kernel, g.out) {}

void Pass::gradient(const float *x, const float *dy, float *dw, float *db) {
  const auto lane = [&](int first, int last, float *dw, float *db, int thread) {
    k->gradient(g, x, dy, dw, db, first, last, padded.get() + image * thread);
  };
  sum.run(lane, dw, db);
}

std::unique_ptr<Pass> plan(threads::Team *team, const ck_conv_desc &d) {
  if (d.block_x != 1 || d.block_y != ck_block(d.path) || d.stride != 1 || d.in > most_maps) return nullptr;
  const Kernels *k = kernels(d.path, d.kernel);
  if (!k) return nullptr;
  const Geometry g = {d.n, d.in, d.h, d.w, d.out, d.out_h, d.out_w, d.kernel, d.pad_top, d.pad_left};
  return std::make_unique<Pass>(team, g, k);
}

} // namespace shallow
