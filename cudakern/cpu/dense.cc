// The driver of dense layers.
#include "dense.h"

#include <algorithm>
#include <cstring>

namespace dense {

const Kernels *kernels(int path) {
  return matrix::of_path(path, kernels_portable, kernels_avx2, kernels_avx2_wide, kernels_avx512)();
}

namespace {

// How products are cut, which does not reach the bits. Outputs by panels of vectors that registers hold. Sums by what
// meets every panel while it stays in the second cache: of the inputs, for so many features at a time (forward), and of
// the weights, for so many inputs and features (data).
constexpr int unit = 12, forward_features = 512, data_features = 256, data_rows = 96;
static_assert(forward_features % features_group == 0 && data_features % features_group == 0, "groups stay whole");

} // namespace

Layer::Layer(threads::Team *team, const ck_dense_desc &d)
    : team(team), k(kernels(d.path)), g{d.n, d.in, d.out, k->block},
      flags(matrix::flags(d)),
      inputs(lanes::allocate(g.stride(g.n) * g.blocks(g.in))),
      outputs(lanes::allocate(std::max(g.stride(g.n) * g.blocks(g.out), (size_t)g.whole(g.n) * g.whole(g.out)))) {
  if (d.no_data) return;
  rows = std::min((int)team->enough(data_rows), g.in);
  gathered = g.stride(rows) * data_features / g.block;
  part = gathered + g.stride(rows) * g.blocks(g.n);
  parts = lanes::allocate(part * team->size());
}

void Layer::pack(int features, const float *x, float *v) {
  team->ranges(g.blocks(features), 1, team->enough(32), [&](size_t a, size_t b) {
    k->pack(g.n, features, x, a, b, v, g.stride(g.n));
  });
}

void Layer::forward(const float *x, const float *w, const float *bias, float *y) {
  pack(g.in, x, inputs.get());
  const int all = g.blocks(g.in), step = forward_features / g.block;
  team->ranges(g.blocks(g.out), team->enough(unit), team->enough(unit), [&](size_t a, size_t b) {
    for (int from = 0; from < all; from += step) {
      const matrix::Operands o = {inputs.get() + from * g.stride(g.n),
          const_cast<float *>(w) + (size_t)from * g.block * g.block, outputs.get(), g.stride(g.n),
          (size_t)g.whole(g.in) * g.block, std::min(step, all - from), g.n, features_group};
      k->product(o, a, b, from > 0);
    }
    k->unpack(g, outputs.get(), bias, y, flags, a, b);
  });
}

// Here the weights are the rows, and images the vectors.
void Layer::data(const float *dy, const float *w, float *dx) {
  const int vectors = g.blocks(g.n), whole = g.whole(g.out), blocks = g.blocks(g.out);
  const int step = data_features / g.block;
  team->ranges(vectors, 1, team->enough(4), [&](size_t a, size_t b) {
    k->turn(g.n, g.out, whole, dy, a, b, outputs.get());
  });
  team->run((g.in + rows - 1) / rows, [&](int i, int thread) {
    const int first = rows * i, count = std::min(rows, g.in - first);
    float *weights = parts.get() + part * thread, *m = weights + gathered;
    for (int from = 0; from < blocks; from += step) {
      const int some = std::min(step, blocks - from);
      for (int b = 0; b < some; b++)
        memcpy(weights + b * g.stride(rows), w + ((size_t)(from + b) * g.whole(g.in) + first) * g.block,
            (size_t)count * g.block * sizeof(float));
      const matrix::Operands o = {weights, outputs.get() + (size_t)from * g.block * g.block, m, g.stride(rows),
          (size_t)whole * g.block, some, count, features_group};
      k->product(o, 0, vectors, from > 0);
    }
    k->back(g.n, g.in, m, g.stride(rows), dx, first, count);
  });
}

void Layer::gradient(const float *x, const float *dy, float *dw, float *db) {
  pack(g.in, x, inputs.get());
  pack(g.out, dy, outputs.get());
  const matrix::Operands o = {inputs.get(), dw, outputs.get(), g.stride(g.n), (size_t)g.whole(g.in) * g.block,
      g.blocks(g.in), g.n, features_group};
  team->ranges(g.blocks(g.out), team->enough(unit), team->enough(unit), [&](size_t a, size_t b) {
    k->gradient(o, a, b, false);
    if (db) k->bias(g, outputs.get(), db, a, b);
  });
}

} // namespace dense
