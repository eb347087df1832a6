// The driver of dense layers.
#include "dense.h"

namespace dense {

const Kernels *kernels(int path) {
  switch (path) {
  case CK_AVX512: return kernels_avx512();
  case CK_AVX2: return kernels_avx2();
  case CK_AVX2_WIDE: return kernels_avx2_wide();
  }
  return kernels_portable();
}

namespace {

// How products are cut, which does not reach the bits: outputs by panels of vectors that registers hold, and by as many
// of them as pay for handing them out; inputs by what of the weights stays in the second cache while it meets every
// image.
constexpr int unit = 12;
constexpr size_t cached = 192 << 10;

} // namespace

Layer::Layer(threads::Team *team, const ck_dense_desc &d)
    : team(team), k(kernels(d.path)), g{d.n, d.in, d.out, k->block},
      flags((d.bias ? add_bias : 0) | (d.accumulate ? accumulate : 0) | (d.relu ? rectify : 0)),
      inputs(lanes::allocate((size_t)g.whole(g.n) * g.whole(g.in))),
      outputs(lanes::allocate((size_t)g.whole(g.n) * g.whole(g.out))) {}

void Layer::pack(int features, const float *x, float *v) {
  team->ranges(g.blocks(features), 1, team->enough(32), [&](size_t a, size_t b) { k->pack(g.n, features, x, a, b, v); });
}

void Layer::forward(const float *x, const float *w, const float *bias, float *y) {
  pack(g.in, x, inputs.get());
  const matrix::Operands o = {inputs.get(), const_cast<float *>(w), outputs.get(), (size_t)g.n * g.block,
      (size_t)g.whole(g.in) * g.block, g.blocks(g.in), g.n, features_group};
  team->ranges(g.blocks(g.out), team->enough(unit), team->enough(unit), [&](size_t a, size_t b) {
    k->product(o, a, b);
    k->unpack(g, outputs.get(), bias, y, flags, a, b);
  });
}

// Here the weights are the rows, and images the vectors.
void Layer::data(const float *dy, const float *w, float *dx) {
  const size_t stride = (size_t)g.whole(g.in) * g.block;
  const int vectors = g.blocks(g.n), whole = g.whole(g.out);
  team->ranges(vectors, 1, team->enough(4), [&](size_t a, size_t b) { k->turn(g.n, g.out, whole, dy, a, b, outputs.get()); });
  size_t rows = cached / sizeof(float) / whole / unit * unit;
  rows = team->enough(rows < 2 * unit ? 2 * unit : rows);
  const int pieces = (int)((g.in + rows - 1) / rows);
  team->run(pieces, [&](int i, int) {
    const int first = (int)rows * i, last = first + (int)rows < g.in ? first + (int)rows : g.in;
    const matrix::Operands o = {w + (size_t)first * g.block, outputs.get(), inputs.get() + (size_t)first * g.block,
        stride, (size_t)whole * g.block, g.blocks(g.out), last - first, features_group};
    k->product(o, 0, vectors);
    k->back(g.n, g.in, inputs.get(), stride, dx, first, last);
  });
}

void Layer::gradient(const float *x, const float *dy, float *dw, float *db) {
  pack(g.in, x, inputs.get());
  pack(g.out, dy, outputs.get());
  const matrix::Operands o = {inputs.get(), dw, outputs.get(), (size_t)g.n * g.block,
      (size_t)g.whole(g.in) * g.block, g.blocks(g.in), g.n, features_group};
  team->ranges(g.blocks(g.out), team->enough(unit), team->enough(unit), [&](size_t a, size_t b) {
    k->gradient(o, a, b);
    if (db) k->bias(g, outputs.get(), db, a, b);
  });
}

} // namespace dense
