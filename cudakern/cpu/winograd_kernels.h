// The kernels of Winograd convolution, on the vectors and products of matrix_kernels.h.
#include "winograd.h"
#include "winograd_points.h"

namespace {

using winograd::Geometry;
using winograd::Kernels;
using winograd::Matrices;
using winograd::Tiling;
using winograd::Work;
using winograd::parity;

typedef float H __attribute__((vector_size(16)));

// dot is the sum over k = K, K + STEP, ... of X(j, k) * d[k], onto s once anything has been summed.
template <class X, int J, int K, int STEP, bool SOME = false> INLINE V dot(const V *d, V s = V{}) {
  if constexpr (K >= X::cols) {
    return s;
  } else {
    constexpr float c = (float)X::at(J, K);
    if constexpr (c == 0) return dot<X, J, K + STEP, STEP, SOME>(d, s);
    else if constexpr (!SOME) return dot<X, J, K + STEP, STEP, true>(d, c == 1 ? d[K] : d[K] * splat(c));
    else if constexpr (c == 1) return dot<X, J, K + STEP, STEP, true>(d, s + d[K]);
    else return dot<X, J, K + STEP, STEP, true>(d, fma(splat(c), d[K], s));
  }
}

// to_points is out = X * in, pair by pair.
template <class X, int J = 0> INLINE void to_points(const V *in, V *out) {
  if constexpr (J >= X::points) {
    return;
  } else if constexpr (J < X::first || J == X::points - 1) {
    out[J] = dot<X, J, 0, 1>(in);
    to_points<X, J + 1>(in, out);
  } else {
    constexpr int sign = parity<X>(J);
    static_assert(sign != 0, "points must come in pairs");
    V even = dot<X, J, 0, 2>(in), odd = dot<X, J, 1, 2>(in);
    out[J] = even + odd;
    out[J + 1] = sign > 0 ? even - odd : odd - even;
    to_points<X, J + 2>(in, out);
  }
}

// column is the sum over the points from J on of X(j, K) * in[j]. sum and difference of each pair lie at its places.
template <class X, int K, int J, bool SOME = false> INLINE V column(const V *pairs, V s = V{}) {
  if constexpr (J >= X::points) {
    return s;
  } else if constexpr (J < X::first || J == X::points - 1) {
    constexpr float c = (float)X::at(J, K);
    if constexpr (c == 0) return column<X, K, J + 1, SOME>(pairs, s);
    else if constexpr (!SOME) return column<X, K, J + 1, true>(pairs, c == 1 ? pairs[J] : pairs[J] * splat(c));
    else if constexpr (c == 1) return column<X, K, J + 1, true>(pairs, s + pairs[J]);
    else return column<X, K, J + 1, true>(pairs, fma(splat(c), pairs[J], s));
  } else {
    constexpr float c = (float)X::at(J, K);
    constexpr int place = X::at(J + 1, K) == X::at(J, K) ? J : J + 1;
    if constexpr (c == 0) return column<X, K, J + 2, SOME>(pairs, s);
    else if constexpr (!SOME) return column<X, K, J + 2, true>(pairs, c == 1 ? pairs[place] : pairs[place] * splat(c));
    else if constexpr (c == 1) return column<X, K, J + 2, true>(pairs, s + pairs[place]);
    else return column<X, K, J + 2, true>(pairs, fma(splat(c), pairs[place], s));
  }
}

template <class X, int K = 0> INLINE void columns(const V *pairs, V *out) {
  if constexpr (K < X::cols) {
    out[K] = column<X, K, 0>(pairs);
    columns<X, K + 1>(pairs, out);
  }
}

// from_points is out = X^T * in.
template <class X> INLINE void from_points(const V *in, V *out) {
  V pairs[X::points];
#pragma GCC unroll 8
  for (int j = 0; j < X::points; j++) {
    bool first = j >= X::first && j < X::points - 1 && (j - X::first) % 2 == 0;
    bool second = j >= X::first && j < X::points - 1 && !first;
    pairs[j] = first ? in[j] + in[j + 1] : second ? in[j - 1] - in[j] : in[j];
  }
  columns<X>(pairs, out);
}

// Maps reads a block of channels of one image. inside says that a whole tile of t x t from (y, x) on can be read with
// at; edge reads zeros beyond the image.
struct Maps {
  const float *plane;
  int h, w;
  Maps(const Geometry &g, const float *x, int n, int block)
      : plane(x + ((size_t)n * (g.c / B) + block) * g.h * g.w * B), h(g.h), w(g.w) {}
  INLINE bool inside(int y, int x, int t) const { return y >= 0 && x >= 0 && y + t <= h && x + t <= w; }
  INLINE V at(int y, int x) const { return load(plane + ((size_t)y * w + x) * B); }
  INLINE V edge(int y, int x) const { return y >= 0 && y < h && x >= 0 && x < w ? at(y, x) : V{}; }
};

// Phases reads phases of plain maps, by plain pixels: four neighbouring pixels are four neighbouring channels, so that
// a block is two or four pieces of rows. border reads zeros beyond the image.
struct Phases {
  static constexpr int S = winograd::phase_stride;
  const float *plane;
  int h, w, s;
  Phases(const Geometry &g, const float *x, int n, int block)
      : plane(x + ((size_t)n * (g.c / winograd::phase_maps) + block * B / winograd::phase_maps) * g.h * g.w), h(g.h),
          w(g.w),
        s(block * B % winograd::phase_maps / S) {}
  INLINE H piece(int y, int x) const {
    H v;
    __builtin_memcpy(&v, plane + (size_t)(y + s) * w + x, sizeof v);
    return v;
  }
  INLINE V rows(int y, int x) const {
    auto upper = __builtin_shufflevector(piece(y, x), piece(y + 1, x), 0, 1, 2, 3, 4, 5, 6, 7);
#if BLOCK == 8
    return upper;
#else
    auto lower = __builtin_shufflevector(piece(y + 2, x), piece(y + 3, x), 0, 1, 2, 3, 4, 5, 6, 7);
    return __builtin_shufflevector(upper, lower, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#endif
  }
  V border(int y, int x) const {
    V v = {};
    for (int i = 0; i < B; i++) {
      int py = y + s + i / S, px = x + i % S;
      if (py >= 0 && py < h && px >= 0 && px < w) v[i] = plane[(size_t)py * w + px];
    }
    return v;
  }
};

// Input transforms a tile of t x t pixels.
template <int M, int R> struct Input {
  static constexpr int T = M + R - 1;
  using X = typename Matrices<M, R>::B;
  // Reads through get(y, x) for 0 <= y, x < T.
  template <class Get> static INLINE void transform(Get get, float *v, size_t stride) {
    V half[T][T];
    for (int x = 0; x < T; x++) {
      V d[T], o[T];
#pragma GCC unroll 8
      for (int y = 0; y < T; y++) d[y] = get(y, x);
      to_points<X>(d, o);
#pragma GCC unroll 8
      for (int y = 0; y < T; y++) half[y][x] = o[y];
    }
    for (int y = 0; y < T; y++, v += T * stride) {
      V o[T];
      to_points<X>(half[y], o);
#pragma GCC unroll 8
      for (int x = 0; x < T; x++) store(v + x * stride, o[x]);
    }
  }
};

// Place walks over tiles: image, row and column of the next one.
struct Place {
  const Tiling t;
  int n, row, col;
  Place(const Tiling &tiles, int at) : t(tiles), n(at / tiles.each()), row(at % tiles.each() / tiles.columns),
      col(at % tiles.columns) {}
  void next() {
    if (++col < t.columns) return;
    col = 0;
    if (++row < t.rows) return;
    row = 0;
    n++;
  }
};

template <int M, int R> void input_maps(const Geometry &g, const float *x, int at, int count, const Work &work) {
  constexpr int T = M + R - 1;
  for (int b = 0; b < g.c / B; b++) {
    Place p(winograd::tiling(g, M), at);
    float *v = work.v + (size_t)b * work.tiles * B;
    for (int q = 0; q < count; q++, p.next(), v += B) {
      const Maps maps(g, x, p.n, b);
      const int y0 = p.row * M - g.pad_top, x0 = p.col * M - g.pad_left;
      const auto within = [&](int y, int xx) __attribute__((always_inline)) { return maps.at(y0 + y, x0 + xx); };
      const auto across = [&](int y, int xx) __attribute__((always_inline)) { return maps.edge(y0 + y, x0 + xx); };
      if (maps.inside(y0, x0, T)) Input<M, R>::transform(within, v, work.sv);
      else Input<M, R>::transform(across, v, work.sv);
    }
  }
}

template <int M, int R> void input_phases(const Geometry &g, const float *x, int at, int count, const Work &work) {
  constexpr int T = M + R - 1, S = Phases::S;
  for (int b = 0; b < g.c / B; b++) {
    Place p(winograd::tiling(g, M), at);
    float *v = work.v + (size_t)b * work.tiles * B;
    for (int q = 0; q < count; q++, p.next(), v += B) {
      const Phases maps(g, x, p.n, b);
      const int y0 = p.row * M * S - g.pad_top, x0 = p.col * M * S - g.pad_left;
      // Rows and columns of phases that lie wholly inside.
      const int top = y0 < 0 ? (-y0 + S - 1) / S : 0, left = x0 < 0 ? (-x0 + S - 1) / S : 0;
      const int bottom = (g.h - y0) / S, right = (g.w - x0) / S;
      const auto within = [&](int y, int xx) __attribute__((always_inline)) {
        return maps.rows(y0 + S * y, x0 + S * xx);
      };
      const auto across = [&](int y, int xx) __attribute__((always_inline)) {
        bool in = y >= top && y < bottom && xx >= left && xx < right;
        return in ? maps.rows(y0 + S * y, x0 + S * xx) : maps.border(y0 + S * y, x0 + S * xx);
      };
      if (top == 0 && left == 0 && bottom >= T && right >= T) Input<M, R>::transform(within, v, work.sv);
      else Input<M, R>::transform(across, v, work.sv);
    }
  }
}

template <int M, int R> void input(const Geometry &g, const float *x, int at, int count, const Work &work) {
  if (g.phases) input_phases<M, R>(g, x, at, count, work);
  else input_maps<M, R>(g, x, at, count, work);
}

// output transforms products back, adds what is to be added, and writes the part of the tile that is inside.
template <int M, int R> void output(const Geometry &g, const float *bias, float *y, int flags, int at, int count,
    const Work &work) {
  constexpr int T = M + R - 1;
  using X = typename Matrices<M, R>::A;
  for (int b = 0; b < g.k / B; b++) {
    Place p(winograd::tiling(g, M), at);
    const V start = flags & matrix::add_bias ? load(bias + b * B) : V{};
    const float *m = work.m + (size_t)b * work.tiles * B;
    for (int q = 0; q < count; q++, p.next(), m += B) {
      V half[M][T];
      for (int x = 0; x < T; x++) {
        V d[T], o[M];
#pragma GCC unroll 8
        for (int j = 0; j < T; j++) d[j] = load(m + (j * T + x) * work.sm);
        from_points<X>(d, o);
#pragma GCC unroll 8
        for (int i = 0; i < M; i++) half[i][x] = o[i];
      }
      const int rows = g.oh - p.row * M < M ? g.oh - p.row * M : M, cols = g.ow - p.col * M < M ? g.ow - p.col * M : M;
      float *out = y + ((((size_t)p.n * (g.k / B) + b) * g.oh + p.row * M) * g.ow + p.col * M) * B;
      for (int i = 0; i < rows; i++, out += (size_t)g.ow * B) {
        V o[M];
        from_points<X>(half[i], o);
#pragma GCC unroll 8
        for (int x = 0; x < M; x++) {
          if (x >= cols) break;
          V z = o[x] + start;
          if (flags & matrix::accumulate) z = load(out + x * B) + z;
          if (flags & matrix::rectify) z = z < 0 ? V{} : z; // NaN stays
          store(out + x * B, z);
        }
      }
    }
  }
}

// output_gradient transforms the gradient of tiles of the output to the points, and sums it up for the bias.
template <int M, int R> void output_gradient(const Geometry &g, const float *dy, float *db, int at, int count,
    const Work &work) {
  constexpr int T = M + R - 1;
  using X = typename Matrices<M, R>::A;
  for (int b = 0; b < g.k / B; b++) {
    Place p(winograd::tiling(g, M), at);
    float *m = work.m + (size_t)b * work.tiles * B;
    V total = {};
    for (int q = 0; q < count; q++, p.next(), m += B) {
      const int rows = g.oh - p.row * M < M ? g.oh - p.row * M : M, cols = g.ow - p.col * M < M ? g.ow - p.col * M : M;
      const float *in = dy + ((((size_t)p.n * (g.k / B) + b) * g.oh + p.row * M) * g.ow + p.col * M) * B;
      V half[T][M], sum = {};
      for (int x = 0; x < M; x++) {
        V d[M], o[T];
#pragma GCC unroll 8
        for (int y = 0; y < M; y++) {
          d[y] = y < rows && x < cols ? load(in + ((size_t)y * g.ow + x) * B) : V{};
          sum += d[y];
        }
        to_points<X>(d, o);
#pragma GCC unroll 8
        for (int y = 0; y < T; y++) half[y][x] = o[y];
      }
      total += sum;
      float *to = m;
      for (int y = 0; y < T; y++, to += T * work.sm) {
        V o[T];
        to_points<X>(half[y], o);
#pragma GCC unroll 8
        for (int x = 0; x < T; x++) store(to + x * work.sm, o[x]);
      }
    }
    if (db) store(db + b * B, load(db + b * B) + total);
  }
}

Operands operands(const Geometry &g, const Work &work, int point, int count) {
  return {work.v + point * work.sv, work.u + point * work.su, work.m + point * work.sm, (size_t)work.tiles * B,
      (size_t)g.c * B, g.c / B, count, winograd::maps_group(g.c)};
}

// Filters.

// taps is where pixel (y, x) of the filters from channel c to the block b of maps lies, or null where there is none.
INLINE const float *taps(const Geometry &g, const float *w, int r, int b, int c, int y, int x) {
  if (!g.phases) return w + ((((size_t)b * g.c + c) * r + y) * r + x) * B;
  constexpr int S = winograd::phase_stride, P = winograd::phase_maps;
  const int py = S * y + c % P / S, px = S * x + c % S;
  if (py >= g.kernel || px >= g.kernel) return nullptr;
  return w + ((((size_t)b * (g.c / P) + c / P) * g.kernel + py) * g.kernel + px) * B;
}

template <int M, int R, class Get> INLINE void filter_to_points(Get get, float *u, size_t stride) {
  constexpr int T = M + R - 1;
  using X = typename Matrices<M, R>::G;
  V half[T][R];
  for (int x = 0; x < R; x++) {
    V d[R], o[T];
    for (int y = 0; y < R; y++) d[y] = get(y, x);
    to_points<X>(d, o);
    for (int i = 0; i < T; i++) half[i][x] = o[i];
  }
  for (int i = 0; i < T; i++) {
    V o[T];
    to_points<X>(half[i], o);
    for (int j = 0; j < T; j++) store(u + (i * T + j) * stride, o[j]);
  }
}

template <int M, int R> void weights(const Geometry &g, const float *w, int first, int last, const Work &work) {
  for (int b = first; b < last; b++)
    for (int c = 0; c < g.c; c++)
      filter_to_points<M, R>(
          [&](int y, int x) {
            const float *p = taps(g, w, R, b, c, y, x);
            return p ? load(p) : V{};
          },
          work.u + ((size_t)b * g.c + c) * B, work.su);
}

template <int M, int R> void turned(const Geometry &g, const float *w, int first, int last, const Work &work) {
  for (int b = first; b < last; b++)
    for (int c = 0; c < g.c; c++)
      filter_to_points<M, R>(
          [&](int y, int x) {
            V v;
            for (int i = 0; i < B; i++)
              v[i] = w[((((size_t)(c / B) * g.k + b * B + i) * R + (R - 1 - y)) * R + (R - 1 - x)) * B + c % B];
            return v;
          },
          work.u + ((size_t)b * g.c + c) * B, work.su);
}

template <int M, int R> void filters_from_points(const Geometry &g, const Work &work, float *w) {
  constexpr int T = M + R - 1;
  using X = typename Matrices<M, R>::G;
  for (int b = 0; b < g.k / B; b++)
    for (int c = 0; c < g.c; c++) {
      const float *u = work.u + ((size_t)b * g.c + c) * B;
      V half[R][T];
      for (int x = 0; x < T; x++) {
        V d[T], o[R];
        for (int i = 0; i < T; i++) d[i] = load(u + (i * T + x) * work.su);
        from_points<X>(d, o);
        for (int y = 0; y < R; y++) half[y][x] = o[y];
      }
      for (int y = 0; y < R; y++) {
        V o[R];
        from_points<X>(half[y], o);
        for (int x = 0; x < R; x++)
          if (const float *p = taps(g, w, R, b, c, y, x)) store(const_cast<float *>(p), o[x]);
      }
    }
}

// Lanes.

template <int M, int R> void forward(const Geometry &g, const float *x, const float *bias, float *y, int flags,
    int first, int last, const Work &work) {
  constexpr int points = (M + R - 1) * (M + R - 1);
  const int each = winograd::tiling(g, M).each();
  for (int at = first * each; at < last * each; at += work.tiles) {
    int count = last * each - at < work.tiles ? last * each - at : work.tiles;
    input<M, R>(g, x, at, count, work);
    for (int p = 0; p < points; p++) product(operands(g, work, p, count), 0, g.k / B, false);
    output<M, R>(g, bias, y, flags, at, count, work);
  }
}

template <int M, int R>
void gradient(const Geometry &g, const float *x, const float *dy, float *dw, float *db, int first, int last,
    const Work &work) {
  constexpr int points = (M + R - 1) * (M + R - 1);
  const int each = winograd::tiling(g, M).each();
  if (db)
    for (int b = 0; b < g.k; b += B) store(db + b, V{});
  for (int at = first * each; at < last * each; at += work.tiles) {
    int count = last * each - at < work.tiles ? last * each - at : work.tiles;
    input<M, R>(g, x, at, count, work);
    output_gradient<M, R>(g, dy, db, at, count, work);
    for (int p = 0; p < points; p++) gradient_product(operands(g, work, p, count), 0, g.k / B, at > first * each);
  }
  filters_from_points<M, R>(g, work, dw);
}

template <int M, int R> constexpr Kernels tile() {
  return {M, R, B, weights<M, R>, turned<M, R>, forward<M, R>, gradient<M, R>};
}
const Kernels all[] = {tile<4, 3>(), tile<5, 3>(), tile<3, 5>(), tile<4, 5>()};

} // namespace

const Kernels *winograd::KERNELS(int m, int r) {
  for (const Kernels &k : all)
    if (k.m == m && k.r == r) return &k;
  return nullptr;
}
