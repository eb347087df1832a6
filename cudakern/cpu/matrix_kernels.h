// Vectors, and the products of matrices that all kernels of convolution and of dense layers come down to. They are
// compiled once for each instruction set: a source file includes this after it has set the target and defined
// KERNELS, the name of the functions that find the kernels
// BLOCK, floats in a vector and maps in a block,
// FUSED, floats in a vector of the instruction that multiplies and adds with one rounding, or 0,
// and a struct Registers: how many rows a tile of the products has, by the number of its vectors.
// Every sum has one order, every multiplication that is fused into a sum says so: the compiler has no say in the bits.
// cgo does not take these as flags; what -O3 adds to -O2 here is time to compile.
#pragma GCC optimize("O2", "fp-contract=off", "no-math-errno", "no-trapping-math")

#include "matrix.h"

#define INLINE inline __attribute__((always_inline))

namespace {

using matrix::Operands;

constexpr int B = BLOCK;
typedef float V __attribute__((vector_size(4 * BLOCK)));

INLINE V load(const float *p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
INLINE void store(float *p, V v) { __builtin_memcpy(p, &v, sizeof v); }
INLINE V splat(float f) { return f - V{}; } // x - 0 is x, whatever its sign

// fma is a*b + c, rounded once where the instruction set can.
INLINE V fma(V a, V b, V c) {
#if FUSED == 16
  return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif FUSED == 8 && BLOCK == 8
  return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif FUSED == 8
  __m256 x[2], y[2], z[2];
  __builtin_memcpy(x, &a, sizeof a);
  __builtin_memcpy(y, &b, sizeof b);
  __builtin_memcpy(z, &c, sizeof c);
  z[0] = _mm256_fmadd_ps(x[0], y[0], z[0]);
  z[1] = _mm256_fmadd_ps(x[1], y[1], z[1]);
  __builtin_memcpy(&c, z, sizeof c);
  return c;
#else
  return a * b + c;
#endif
}

// The matrix products. A tile of W rows by N vectors stays in registers while the sum runs over channels (product; rows
// are tiles of the image) or over tiles (gradient; rows are channels), one after the other.

// Sums are cut into groups, which are summed up each by itself: most of the rounding error is that of long sums.

template <int W, int N> INLINE void add_tile(V (&c)[W][N], float *to, size_t stride, bool more) {
#pragma GCC unroll 16
  for (int i = 0; i < W; i++)
#pragma GCC unroll 4
    for (int j = 0; j < N; j++) {
      float *p = to + j * stride + i * B;
      store(p, more ? load(p) + c[i][j] : c[i][j]);
      c[i][j] = V{};
    }
}

template <int W, int N> INLINE void product_tile(const Operands &o, const float *u, float *m, int q, bool more) {
  const int group = o.group / B;
  const float *v = o.v + q * B;
  const size_t su = o.su;
  V c[W][N] = {};
  for (int from = 0; from < o.blocks; from += group) {
    const int end = from + group < o.blocks ? from + group : o.blocks;
    for (int b = from; b < end; b++, v += o.sv, u += B * B)
#pragma GCC unroll 4
      for (int k = 0; k < B; k++) {
        V w[N];
#pragma GCC unroll 4
        for (int j = 0; j < N; j++) w[j] = load(u + j * su + k * B);
#pragma GCC unroll 16
        for (int i = 0; i < W; i++) {
          V a = splat(v[i * B + k]);
#pragma GCC unroll 4
          for (int j = 0; j < N; j++) c[i][j] = fma(a, w[j], c[i][j]);
        }
      }
    add_tile<W, N>(c, m + q * B, o.sv, more || from > 0);
  }
}

template <int N> void product_panel(const Operands &o, int j, bool more) {
  constexpr int W = Registers::rows[N - 1];
  const float *u = o.u + j * o.su;
  float *m = o.m + j * o.sv;
  int q = 0;
  for (; q + W <= o.tiles; q += W) product_tile<W, N>(o, u, m, q, more);
  if constexpr (W > 2)
    for (; q + 2 <= o.tiles; q += 2) product_tile<2, N>(o, u, m, q, more);
  for (; q < o.tiles; q++) product_tile<1, N>(o, u, m, q, more);
}

template <int W, int N> INLINE void gradient_tile(const float *v, const float *m, size_t sm, float *u, size_t su,
    int tiles, bool more) {
  V c[W][N] = {};
  for (int from = 0; from < tiles; from += matrix::rows_group) {
    const int end = from + matrix::rows_group < tiles ? from + matrix::rows_group : tiles;
    for (int q = from; q < end; q++, v += B, m += B) {
      V d[N];
#pragma GCC unroll 4
      for (int j = 0; j < N; j++) d[j] = load(m + j * sm);
#pragma GCC unroll 16
      for (int i = 0; i < W; i++) {
        V a = splat(v[i]);
#pragma GCC unroll 4
        for (int j = 0; j < N; j++) c[i][j] = fma(a, d[j], c[i][j]);
      }
    }
    add_tile<W, N>(c, u, su, more || from > 0);
  }
}

template <int N> void gradient_panel(const Operands &o, int j, bool more) {
  constexpr int W = Registers::tall[N - 1];
  static_assert(B % W == 0, "rows must divide a block");
  for (int b = 0; b < o.blocks; b++)
    for (int i = 0; i < B; i += W)
      gradient_tile<W, N>(o.v + b * o.sv + i, o.m + j * o.sv, o.sv, o.u + j * o.su + (b * B + i) * B, o.su, o.tiles,
          more);
}

// panels cuts vectors [j, last) into panels as wide as the registers hold, and no panel of one vector if that can be.
template <int WIDEST, class F> INLINE void panels(int j, int last, F f) {
  for (int take; j < last; j += take) {
    take = last - j < WIDEST ? last - j : WIDEST;
    if (last - j == WIDEST + 1 && WIDEST > 2) take = WIDEST - 1;
    f(j, take);
  }
}

void product(const Operands &o, int first, int last, bool more) {
  panels<Registers::widest>(first, last, [&](int j, int take) {
    if constexpr (Registers::widest >= 4)
      if (take == 4) return product_panel<4>(o, j, more);
    if constexpr (Registers::widest >= 3)
      if (take == 3) return product_panel<3>(o, j, more);
    take == 2 ? product_panel<2>(o, j, more) : product_panel<1>(o, j, more);
  });
}

void gradient_product(const Operands &o, int first, int last, bool more) {
  panels<Registers::tall_widest>(first, last, [&](int j, int take) {
    if constexpr (Registers::tall_widest >= 3)
      if (take == 3) return gradient_panel<3>(o, j, more);
    take == 2 ? gradient_panel<2>(o, j, more) : gradient_panel<1>(o, j, more);
  });
}

} // namespace
