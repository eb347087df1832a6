// Response normalisation over five neighbouring maps, max-pooling of what it yields, and on the way back the rectifier
// before both, in one pass over memory each way. A band of three rows of normalised maps is all that ever exists:
//
//   a row of x  -- normalise -->  band[row % 3]  -- when a window's rows are there: pool -->  a row of y, picks
//   dy, picks   -- give away -->  band[row % 3]  -- when no window reaches it: gradient  -->  a row of dx
//
// Every number is computed as the separate ops compute it, in the same order: the bits are theirs.
// cgo does not take these as flags.
#pragma GCC optimize("fp-contract=off", "no-math-errno", "no-trapping-math")
#include <cstdint>
#include <vector>

#include "maps_kernels.h"
#include "threads.h"

namespace {

constexpr int side = 3; // of a window; the band has so many rows

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

// Bytes are B picks: a pick says which place of its window was the largest, the first of several, counted in rows.
template <int B> struct Lanes {
  typedef float V __attribute__((vector_size(4 * B)));
  typedef int32_t I __attribute__((vector_size(4 * B)));
  typedef uint8_t U __attribute__((vector_size(B)));
};

// window calls f(place, offset in a row of the band, row of the image) for the places of window (oy, ox).
template <class F> INLINE void window_places(const ck_pool_desc *d, int oy, int ox, F f) {
  const int y0 = oy * d->stride - d->pad_top, x0 = ox * d->stride - d->pad_left;
  if (y0 >= 0 && y0 + side <= d->h && x0 >= 0 && x0 + side <= d->w) {
#pragma GCC unroll 3
    for (int y = 0; y < side; y++)
#pragma GCC unroll 3
      for (int x = 0; x < side; x++) f(y * side + x, x0 + x, y0 + y);
    return;
  }
  const Clip c(d, oy, ox);
  for (int y = c.y0; y < c.y1; y++)
    for (int x = c.x0; x < c.x1; x++) f((y - y0) * side + x - x0, x, y);
}

template <int B> INLINE void forward(const Image &im, const float *x, float *y, uint8_t *picks) {
  typedef typename Lanes<B>::V V;
  typedef typename Lanes<B>::I I;
  typedef typename Lanes<B>::U U;
  const ck_lrn_desc &l = im.d->lrn;
  const ck_pool_desc &p = im.d->pool;
  int there = 0; // rows that have been normalised
  for (int oy = 0; oy < p.out_h; oy++) {
    const int first = oy * p.stride - p.pad_top, end = first + side < p.h ? first + side : p.h;
    for (; there < end; there++)
      if (there >= first) // no window has those before
        five_forward<B>(l, l.w, {x + (size_t)there * l.w * B, im.next_x}, {im.row(there), im.next_band});
    for (int b = 0; b < l.c / B; b++) {
      const float *rows[side];
      for (int r = 0; r < side; r++) rows[r] = im.band + r * im.row_floats() + b * im.next_band;
      const size_t to = b * im.next_y + (size_t)oy * p.out_w * B;
      for (int ox = 0; ox < p.out_w; ox++) {
        V best = V{} - FLT_MAX;
        I pick = I{};
        window_places(&p, oy, ox, [&](int place, int at, int row) __attribute__((always_inline)) {
          V v;
          memcpy(&v, rows[row % side] + (size_t)at * B, sizeof v);
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
INLINE void backward(const Image &im, const float *x, const uint8_t *picks, const float *dy, float *dx) {
  typedef typename Lanes<B>::V V;
  typedef typename Lanes<B>::I I;
  typedef typename Lanes<B>::U U;
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
    begin(first + side < p.h ? first + side : p.h);
    for (int b = 0; b < l.c / B; b++) {
      float *rows[side];
      for (int r = 0; r < side; r++) rows[r] = im.band + r * im.row_floats() + b * im.next_band;
      const size_t from = b * im.next_y + (size_t)oy * p.out_w * B;
      for (int ox = 0; ox < p.out_w; ox++) {
        V give, none = {};
        U u;
        memcpy(&give, dy + from + (size_t)ox * B, sizeof give);
        memcpy(&u, picks + from + (size_t)ox * B, sizeof u);
        const I pick = __builtin_convertvector(u, I);
        window_places(&p, oy, ox, [&](int place, int at, int row) __attribute__((always_inline)) {
          V g;
          memcpy(&g, rows[row % side] + (size_t)at * B, sizeof g);
          g += pick == place ? give : none;
          memcpy(rows[row % side] + (size_t)at * B, &g, sizeof g);
        });
      }
    }
  }
  finish(p.h);
}

} // namespace

extern "C" {

CLONES static void forward_of(const Image *im, const float *x, float *y, uint8_t *picks) {
  if (im->d->lrn.block == 16) return forward<16>(*im, x, y, picks);
  forward<8>(*im, x, y, picks);
}

CLONES static void backward_of(const Image *im, const float *x, const uint8_t *picks, const float *dy, float *dx) {
  const bool relu = im->d->relu;
  if (im->d->lrn.block == 16)
    return relu ? backward<16, true>(*im, x, picks, dy, dx) : backward<16, false>(*im, x, picks, dy, dx);
  return relu ? backward<8, true>(*im, x, picks, dy, dx) : backward<8, false>(*im, x, picks, dy, dx);
}

int ck_normpool_fits(const ck_normpool_desc *d) {
  return is_five(&d->lrn) && d->pool.kernel == side && !d->pool.ties_all && d->pool.stride <= side;
}

void ck_normpool_forward(ck_team *team, const ck_normpool_desc *d, const float *x, float *y, uint8_t *picks) {
  const size_t in = (size_t)d->lrn.c * d->lrn.h * d->lrn.w, out = (size_t)d->lrn.c * d->pool.out_h * d->pool.out_w;
  team->images(*d, in, [&](const ck_normpool_desc &part, size_t first) {
    std::vector<float> band(side * (size_t)d->lrn.c * d->lrn.w);
    const Image im(&part, band.data());
    for (size_t n = first; n < first + part.n; n++) forward_of(&im, x + n * in, y + n * out, picks + n * out);
  });
}

void ck_normpool_backward(ck_team *team, const ck_normpool_desc *d, const float *x, const uint8_t *picks,
    const float *dy, float *dx) {
  const size_t in = (size_t)d->lrn.c * d->lrn.h * d->lrn.w, out = (size_t)d->lrn.c * d->pool.out_h * d->pool.out_w;
  team->images(*d, in, [&](const ck_normpool_desc &part, size_t first) {
    std::vector<float> band(side * (size_t)d->lrn.c * d->lrn.w);
    const Image im(&part, band.data());
    for (size_t n = first; n < first + part.n; n++)
      backward_of(&im, x + n * in, picks + n * out, dy + n * out, dx + n * in);
  });
}

} // extern "C"
