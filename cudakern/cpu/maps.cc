// Response normalisation and max-pooling over maps laid out n x c/block x h x w x block. Written for the compiler's
// vectoriser: inner loops run over the channels of a block, or over a row of pixels. Built without contraction, so that
// every clone below gives the same bits.
// cgo does not take these as flags.
#pragma GCC optimize("fp-contract=off", "no-math-errno", "no-trapping-math")
#include <vector>

#include "maps_kernels.h"
#include "norm.h"
#include "threads.h"

#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))

namespace {

// Strip is what normalisation across maps works on: all channels of one pixel (blocked maps) or of eight neighbouring
// pixels (plain maps), channel after channel, with zeros on both sides for the window. Strips come in groups: windows
// of blocked maps load across the stores that filled the strip, which is slow as long as those are under way.
struct Strips {
  int n, pixels, size, group, stride;
  std::vector<float> memory;
  Strips(const ck_lrn_desc *d)
      : n(d->c * (d->block == 1 ? lanes : 1)), pixels(d->block == 1 ? lanes : 1), size(d->size),
        group(d->block == 1 ? 1 : 16),
        stride(n + 2 * size * pixels), memory((size_t)group * stride, 0.f) {}
  float *row() { return memory.data() + size * pixels; }
};

// gather and scatter move a strip that begins at pixel p of image x; a strip of plain maps may end early.
INLINE void gather(const ck_lrn_desc *d, const float *x, int p, float *row) {
  int area = d->h * d->w;
  if (d->block == 1) {
    int n = area - p < lanes ? area - p : lanes;
    for (int c = 0; c < d->c; c++)
      for (int i = 0; i < n; i++) row[c * lanes + i] = x[(size_t)c * area + p + i];
    return;
  }
  for (int c = 0; c < d->c; c += lanes)
    store(row + c, load(x + ((size_t)(c / d->block) * area + p) * d->block + c % d->block));
}
INLINE void scatter(const ck_lrn_desc *d, const float *row, int p, float *x) {
  int area = d->h * d->w;
  if (d->block == 1) {
    int n = area - p < lanes ? area - p : lanes;
    for (int c = 0; c < d->c; c++)
      for (int i = 0; i < n; i++) x[(size_t)c * area + p + i] = row[c * lanes + i];
    return;
  }
  for (int c = 0; c < d->c; c += lanes)
    store(x + ((size_t)(c / d->block) * area + p) * d->block + c % d->block, load(row + c));
}

// window sums `size` channels from the first-th neighbour on, in ascending order, at place i of a strip.
INLINE V window(const float *row, int i, int first, int size, int pixels) {
  V s = {};
  for (int j = 0; j < size; j++) s += load(row + i + (first + j) * pixels);
  return s;
}

} // namespace

extern "C" {

CLONES static void maps_forward(const ck_lrn_desc *desc, const float *x, float *y, float *v, float *sq,
    const Strips *strips) {
  const ck_lrn_desc d = *desc;
  const int n = strips->n, pixels = strips->pixels, stride = strips->stride, area = d.h * d.w;
  for (int p = 0; p < area; p += pixels * strips->group) {
    int left = (area - p + pixels - 1) / pixels, group = left < strips->group ? left : strips->group;
    for (int k = 0; k < group; k++) {
      gather(&d, x, p + k * pixels, v + k * stride);
      for (int i = k * stride; i < k * stride + n; i += lanes) store(sq + i, load(v + i) * load(v + i));
    }
    for (int k = 0; k < group; k++) {
      for (int i = k * stride; i < k * stride + n; i += lanes) {
        V s = d.k + d.alpha * window(sq, i, -(d.size / 2), d.size, pixels);
        store(v + i, load(v + i) * powers(s, d.beta));
      }
      scatter(&d, v + k * stride, p + k * pixels, y);
    }
  }
}

// dx_i = dy_i s_i^-b - 2 a b x_i sum_j dy_j x_j s_j^-b / s_j over the windows j that hold i: the mirrored window.
CLONES static void maps_backward(const ck_lrn_desc *desc, const float *x, const float *dy, float *dx, float *v,
    float *t, float *g,
                                 float *q, const Strips *strips) {
  const ck_lrn_desc d = *desc;
  const int n = strips->n, pixels = strips->pixels, stride = strips->stride, area = d.h * d.w;
  const float f = 2 * d.alpha * d.beta;
  const int mirrored = -(d.size - 1 - d.size / 2);
  for (int p = 0; p < area; p += pixels * strips->group) {
    int left = (area - p + pixels - 1) / pixels, group = left < strips->group ? left : strips->group;
    for (int k = 0; k < group; k++) {
      gather(&d, x, p + k * pixels, v + k * stride);
      gather(&d, dy, p + k * pixels, g + k * stride);
      for (int i = k * stride; i < k * stride + n; i += lanes) store(t + i, load(v + i) * load(v + i));
    }
    for (int k = 0; k < group; k++)
      for (int i = k * stride; i < k * stride + n; i += lanes) {
        V s = d.k + d.alpha * window(t, i, -(d.size / 2), d.size, pixels);
        V w = powers(s, d.beta) * load(g + i);
        store(g + i, w);
        store(q + i, w * load(v + i) / s);
      }
    for (int k = 0; k < group; k++) {
      for (int i = k * stride; i < k * stride + n; i += lanes)
        store(v + i, load(g + i) - f * load(v + i) * window(q, i, mirrored, d.size, pixels));
      scatter(&d, v + k * stride, p + k * pixels, dx);
    }
  }
}

// space_scale is k + a * sum of squares over the size x size places around (y, x) of one map of a block.
static float space_scale(const ck_lrn_desc *d, const float *map, int y, int x, int i) {
  int lo = d->size / 2;
  float s = 0;
  for (int yy = y - lo; yy < y - lo + d->size; yy++)
    for (int xx = x - lo; xx < x - lo + d->size; xx++)
      if (yy >= 0 && yy < d->h && xx >= 0 && xx < d->w) {
        float v = map[((size_t)yy * d->w + xx) * d->block + i];
        s += v * v;
      }
  return d->k + d->alpha * s;
}

static void space_forward(const ck_lrn_desc *d, const float *x, float *y) {
  size_t plane = (size_t)d->h * d->w * d->block;
  for (int m = 0; m < d->n * (d->c / d->block); m++)
    for (int py = 0; py < d->h; py++)
      for (int px = 0; px < d->w; px++)
        for (int i = 0; i < d->block; i++) {
          size_t at = m * plane + ((size_t)py * d->w + px) * d->block + i;
          y[at] = x[at] * power(space_scale(d, x + m * plane, py, px, i), d->beta);
        }
}

static void space_backward(const ck_lrn_desc *d, const float *x, const float *dy, float *dx) {
  size_t plane = (size_t)d->h * d->w * d->block;
  std::vector<float> t(plane), p(plane);
  int lo = d->size - 1 - d->size / 2;
  float f = 2 * d->alpha * d->beta;
  for (int m = 0; m < d->n * (d->c / d->block); m++) {
    const float *xm = x + m * plane, *gm = dy + m * plane;
    for (size_t at = 0; at < plane; at++) {
      int i = at % d->block, px = at / d->block % d->w, py = at / d->block / d->w;
      float s = space_scale(d, xm, py, px, i);
      p[at] = power(s, d->beta);
      t[at] = gm[at] * xm[at] * p[at] / s;
    }
    for (size_t at = 0; at < plane; at++) {
      int i = at % d->block, px = at / d->block % d->w, py = at / d->block / d->w;
      float s = 0;
      for (int yy = py - lo; yy < py - lo + d->size; yy++)
        for (int xx = px - lo; xx < px - lo + d->size; xx++)
          if (yy >= 0 && yy < d->h && xx >= 0 && xx < d->w) s += t[((size_t)yy * d->w + xx) * d->block + i];
      dx[m * plane + at] = gm[at] * p[at] - f * xm[at] * s;
    }
  }
}

static void lrn_forward(const ck_lrn_desc *d, const float *x, float *y) {
  if (d->space) return space_forward(d, x, y);
  if (norm::fits(*d)) return norm::of_path(d->path)->forward(*d, x, y);
  size_t image = (size_t)d->c * d->h * d->w;
  Strips v(d), sq(d);
  for (int n = 0; n < d->n; n++) maps_forward(d, x + n * image, y + n * image, v.row(), sq.row(), &v);
}

static void lrn_backward(const ck_lrn_desc *d, const float *x, const float *dy, float *dx) {
  if (d->space) return space_backward(d, x, dy, dx);
  if (norm::fits(*d)) return norm::of_path(d->path)->backward(*d, x, dy, dx);
  size_t image = (size_t)d->c * d->h * d->w;
  Strips v(d), t(d), g(d), q(d);
  for (int n = 0; n < d->n; n++)
    maps_backward(d, x + n * image, dy + n * image, dx + n * image, v.row(), t.row(), g.row(), q.row(), &v);
}

void ck_lrn_forward(ck_team *team, const ck_lrn_desc *d, const float *x, float *y) {
  const size_t image = (size_t)d->c * d->h * d->w;
  team->images(*d, image, [&](const ck_lrn_desc &part, size_t n) { lrn_forward(&part, x + n * image, y + n * image); });
}

void ck_lrn_backward(ck_team *team, const ck_lrn_desc *d, const float *x, const float *dy, float *dx) {
  const size_t image = (size_t)d->c * d->h * d->w;
  team->images(*d, image, [&](const ck_lrn_desc &part, size_t n) {
    lrn_backward(&part, x + n * image, dy + n * image, dx + n * image);
  });
}

} // extern "C"

namespace {

// places calls f with the places of a window: of K x K pixels, all of which there are, or of those that Clip leaves
// (K is 0).
template <int K, class F> INLINE void places(const ck_pool_desc *d, int oy, int ox, F f) {
  if (K > 0) {
    const int y0 = oy * d->stride - d->pad_top, x0 = ox * d->stride - d->pad_left;
#pragma GCC unroll 3
    for (int y = 0; y < K; y++)
#pragma GCC unroll 3
      for (int x = 0; x < K; x++) f((size_t)(y0 + y) * d->w + x0 + x);
    return;
  }
  const Clip c(d, oy, ox);
  for (int y = c.y0; y < c.y1; y++)
    for (int x = c.x0; x < c.x1; x++) f((size_t)y * d->w + x);
}

// windows calls whole(y, x) for the windows of a map that lie inside it, cut(y, x) for the others, in order.
template <class W, class C> INLINE void windows(const ck_pool_desc *d, W whole, C cut) {
  // The first window inside, and the first one behind those.
  const auto first = [&](int pad) { return (pad + d->stride - 1) / d->stride; };
  const auto last = [&](int pad, int size, int out) {
    const int n = size + pad < d->kernel ? 0 : (size + pad - d->kernel) / d->stride + 1;
    return n < out ? n : out;
  };
  const int left = first(d->pad_left), right = last(d->pad_left, d->w, d->out_w);
  const int top = first(d->pad_top), bottom = last(d->pad_top, d->h, d->out_h);
  for (int y = 0; y < d->out_h; y++) {
    const bool inside = y >= top && y < bottom;
    for (int x = 0; x < d->out_w; x++)
      if (inside && x >= left && x < right) whole(y, x);
      else cut(y, x);
  }
}

template <int B, int K> INLINE void pool_forward(const ck_pool_desc *d, const float *x, float *y) {
  typedef typename Block<B>::V V;
  const size_t plane = (size_t)d->h * d->w * B;
  for (int m = 0; m < d->n * (d->c / B); m++, x += plane, y += (size_t)d->out_h * d->out_w * B) {
    V best;
    const auto larger = [&](size_t at) __attribute__((always_inline)) {
      V v;
      memcpy(&v, x + at * B, sizeof v);
      best = best >= v ? best : v; // what is no number stays in sight
    };
    const auto finish = [&](int oy, int ox) __attribute__((always_inline)) {
      memcpy(y + ((size_t)oy * d->out_w + ox) * B, &best, sizeof best);
    };
    windows(
        d,
        [&](int oy, int ox) __attribute__((always_inline)) {
          best = V{} - FLT_MAX;
          places<K>(d, oy, ox, larger);
          finish(oy, ox);
        },
        [&](int oy, int ox) {
          best = V{} - FLT_MAX;
          places<0>(d, oy, ox, larger);
          finish(oy, ox);
        });
  }
}

template <int B, int K> INLINE void pool_backward(const ck_pool_desc *d, const float *x, const float *y,
    const float *dy, float *dx) {
  typedef typename Block<B>::V V;
  const size_t plane = (size_t)d->h * d->w * B, outs = (size_t)d->out_h * d->out_w * B;
  for (int m = 0; m < d->n * (d->c / B); m++, x += plane, dx += plane, y += outs, dy += outs) {
    memset(dx, 0, sizeof(float) * plane);
    V top, left, none = {}; // left: the gradient still to be given away
    const auto begin = [&](int oy, int ox) __attribute__((always_inline)) {
      memcpy(&top, y + ((size_t)oy * d->out_w + ox) * B, sizeof top);
      memcpy(&left, dy + ((size_t)oy * d->out_w + ox) * B, sizeof left);
    };
    const auto give = [&](size_t at) __attribute__((always_inline)) {
      V v, g;
      memcpy(&v, x + at * B, sizeof v);
      memcpy(&g, dx + at * B, sizeof g);
      g += v == top ? left : none;
      memcpy(dx + at * B, &g, sizeof g);
      if (!d->ties_all) left = v == top ? none : left;
    };
    windows(
        d,
        [&](int oy, int ox) __attribute__((always_inline)) {
          begin(oy, ox);
          places<K>(d, oy, ox, give);
        },
        [&](int oy, int ox) {
          begin(oy, ox);
          places<0>(d, oy, ox, give);
        });
  }
}

} // namespace

extern "C" {

CLONES static void pool_forward_of(const ck_pool_desc *d, const float *x, float *y) {
  if (d->block == 16) return d->kernel == 3 ? pool_forward<16, 3>(d, x, y) : pool_forward<16, 0>(d, x, y);
  if (d->block == 8) return d->kernel == 3 ? pool_forward<8, 3>(d, x, y) : pool_forward<8, 0>(d, x, y);
  pool_forward<1, 0>(d, x, y);
}

CLONES static void pool_backward_of(const ck_pool_desc *d, const float *x, const float *y, const float *dy, float *dx) {
  const bool three = d->kernel == 3;
  if (d->block == 16) return three ? pool_backward<16, 3>(d, x, y, dy, dx) : pool_backward<16, 0>(d, x, y, dy, dx);
  if (d->block == 8) return three ? pool_backward<8, 3>(d, x, y, dy, dx) : pool_backward<8, 0>(d, x, y, dy, dx);
  pool_backward<1, 0>(d, x, y, dy, dx);
}

void ck_pool_forward(ck_team *team, const ck_pool_desc *d, const float *x, float *y) {
  const size_t in = (size_t)d->c * d->h * d->w, out = (size_t)d->c * d->out_h * d->out_w;
  team->images(*d, in, [&](const ck_pool_desc &part, size_t n) { pool_forward_of(&part, x + n * in, y + n * out); });
}

void ck_pool_backward(ck_team *team, const ck_pool_desc *d, const float *x, const float *y, const float *dy,
    float *dx) {
  const size_t in = (size_t)d->c * d->h * d->w, out = (size_t)d->c * d->out_h * d->out_w;
  team->images(*d, in, [&](const ck_pool_desc &part, size_t n) {
    pool_backward_of(&part, x + n * in, y + n * out, dy + n * out, dx + n * in);
  });
}

void ck_maps_reorder(ck_team *team, int n, int c, int area, int from, int to, const float *src, float *dst) {
  const size_t image = (size_t)c * area;
  team->ranges(n, 1, team->enough(threads::Team::worth / image + 1), [&](size_t first, size_t last) {
    for (size_t i = first; i < last; i++)
      for (int m = 0; m < c; m++) {
        const float *s = src + i * image + (size_t)(m / from) * area * from + m % from;
        float *t = dst + i * image + (size_t)(m / to) * area * to + m % to;
        for (int p = 0; p < area; p++) t[(size_t)p * to] = s[(size_t)p * from];
      }
  });
}

} // extern "C"
