// What kernels on long rows of elements have in common: a thread does four neighbouring elements, a "quad", by accesses
// of 16 bytes where all operands begin on such a boundary, one by one where one does not, and at the end of the row.
#pragma once
#include "gpu.h"

namespace quads {

// aligned says whether every operand can be read and written 16 bytes at a time.
template <class... P> GPU_FN bool aligned(const P *...p) { return ((... | (unsigned long long)p) & 15) == 0; }

// Quad is four elements of which `count` exist.
struct Quad {
  float v[4];
};

GPU_FN Quad load(const float *p, bool whole, int count) {
  Quad q;
  if (whole) {
    const float4 f = gpu_load4(p);
    q.v[0] = f.x, q.v[1] = f.y, q.v[2] = f.z, q.v[3] = f.w;
    return q;
  }
#pragma unroll
  for (int i = 0; i < 4; i++) q.v[i] = i < count ? p[i] : 0.f;
  return q;
}

GPU_FN void store(float *p, bool whole, int count, Quad q) {
  if (whole) {
    gpu_store4(p, make_float4(q.v[0], q.v[1], q.v[2], q.v[3]));
    return;
  }
#pragma unroll
  for (int i = 0; i < 4; i++)
    if (i < count) p[i] = q.v[i];
}

// Place is the part of a row of n elements that this thread has; count is 0 or less where it has none.
struct Place {
  unsigned long long first;
  int count;
  bool whole;
};

template <class... P> GPU_FN Place place(unsigned long long n, const P *...operands) {
  Place at;
  at.first = ((unsigned long long)blockIdx.x * blockDim.x + threadIdx.x) * 4;
  at.count = at.first >= n ? 0 : n - at.first < 4 ? (int)(n - at.first) : 4;
  at.whole = at.count == 4 && aligned(operands...);
  return at;
}

} // namespace quads
