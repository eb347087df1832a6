// Softmax and cross-entropy, one block an image. Exponentials are computed by all threads, a tile of classes at a time,
// and added by one of them in class order, so that the sum does not depend on how many threads there are.
#include "numbers.h"

namespace softmax {

constexpr int threads = 256, tile = 512;

// Shared is a block's memory.
struct Shared {
  double terms[tile];
  double sum;
  float tops[threads];
  int above[threads], equal[threads];
};

// greatest is the largest of a row's logits.
GPU_FN float greatest(const float *z, int classes, Shared &m) {
  const int me = (int)threadIdx.x;
  float top = z[0];
  for (int c = me; c < classes; c += (int)blockDim.x) top = z[c] > top ? z[c] : top;
  m.tops[me] = top;
  __syncthreads();
  for (int half = (int)blockDim.x / 2; half > 0; half /= 2) {
    if (me < half) m.tops[me] = m.tops[me + half] > m.tops[me] ? m.tops[me + half] : m.tops[me];
    __syncthreads();
  }
  return m.tops[0];
}

// total is the sum of a row's exponentials below its greatest logit.
GPU_FN double total(const float *z, int classes, float top, Shared &m) {
  const int me = (int)threadIdx.x;
  double sum = 0;
  for (int first = 0; first < classes; first += tile) {
    const int here = classes - first < tile ? classes - first : tile;
    for (int c = me; c < here; c += (int)blockDim.x) m.terms[c] = numbers::exponential((double)z[first + c] - top);
    __syncthreads();
    if (me == 0)
      for (int c = 0; c < here; c++) sum = sum + m.terms[c];
    __syncthreads();
  }
  if (me == 0) m.sum = sum;
  __syncthreads();
  return m.sum;
}

} // namespace softmax

using softmax::Shared;

// loss, rank and ties of images below `valid`; 0, -1 and 0 for those behind. A label that is no class, which the host
// cannot see, makes the loss no number. blockDim.x is a power of two, at most softmax::threads.
extern "C" __global__ void __launch_bounds__(softmax::threads, 2)
softmax_forward(int classes, int valid, const float *__restrict__ logits, const int *__restrict__ labels,
                float *__restrict__ loss, int *__restrict__ rank, int *__restrict__ ties) {
  __shared__ Shared m;
  const int n = (int)blockIdx.x, me = (int)threadIdx.x;
  if (n >= valid) {
    if (me == 0) loss[n] = 0, rank[n] = -1, ties[n] = 0;
    return;
  }
  const int label = labels[n];
  if (label < 0 || label >= classes) {
    if (me == 0) loss[n] = __uint_as_float(0x7fc00000u), rank[n] = classes, ties[n] = 0;
    return;
  }
  const float *z = logits + (unsigned long long)n * (unsigned)classes;
  const float top = softmax::greatest(z, classes, m), own = z[label];
  const double sum = softmax::total(z, classes, top, m);
  int above = 0, equal = 0;
  for (int c = me; c < classes; c += (int)blockDim.x) {
    above += z[c] > own;
    equal += z[c] == own;
  }
  m.above[me] = above;
  m.equal[me] = equal;
  __syncthreads();
  for (int half = (int)blockDim.x / 2; half > 0; half /= 2) {
    if (me < half) m.above[me] += m.above[me + half], m.equal[me] += m.equal[me + half];
    __syncthreads();
  }
  if (me != 0) return;
  loss[n] = (float)(numbers::logarithm(sum) - ((double)own - top));
  rank[n] = m.above[0];
  ties[n] = m.equal[0] - 1; // the label's own logit equals itself
}

// dlogits = (p - onehot) / divisor of images below `valid`, 0 behind.
extern "C" __global__ void __launch_bounds__(softmax::threads, 2)
softmax_backward(int classes, int valid, int divisor, const float *__restrict__ logits,
                 const int *__restrict__ labels, float *__restrict__ dlogits) {
  __shared__ Shared m;
  const int n = (int)blockIdx.x, me = (int)threadIdx.x;
  const float *z = logits + (unsigned long long)n * (unsigned)classes;
  float *out = dlogits + (unsigned long long)n * (unsigned)classes;
  if (n >= valid) {
    for (int c = me; c < classes; c += (int)blockDim.x) out[c] = 0;
    return;
  }
  const int label = labels[n];
  const float top = softmax::greatest(z, classes, m);
  const double sum = softmax::total(z, classes, top, m);
  for (int c = me; c < classes; c += (int)blockDim.x) {
    const double p = numbers::exponential((double)z[c] - top) / sum;
    out[c] = (float)((p - (c == label ? 1.0 : 0.0)) / (double)divisor);
  }
}
