// Vectors of eight maps, powers and windows: what maps.cc and norm_kernels.h share. Built without contraction, which
// all say before they include this, so that it gives the same bits whatever it is compiled for.
#pragma once
#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstring>

#ifdef __SSE2__
#include <immintrin.h>
#endif

#include "engine.h"

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
#ifdef AVX // defined by who compiles for it: a target pragma is no news to the preprocessor
  return (V)_mm256_sqrt_ps((__m256)s);
#elif defined(__SSE2__) // the compiler keeps scalar roots for the sake of errno; halves through memory would stall
  typedef float H __attribute__((vector_size(16)));
  H low = __builtin_shufflevector(s, s, 0, 1, 2, 3), high = __builtin_shufflevector(s, s, 4, 5, 6, 7);
  low = (H)_mm_sqrt_ps((__m128)low);
  high = (H)_mm_sqrt_ps((__m128)high);
  return __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7);
#else
  for (int i = 0; i < lanes; i++) s[i] = std::sqrt(s[i]);
  return s;
#endif
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
