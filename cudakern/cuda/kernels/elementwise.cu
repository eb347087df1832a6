// Ops on every element of buffers of one shape and layout. Results may be written over an operand, so pointers are not
// restricted: a thread reads all it needs before it writes.
#include "images.h"
#include "numbers.h"
#include "quads.h"

using quads::Place;
using quads::Quad;

// y = max(x, 0). What is no number stays.
extern "C" __global__ void __launch_bounds__(256, 4) relu_forward(unsigned long long n, const float *x, float *y) {
  const Place at = quads::place(n, x, y);
  if (at.count <= 0) return;
  Quad q = quads::load(x + at.first, at.whole, at.count);
#pragma unroll
  for (int i = 0; i < 4; i++) q.v[i] = q.v[i] < 0 ? 0.f : q.v[i];
  quads::store(y + at.first, at.whole, at.count, q);
}

// dx = dy where y is above 0, else 0.
extern "C" __global__ void __launch_bounds__(256, 4)
relu_backward(unsigned long long n, const float *y, const float *dy, float *dx) {
  const Place at = quads::place(n, y, dy, dx);
  if (at.count <= 0) return;
  const Quad a = quads::load(y + at.first, at.whole, at.count);
  Quad q = quads::load(dy + at.first, at.whole, at.count);
#pragma unroll
  for (int i = 0; i < 4; i++) q.v[i] = a.v[i] > 0 ? q.v[i] : 0.f;
  quads::store(dx + at.first, at.whole, at.count, q);
}

// dst += src.
extern "C" __global__ void __launch_bounds__(256, 4) add_run(unsigned long long n, float *dst, const float *src) {
  const Place at = quads::place(n, dst, src);
  if (at.count <= 0) return;
  const Quad a = quads::load(src + at.first, at.whole, at.count);
  Quad q = quads::load(dst + at.first, at.whole, at.count);
#pragma unroll
  for (int i = 0; i < 4; i++) q.v[i] = q.v[i] + a.v[i];
  quads::store(dst + at.first, at.whole, at.count, q);
}

// y = factor * x.
extern "C" __global__ void __launch_bounds__(256, 4)
scale_run(unsigned long long n, float factor, const float *x, float *y) {
  const Place at = quads::place(n, x, y);
  if (at.count <= 0) return;
  Quad q = quads::load(x + at.first, at.whole, at.count);
#pragma unroll
  for (int i = 0; i < 4; i++) q.v[i] *= factor;
  quads::store(y + at.first, at.whole, at.count, q);
}

// The update of a parameter: v1 = momentum*v0 - (decay*rate)*w0 - rate*g, w1 = w0 + v1, in this order of roundings,
// which is the CPU device's. w1 may be w0 and v1 may be v0.
extern "C" __global__ void __launch_bounds__(256, 4)
sgd_update(unsigned long long n, const float *w0, const float *v0, const float *grad, float *w1, float *v1,
           float momentum, float rate, float decay) {
  const Place at = quads::place(n, w0, v0, grad, w1, v1);
  if (at.count <= 0) return;
  Quad w = quads::load(w0 + at.first, at.whole, at.count), v = quads::load(v0 + at.first, at.whole, at.count);
  const Quad g = quads::load(grad + at.first, at.whole, at.count);
  const float shrink = decay * rate;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    v.v[i] = momentum * v.v[i] - shrink * w.v[i] - rate * g.v[i];
    w.v[i] = w.v[i] + v.v[i];
  }
  quads::store(v1 + at.first, at.whole, at.count, v);
  quads::store(w1 + at.first, at.whole, at.count, w);
}

// Zeroes units at random: a thread draws one block of Philox, which is the fate of four units of one image. first_group
// is the column's first unit over 4.
extern "C" __global__ void __launch_bounds__(256, 4)
dropout_mask(unsigned blocks, int units, unsigned first_group, unsigned first_image, unsigned long long threshold,
             float factor, unsigned long long key, unsigned long long step, const float *x, float *y) {
  const images::Place at = images::place(blocks);
  const int count = min(units - 4 * at.i, 4);
  if (count <= 0) return;
  const numbers::Words random = numbers::philox(first_group + (unsigned)at.i, first_image + (unsigned)at.image,
                                                (unsigned)step, (unsigned)(step >> 32), key);
  const unsigned long long first = at.image * (unsigned)units + 4 * (unsigned)at.i;
  const bool whole = units % 4 == 0 && quads::aligned(x, y);
  Quad q = quads::load(x + first, whole, count);
#pragma unroll
  for (int i = 0; i < 4; i++) q.v[i] = random.w[i] < threshold ? q.v[i] * factor : 0.f;
  quads::store(y + first, whole, count, q);
}
