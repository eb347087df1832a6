// Response normalisation over five neighbouring maps, max-pooling of what it yields, and on the way back the rectifier
// before both, in one pass over memory each way. A band of three rows of normalised maps is all that ever exists:
//
//   a row of x  -- normalise -->  band[row % 3]  -- when a window's rows are there: pool -->  a row of y, picks
//   dy, picks   -- give away -->  band[row % 3]  -- when no window reaches it: gradient  -->  a row of dx
//
// Every number is computed as the separate ops compute it, in the same order: the bits are theirs.
#include <vector>

#include "matrix.h"
#include "norm.h"
#include "threads.h"

const norm::Kernels *norm::of_path(int path) {
  return matrix::of_path(path, kernels_portable, kernels_avx2, kernels_avx2, kernels_avx512)();
}

extern "C" {

int ck_normpool_fits(const ck_normpool_desc *d) {
  return norm::fits(d->lrn) && d->pool.kernel == norm::side && !d->pool.ties_all && d->pool.stride <= norm::side;
}

void ck_normpool_forward(ck_team *team, const ck_normpool_desc *d, const float *x, float *y, uint8_t *picks) {
  const size_t in = (size_t)d->lrn.c * d->lrn.h * d->lrn.w, out = (size_t)d->lrn.c * d->pool.out_h * d->pool.out_w;
  const norm::Kernels *k = norm::of_path(d->lrn.path);
  team->images(*d, in, [&](const ck_normpool_desc &part, size_t first) {
    std::vector<float> band(norm::side * (size_t)d->lrn.c * d->lrn.w);
    const norm::Image im(&part, band.data());
    for (size_t n = first; n < first + part.n; n++) k->pooled_forward(im, x + n * in, y + n * out, picks + n * out);
  });
}

void ck_normpool_backward(ck_team *team, const ck_normpool_desc *d, const float *x, const uint8_t *picks,
    const float *dy, float *dx) {
  const size_t in = (size_t)d->lrn.c * d->lrn.h * d->lrn.w, out = (size_t)d->lrn.c * d->pool.out_h * d->pool.out_w;
  const norm::Kernels *k = norm::of_path(d->lrn.path);
  team->images(*d, in, [&](const ck_normpool_desc &part, size_t first) {
    std::vector<float> band(norm::side * (size_t)d->lrn.c * d->lrn.w);
    const norm::Image im(&part, band.data());
    for (size_t n = first; n < first + part.n; n++)
      k->pooled_backward(im, x + n * in, picks + n * out, dy + n * out, dx + n * in);
  });
}

} // extern "C"
