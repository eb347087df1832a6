// The kernels of norm.h, compiled once for each instruction set: KERNELS is the name they get. A file that includes
// this has turned contraction off: a fused product and sum would not be the bits of the others.
#include <cstdint>

#include "maps_kernels.h"
#include "norm.h"

namespace {

static_assert(lanes == norm::width, "norm.h knows how wide a vector is");

// Normalisation over five neighbouring maps in blocks, as the paper has it: all channels of one pixel after another,
// eight at a time, and neighbours by shifting vectors that are at hand. The sums are those of the general kernels of
// maps.cc, to the bit.

// five sums channels i-2 .. i+2 of the middle one of three neighbouring vectors, in ascending order.
INLINE V five(V before, V at, V behind) {
  typedef int I __attribute__((vector_size(32)));
  V s = __builtin_shuffle(before, at, I{6, 7, 8, 9, 10, 11, 12, 13});
  s += __builtin_shuffle(before, at, I{7, 8, 9, 10, 11, 12, 13, 14});
  s += at;
  s += __builtin_shuffle(at, behind, I{1, 2, 3, 4, 5, 6, 7, 8});
  s += __builtin_shuffle(at, behind, I{2, 3, 4, 5, 6, 7, 8, 9});
  return s;
}

// Blocks are the pixels of one operand, in order: where they begin in the first block of maps, and how far it is to the
// same place in the next block.
template <class F> struct Blocks {
  F *at;
  size_t next;
};
// eight is where the k-th vector of a pixel lies, counted from the pixel's place in the first block.
template <int B> INLINE size_t eight(size_t next, int k) { return (size_t)(k * lanes / B) * next + k * lanes % B; }

// five_forward does `pixels` neighbouring pixels of an image.
template <int B> INLINE void five_forward(const ck_lrn_desc &d, int pixels, Blocks<const float> in, Blocks<float> out) {
  const int n = d.c / lanes;
  const float *x = in.at;
  float *y = out.at;
  for (int p = 0; p < pixels; p++, x += B, y += B) {
    V before = {}, v = load(x), at = v * v;
    for (int k = 0; k < n; k++) {
      V next = k + 1 < n ? load(x + eight<B>(in.next, k + 1)) : V{};
      V behind = next * next, s = d.k + d.alpha * five(before, at, behind);
      store(y + eight<B>(out.next, k), v * powers(s, d.beta));
      before = at;
      at = behind;
      v = next;
    }
  }
}

// five_backward is its gradient, and with RELU that before the rectifier which x comes from: 0 where x is.
template <int B, bool RELU> INLINE void five_backward(const ck_lrn_desc &d, int pixels, Blocks<const float> in,
    Blocks<const float> gradient, Blocks<float> out) {
  const int n = d.c / lanes;
  const float *x = in.at, *dy = gradient.at;
  float *dx = out.at;
  const float f = 2 * d.alpha * d.beta;
  V scaled[norm::most_vectors], q[norm::most_vectors + 1];
  q[n] = V{};
  for (int p = 0; p < pixels; p++, x += B, dy += B, dx += B) {
    V before = {}, v = load(x), at = v * v;
    for (int k = 0; k < n; k++) {
      V next = k + 1 < n ? load(x + eight<B>(in.next, k + 1)) : V{};
      V behind = next * next, s = d.k + d.alpha * five(before, at, behind);
      scaled[k] = powers(s, d.beta) * load(dy + eight<B>(gradient.next, k));
      q[k] = scaled[k] * v / s;
      before = at;
      at = behind;
      v = next;
    }
    before = V{};
    for (int k = 0; k < n; k++) {
      V w = load(x + eight<B>(in.next, k)), g = scaled[k] - f * w * five(before, q[k], q[k + 1]);
      if (RELU) g = w > 0 ? g : V{};
      store(dx + eight<B>(out.next, k), g);
      before = q[k];
    }
  }
}

// Picks are those of the channels of a Block: a pick says which place of its window was the largest, the first of
// several, counted in rows. I is as wide as the numbers they are chosen by, U is how they are kept.
template <int B> struct Picks {
  typedef int32_t I __attribute__((vector_size(4 * B)));
  typedef uint8_t U __attribute__((vector_size(B)));
};

// window calls f(place, offset in a row of the band, row of the image) for the places of window (oy, ox).
template <class F> INLINE void window_places(const ck_pool_desc *d, int oy, int ox, F f) {
  const int y0 = oy * d->stride - d->pad_top, x0 = ox * d->stride - d->pad_left;
  if (y0 >= 0 && y0 + norm::side <= d->h && x0 >= 0 && x0 + norm::side <= d->w) {
#pragma GCC unroll 3
    for (int y = 0; y < norm::side; y++)
#pragma GCC unroll 3
      for (int x = 0; x < norm::side; x++) f(y * norm::side + x, x0 + x, y0 + y);
    return;
  }
  const Clip c(d, oy, ox);
  for (int y = c.y0; y < c.y1; y++)
    for (int x = c.x0; x < c.x1; x++) f((y - y0) * norm::side + x - x0, x, y);
}

template <int B> INLINE void pooled_forward(const norm::Image &im, const float *x, float *y, uint8_t *picks) {
  typedef typename Block<B>::V V;
  typedef typename Picks<B>::I I;
  typedef typename Picks<B>::U U;
  const ck_lrn_desc &l = im.d->lrn;
  const ck_pool_desc &p = im.d->pool;
  int there = 0; // rows that have been normalised
  for (int oy = 0; oy < p.out_h; oy++) {
    const int first = oy * p.stride - p.pad_top, end = first + norm::side < p.h ? first + norm::side : p.h;
    for (; there < end; there++)
      if (there >= first) // no window has those before
        five_forward<B>(l, l.w, {x + (size_t)there * l.w * B, im.next_x}, {im.row(there), im.next_band});
    for (int b = 0; b < l.c / B; b++) {
      const float *rows[norm::side];
      for (int r = 0; r < norm::side; r++) rows[r] = im.band + r * im.row_floats() + b * im.next_band;
      const size_t to = b * im.next_y + (size_t)oy * p.out_w * B;
      for (int ox = 0; ox < p.out_w; ox++) {
        V best = V{} - FLT_MAX;
        I pick = I{};
        window_places(&p, oy, ox, [&](int place, int at, int row) __attribute__((always_inline)) {
          V v;
          memcpy(&v, rows[row % norm::side] + (size_t)at * B, sizeof v);
          const I keep = best >= v;
          best = keep ? best : v;
          pick = keep ? pick : I{} + place;
        });
        memcpy(y + to + (size_t)ox * B, &best, sizeof best);
        const U u = __builtin_convertvector(pick, U);
        memcpy(picks + to + (size_t)ox * B, &u, sizeof u);
      }
    }
  }
}

template <int B, bool RELU>
INLINE void pooled_backward(const norm::Image &im, const float *x, const uint8_t *picks, const float *dy, float *dx) {
  typedef typename Block<B>::V V;
  typedef typename Picks<B>::I I;
  typedef typename Picks<B>::U U;
  const ck_lrn_desc &l = im.d->lrn;
  const ck_pool_desc &p = im.d->pool;
  int begun = 0, done = 0; // rows whose place in the band is theirs; rows that are finished
  const auto begin = [&](int end) {
    for (; begun < end; begun++) memset(im.row(begun), 0, sizeof(float) * im.row_floats());
  };
  const auto finish = [&](int end) __attribute__((always_inline)) {
    for (; done < end; done++) {
      begin(done + 1);
      const size_t at = (size_t)done * l.w * B;
      five_backward<B, RELU>(l, l.w, {x + at, im.next_x}, {im.row(done), im.next_band}, {dx + at, im.next_x});
    }
  };
  for (int oy = 0; oy < p.out_h; oy++) {
    const int first = oy * p.stride - p.pad_top;
    finish(first < p.h ? first : p.h);
    begin(first + norm::side < p.h ? first + norm::side : p.h);
    for (int b = 0; b < l.c / B; b++) {
      float *rows[norm::side];
      for (int r = 0; r < norm::side; r++) rows[r] = im.band + r * im.row_floats() + b * im.next_band;
      const size_t from = b * im.next_y + (size_t)oy * p.out_w * B;
      for (int ox = 0; ox < p.out_w; ox++) {
        V give, none = {};
        U u;
        memcpy(&give, dy + from + (size_t)ox * B, sizeof give);
        memcpy(&u, picks + from + (size_t)ox * B, sizeof u);
        const I pick = __builtin_convertvector(u, I);
        window_places(&p, oy, ox, [&](int place, int at, int row) __attribute__((always_inline)) {
          V g;
          memcpy(&g, rows[row % norm::side] + (size_t)at * B, sizeof g);
          g += pick == place ? give : none;
          memcpy(rows[row % norm::side] + (size_t)at * B, &g, sizeof g);
        });
      }
    }
  }
  finish(p.h);
}

// Blocks of 16 or 8 maps.
void forward(const ck_lrn_desc &d, const float *x, float *y) {
  const int area = d.h * d.w;
  const size_t next = (size_t)area * d.block, image = (size_t)area * d.c;
  for (int n = 0; n < d.n; n++, x += image, y += image)
    if (d.block == 16) five_forward<16>(d, area, {x, next}, {y, next});
    else five_forward<8>(d, area, {x, next}, {y, next});
}

void backward(const ck_lrn_desc &d, const float *x, const float *dy, float *dx) {
  const int area = d.h * d.w;
  const size_t next = (size_t)area * d.block, image = (size_t)area * d.c;
  for (int n = 0; n < d.n; n++, x += image, dy += image, dx += image)
    if (d.block == 16) five_backward<16, false>(d, area, {x, next}, {dy, next}, {dx, next});
    else five_backward<8, false>(d, area, {x, next}, {dy, next}, {dx, next});
}

void forward_and_pool(const norm::Image &im, const float *x, float *y, uint8_t *picks) {
  if (im.d->lrn.block == 16) return pooled_forward<16>(im, x, y, picks);
  pooled_forward<8>(im, x, y, picks);
}

void backward_and_pool(const norm::Image &im, const float *x, const uint8_t *picks, const float *dy, float *dx) {
  const bool relu = im.d->relu;
  if (im.d->lrn.block == 16)
    return relu ? pooled_backward<16, true>(im, x, picks, dy, dx) : pooled_backward<16, false>(im, x, picks, dy, dx);
  return relu ? pooled_backward<8, true>(im, x, picks, dy, dx) : pooled_backward<8, false>(im, x, picks, dy, dx);
}

const norm::Kernels table = {forward, backward, forward_and_pool, backward_and_pool};

} // namespace

const norm::Kernels *norm::KERNELS() { return &table; }
