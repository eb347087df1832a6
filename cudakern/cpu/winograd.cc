// The driver of Winograd convolution: which passes of which convolutions it does with which tiles, and their workspace.
#include "winograd.h"

namespace winograd {

const Kernels *kernels(int path, int m, int r) {
  return matrix::of_path(path, kernels_portable, kernels_avx2, kernels_avx2_wide, kernels_avx512)(m, r);
}

namespace {

// A line of the cache between one point's matrix and the next: see Work.
constexpr size_t line = 16;

// chunk is how many tiles are worked on at a time, of `all` in a row. Enough for the filters' matrices to be read
// seldom, few enough for the rest to stay in the cache; a multiple of the rows of the matrix products' tiles or of the
// groups that gradients are summed in, so that it does not reach the bits.
int chunk(const Geometry &g, const Kernels *k, int all, bool gradient, bool small) {
  const int unit = gradient ? matrix::rows_group : 12;
  if (small) return unit;
  const size_t points = (size_t)(k->m + k->r - 1) * (k->m + k->r - 1), tile = points * (g.c + g.k) * sizeof(float);
  const size_t room = gradient ? 8 << 20 : 1 << 20;
  int most = (int)(room / tile), pieces, n;
  if (most < 48) most = 48;
  pieces = (all + most - 1) / most;
  n = (all + pieces - 1) / pieces;
  return (n + unit - 1) / unit * unit;
}

} // namespace

Pass::Pass(threads::Team *team, const Geometry &geometry, const Kernels *kernels, bool gradient, bool small)
    : team(team), g(geometry), k(kernels), work(team->size()) {
  const size_t points = (size_t)(k->m + k->r - 1) * (k->m + k->r - 1);
  const int each = tiling(g, k->m).each(), lanes = lanes::count(g.n), many = 4 * team->size();
  pieces = team->size() == 1 ? 1 : g.n < many ? g.n : many;
  const int tiles = chunk(g, k, (g.n + (gradient ? lanes : pieces) - 1) / (gradient ? lanes : pieces) * each, gradient,
      small);
  const size_t su = (size_t)g.c * g.k + line, sv = (size_t)g.c * tiles + line, sm = (size_t)g.k * tiles + line;
  const size_t filters = points * su, own = points * (sv + sm) + (gradient ? filters : 0);
  memory = lanes::allocate((gradient ? 0 : filters) + own * work.size());
  float *at = memory.get();
  for (Work &w : work) {
    w.tiles = tiles;
    w.su = su;
    w.sv = sv;
    w.sm = sm;
    w.u = gradient || &w == work.data() ? at : work[0].u;
    if (w.u == at) at += filters;
    w.v = at;
    w.m = at += points * sv;
    at += points * sm;
  }
  if (gradient)
    sum = std::make_unique<lanes::Sum>(team, g.n, (size_t)g.c * g.k * g.kernel * g.kernel / (g.phases ? phase_maps : 1),
        g.k);
}

void Pass::images(const float *x, const float *bias, float *y, int flags) {
  team->run(pieces, [&](int i, int thread) {
    k->forward(g, x, bias, y, flags, (long)g.n * i / pieces, (long)g.n * (i + 1) / pieces, work[thread]);
  });
}

void Pass::forward(const float *x, const float *w, const float *bias, float *y, int flags) {
  team->ranges(g.k / k->block, 1, 1, [&](size_t a, size_t b) { k->weights(g, w, a, b, work[0]); });
  images(x, bias, y, flags);
}

void Pass::data(const float *dy, const float *w, float *dx) {
  team->ranges(g.k / k->block, 1, 1, [&](size_t a, size_t b) { k->turned(g, w, a, b, work[0]); });
  images(dy, nullptr, dx, 0);
}

void Pass::gradient(const float *x, const float *dy, float *dw, float *db) {
  const auto lane = [&](int first, int last, float *dw, float *db, int thread) {
    k->gradient(g, x, dy, dw, db, first, last, work[thread]);
  };
  sum->run(lane, dw, db);
}

namespace {

// choose finds the tile that is expected to be fastest for a pass, or null if direct convolution is. Costs are
// multiplications of vectors: see DESIGN.md for where the factors come from.
const Kernels *choose(const ck_conv_desc &d, const Geometry &g, int r) {
  const Kernels *best = nullptr;
  const double direct = (double)g.oh * g.ow * r * r * g.c * g.k;
  double least = d.winograd == CK_WINOGRAD_ALWAYS ? 1e300 : direct;
  for (int i = 0; ck_tile(i); i++) {
    const int m = ck_tile(i) / 10;
    const Kernels *k = ck_tile(i) % 10 == r ? kernels(d.path, m, r) : nullptr;
    if (!k) continue;
    const double t = m + r - 1, tiles = tiling(g, m).each();
    const double cost = tiles * t * t * (1.05 * g.c * g.k + 4 * t * (g.c + g.k));
    if (cost < least) {
      least = cost;
      best = k;
    }
  }
  return best;
}

} // namespace

Plan plan(threads::Team *team, const ck_conv_desc &d) {
  Plan p;
  const int block = ck_block(d.path);
  if (d.winograd == CK_WINOGRAD_OFF || d.block_y != block) return p;
  const bool phases = d.stride == phase_stride && d.kernel > 2 * phase_stride && d.kernel <= 3 * phase_stride &&
      d.block_x == 1;
  if (!phases && (d.stride != 1 || d.block_x != block || (d.kernel != 3 && d.kernel != 5))) return p;
  const bool small = d.winograd == CK_WINOGRAD_ALWAYS;
  const int r = phases ? 3 : d.kernel;
  Geometry g = {d.n, phases ? d.in * phase_maps : d.in, d.h, d.w, d.out, d.out_h, d.out_w, d.pad_top, d.pad_left,
      phases, d.kernel};
  if (const Kernels *k = choose(d, g, r)) {
    p.forward.reset(new Pass(team, g, k, false, small));
    p.gradient.reset(new Pass(team, g, k, true, small));
  }
  if (phases || d.no_data) return p;
  Geometry back = {d.n, d.out, d.out_h, d.out_w, d.in, d.h, d.w, r - 1 - d.pad_top, r - 1 - d.pad_left, false,
      d.kernel};
  if (const Kernels *k = choose(d, back, r)) p.data.reset(new Pass(team, back, k, false, small));
  return p;
}

} // namespace winograd

extern "C" int ck_tile(int i) {
  static const int tiles[] = {43, 53, 35, 45};
  return i < (int)(sizeof tiles / sizeof *tiles) ? tiles[i] : 0;
}
