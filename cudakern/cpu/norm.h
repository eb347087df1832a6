// Response normalisation over five neighbouring maps in blocks, alone and with the max-pooling behind it and the
// rectifier before it: what is compiled for each instruction set (norm_kernels.h), with the same bits.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "engine.h"

namespace norm {

constexpr int side = 3; // of a pooling window; a band has so many rows
constexpr int width = 8; // maps of a vector
constexpr int most_vectors = 128; // of one pixel: up to 1024 maps

// Image is where one image's operands lie. next_ is the distance from a block of maps to the next.
struct Image {
  const ck_normpool_desc *d;
  size_t next_x, next_y, next_band; // floats
  float *band;                      // side rows, each of all blocks of maps
  Image(const ck_normpool_desc *d, float *band)
      : d(d), next_x((size_t)d->lrn.h * d->lrn.w * d->lrn.block),
        next_y((size_t)d->pool.out_h * d->pool.out_w * d->lrn.block), next_band((size_t)d->lrn.w * d->lrn.block),
        band(band) {}
  size_t row_floats() const { return next_band * (d->lrn.c / d->lrn.block); }
  float *row(int y) const { return band + y % side * row_floats(); }
};

struct Kernels {
  // Of whole operands' d.n images.
  void (*forward)(const ck_lrn_desc &d, const float *x, float *y);
  void (*backward)(const ck_lrn_desc &d, const float *x, const float *dy, float *dx);
  // Of one image: see normpool.cc.
  void (*pooled_forward)(const Image &im, const float *x, float *y, uint8_t *picks);
  void (*pooled_backward)(const Image &im, const float *x, const uint8_t *picks, const float *dy, float *dx);
};
const Kernels *kernels_avx512();
const Kernels *kernels_avx2();
const Kernels *kernels_portable();
const Kernels *of_path(int path); // of engine.h

// fits says whether kernels do a normalisation.
inline bool fits(const ck_lrn_desc &d) {
  return !d.space && d.size == 5 && d.block >= width && d.c / width <= most_vectors;
}

} // namespace norm
