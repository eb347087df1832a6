// The kernels of dense layers, on the vectors and products of matrix_kernels.h.
#include "dense.h"

namespace {

void dense_pack(int n, int features, const float *x, int first, int last, float *v, size_t stride) {
  for (int b = first; b < last; b++) {
    const int left = features - b * B;
    const float *from = x + b * B;
    float *to = v + b * stride;
    for (int q = 0; q < n; q++, from += features, to += B) {
      if (left >= B) {
        store(to, load(from));
        continue;
      }
      for (int i = 0; i < B; i++) to[i] = i < left ? from[i] : 0;
    }
  }
}

// transpose writes a block of B x B numbers, rows `from` floats apart, by columns, `to` floats apart.
INLINE void transpose(const float *x, size_t from, float *y, size_t to) {
  for (int i = 0; i < B; i++)
    for (int k = 0; k < B; k++) y[i * to + k] = x[k * from + i];
}

void dense_turn(int n, int features, int whole, const float *x, int first, int last, float *u) {
  for (int b = first; b < last; b++) {
    const float *from = x + (size_t)b * B * features;
    float *to = u + (size_t)b * whole * B;
    int f = 0;
    if ((b + 1) * B <= n)
      for (; f + B <= features; f += B) transpose(from + f, features, to + f * B, B);
    for (; f < whole; f++)
      for (int k = 0; k < B; k++) to[f * B + k] = f < features && b * B + k < n ? from[(size_t)k * features + f] : 0;
  }
}

void dense_unpack(const dense::Geometry &g, const float *m, const float *bias, float *y, int flags, int first,
    int last) {
  for (int b = first; b < last; b++) {
    const int left = g.out - b * B;
    const float *from = m + b * g.stride(g.n);
    float *to = y + b * B, start[B] = {}, held[B] = {};
    if (flags & matrix::add_bias)
      for (int i = 0; i < B && i < left; i++) start[i] = bias[b * B + i];
    const V add = load(start);
    for (int q = 0; q < g.n; q++, from += B, to += g.out) {
      V z = load(from) + add;
      float *place = to;
      if (left < B) {
        place = held;
        if (flags & matrix::accumulate)
          for (int i = 0; i < left; i++) held[i] = to[i];
      }
      if (flags & matrix::accumulate) z = load(place) + z;
      if (flags & matrix::rectify) z = z < 0 ? V{} : z; // NaN stays
      store(place, z);
      if (left < B)
        for (int i = 0; i < left; i++) to[i] = held[i];
    }
  }
}

void dense_back(int n, int in, const float *m, size_t stride, float *x, int first, int rows) {
  x += first;
  for (int b = 0; b * B < n; b++, m += stride, x += (size_t)B * in) {
    int i = 0;
    if ((b + 1) * B <= n)
      for (; i + B <= rows; i += B) transpose(m + (size_t)i * B, B, x + i, in);
    for (; i < rows; i++)
      for (int k = 0; k < B && b * B + k < n; k++) x[(size_t)k * in + i] = m[(size_t)i * B + k];
  }
}

void dense_bias(const dense::Geometry &g, const float *m, float *db, int first, int last) {
  for (int b = first; b < last; b++) {
    const float *from = m + b * g.stride(g.n);
    V sum = {};
    for (int q = 0; q < g.n; q++) sum += load(from + q * B);
    for (int i = 0; i < B && b * B + i < g.out; i++) db[b * B + i] = sum[i];
  }
}

const dense::Kernels dense_all = {B, dense_pack, dense_turn, dense_unpack, dense_back, dense_bias, product,
    gradient_product};

} // namespace

const dense::Kernels *dense::KERNELS() { return &dense_all; }
