// Vectors of eight maps, and response normalisation over five neighbouring maps: what maps.cc and normpool.cc share.
// Built without contraction, which both say before they include this, so that every clone gives the same bits.
#pragma once
#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstring>

#ifdef __SSE2__
#include <xmmintrin.h>
#endif

#include "engine.h"

#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#define INLINE inline __attribute__((always_inline))

namespace {

// V is eight floats, whatever the instruction set makes of them. Every operation on it is elementwise.
typedef float V __attribute__((vector_size(32)));
constexpr int lanes = 8;

INLINE V load(const float *p) {
  V v;
  memcpy(&v, p, sizeof v);
  return v;
}
INLINE void store(float *p, V v) { memcpy(p, &v, sizeof v); }

// power is s^-beta; the paper's 0.75 needs only square roots, which are correctly rounded everywhere.
INLINE float power(float s, float beta) {
  if (beta == 0.75f) {
    float r = std::sqrt(s);
    return 1.0f / (r * std::sqrt(r));
  }
  return std::pow(s, -beta);
}
INLINE V roots(V s) {
#ifdef __SSE2__ // the compiler keeps scalar roots for the sake of errno; halves through memory would stall
  typedef float H __attribute__((vector_size(16)));
  H low = __builtin_shufflevector(s, s, 0, 1, 2, 3), high = __builtin_shufflevector(s, s, 4, 5, 6, 7);
  low = (H)_mm_sqrt_ps((__m128)low);
  high = (H)_mm_sqrt_ps((__m128)high);
  s = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7);
#else
  for (int i = 0; i < lanes; i++) s[i] = std::sqrt(s[i]);
#endif
  return s;
}
INLINE V powers(V s, float beta) {
  if (__builtin_expect(beta == 0.75f, 1)) {
    V r = roots(s);
    return 1.0f / (r * roots(r));
  }
  float a[lanes];
  store(a, s);
  for (int i = 0; i < lanes; i++) a[i] = std::pow(a[i], -beta);
  return load(a);
}

// Normalisation over five neighbouring maps in blocks, as the paper has it: all channels of one pixel after another,
// eight at a time, and neighbours by shifting vectors that are at hand. The sums are those of the general kernels
// above, to the bit.

constexpr int five_vectors = 128; // of one pixel: up to 1024 maps

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
  V scaled[five_vectors], q[five_vectors + 1];
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

INLINE bool is_five(const ck_lrn_desc *d) {
  return !d->space && d->size == 5 && d->block >= lanes && d->c / lanes <= five_vectors;
}

// Clip is a window's part inside the image.
struct Clip {
  int y0, y1, x0, x1;
  Clip(const ck_pool_desc *d, int oy, int ox) {
    int y = oy * d->stride - d->pad_top, x = ox * d->stride - d->pad_left;
    y0 = y < 0 ? 0 : y;
    x0 = x < 0 ? 0 : x;
    y1 = y + d->kernel > d->h ? d->h : y + d->kernel;
    x1 = x + d->kernel > d->w ? d->w : x + d->kernel;
  }
};

// Block is the channels of one pixel: B floats, 1, 8 or 16.
template <int B> struct Block { typedef float V __attribute__((vector_size(4 * B))); };

} // namespace
