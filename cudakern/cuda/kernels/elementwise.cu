// Ops on every element of buffers of one shape and layout. Results may be written over an operand, so pointers are not
// restricted: a thread reads all it needs before it writes.
#include "images.h"
#include "numbers.h"
#include "packs.h"

namespace elementwise {

using packs::load;
using packs::Pack;
using packs::store;

struct Rectify {
  const float *x;
  float *y;
  template <int N> GPU_METHOD void at(unsigned long long i) const {
    Pack<N> a = load<N>(x + i);
#pragma unroll
    for (int j = 0; j < N; j++) a.v[j] = a.v[j] < 0 ? 0.f : a.v[j];
    store<N>(y + i, a);
  }
};

struct RectifiedGradient {
  const float *y, *dy;
  float *dx;
  template <int N> GPU_METHOD void at(unsigned long long i) const {
    const Pack<N> a = load<N>(y + i);
    Pack<N> g = load<N>(dy + i);
#pragma unroll
    for (int j = 0; j < N; j++) g.v[j] = a.v[j] > 0 ? g.v[j] : 0.f;
    store<N>(dx + i, g);
  }
};

struct Tangent {
  const float *x;
  float *y;
  template <int N> GPU_METHOD void at(unsigned long long i) const {
    Pack<N> a = load<N>(x + i);
#pragma unroll
    for (int j = 0; j < N; j++) a.v[j] = numbers::tangent(a.v[j]);
    store<N>(y + i, a);
  }
};

struct TangentGradient {
  const float *y, *dy;
  float *dx;
  template <int N> GPU_METHOD void at(unsigned long long i) const {
    const Pack<N> a = load<N>(y + i);
    Pack<N> g = load<N>(dy + i);
#pragma unroll
    for (int j = 0; j < N; j++) g.v[j] = g.v[j] * ((1 - a.v[j]) * (1 + a.v[j]));
    store<N>(dx + i, g);
  }
};

struct Accumulate {
  float *dst;
  const float *src;
  template <int N> GPU_METHOD void at(unsigned long long i) const {
    Pack<N> a = load<N>(dst + i);
    const Pack<N> b = load<N>(src + i);
#pragma unroll
    for (int j = 0; j < N; j++) a.v[j] = a.v[j] + b.v[j];
    store<N>(dst + i, a);
  }
};

struct Scale {
  float factor;
  const float *x;
  float *y;
  template <int N> GPU_METHOD void at(unsigned long long i) const {
    Pack<N> a = load<N>(x + i);
#pragma unroll
    for (int j = 0; j < N; j++) a.v[j] = a.v[j] * factor;
    store<N>(y + i, a);
  }
};

struct Update {
  const float *w0, *v0, *grad;
  float *w1, *v1;
  float momentum, rate, shrink;
  template <int N> GPU_METHOD void at(unsigned long long i) const {
    Pack<N> w = load<N>(w0 + i), v = load<N>(v0 + i);
    const Pack<N> g = load<N>(grad + i);
#pragma unroll
    for (int j = 0; j < N; j++) {
      v.v[j] = momentum * v.v[j] - shrink * w.v[j] - rate * g.v[j];
      w.v[j] = w.v[j] + v.v[j];
    }
    store<N>(v1 + i, v);
    store<N>(w1 + i, w);
  }
};

} // namespace elementwise

// y = max(x, 0). What is no number stays.
extern "C" __global__ void __launch_bounds__(256, 4) relu_forward(unsigned long long n, const float *x, float *y) {
  packs::each(n, packs::aligned(x, y), elementwise::Rectify{x, y});
}

// dx = dy where y is above 0, else 0.
extern "C" __global__ void __launch_bounds__(256, 4)
relu_backward(unsigned long long n, const float *y, const float *dy, float *dx) {
  packs::each(n, packs::aligned(y, dy, dx), elementwise::RectifiedGradient{y, dy, dx});
}

// y = tanh x.
extern "C" __global__ void __launch_bounds__(256, 4) tanh_forward(unsigned long long n, const float *x, float *y) {
  packs::each(n, packs::aligned(x, y), elementwise::Tangent{x, y});
}

// dx = dy (1 - y) (1 + y).
extern "C" __global__ void __launch_bounds__(256, 4)
tanh_backward(unsigned long long n, const float *y, const float *dy, float *dx) {
  packs::each(n, packs::aligned(y, dy, dx), elementwise::TangentGradient{y, dy, dx});
}

// dst += src.
extern "C" __global__ void __launch_bounds__(256, 4) add_run(unsigned long long n, float *dst, const float *src) {
  packs::each(n, packs::aligned(dst, src), elementwise::Accumulate{dst, src});
}

// y = factor * x.
extern "C" __global__ void __launch_bounds__(256, 4)
scale_run(unsigned long long n, float factor, const float *x, float *y) {
  packs::each(n, packs::aligned(x, y), elementwise::Scale{factor, x, y});
}

// The update of a parameter: v1 = momentum*v0 - (decay*rate)*w0 - rate*grad, w1 = w0 + v1, in this order of roundings,
// which is the CPU device's. w1 may be w0 and v1 may be v0.
extern "C" __global__ void __launch_bounds__(256, 4)
sgd_update(unsigned long long n, const float *w0, const float *v0, const float *grad, float *w1, float *v1,
           float momentum, float rate, float decay) {
  packs::each(n, packs::aligned(w0, v0, grad, w1, v1),
              elementwise::Update{w0, v0, grad, w1, v1, momentum, rate, decay * rate});
}

// Zeroes units at random: a thread draws one block of Philox, which is the fate of four units of one image. first_group
// is the column's first unit over 4.
extern "C" __global__ void __launch_bounds__(256, 4)
dropout_mask(int blocks, unsigned long long over_blocks, int units, unsigned first_group, unsigned first_image,
             unsigned long long threshold, float factor, unsigned long long key, unsigned long long step,
             const float *x, float *y) {
  const images::Place at = images::place(blocks, over_blocks);
  if (at.i >= (units + 3) / 4) return;
  const numbers::Words random = numbers::philox(first_group + (unsigned)at.i, first_image + (unsigned)at.image,
                                                (unsigned)step, (unsigned)(step >> 32), key);
  const unsigned long long first = at.image * (unsigned)units + 4 * (unsigned)at.i;
  if (units % 4 == 0 && packs::aligned(x, y)) {
    packs::Pack<4> a = packs::load<4>(x + first);
#pragma unroll
    for (int j = 0; j < 4; j++) a.v[j] = random.w[j] < threshold ? a.v[j] * factor : 0.f;
    packs::store<4>(y + first, a);
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; j++)
    if (4 * at.i + j < units) y[first + j] = random.w[j] < threshold ? x[first + j] * factor : 0.f;
}
