// What kernels on long rows of elements have in common: a thread does four neighbouring elements, by accesses of 16
// bytes where all operands begin on such a boundary, one by one where one does not, and at the end of the row. Each way
// has code of its own, or the compiler would join what they load and cut the accesses.
#pragma once
#include "gpu.h"

namespace packs {

// aligned says whether every operand can be read and written 16 bytes at a time.
template <class... P> GPU_FN bool aligned(const P *...p) { return ((... | (unsigned long long)p) & 15) == 0; }

// Pack is N neighbouring elements, 4 or 1.
template <int N> struct Pack {
  float v[N];
};

template <int N> GPU_FN Pack<N> load(const float *p) {
  if constexpr (N == 4) {
    float4 f = gpu_load4(p);
    // All four are wanted here and now: or where an op uses one only sometimes, the compiler loads it only then.
    asm volatile("" : "+f"(f.x), "+f"(f.y), "+f"(f.z), "+f"(f.w));
    return {{f.x, f.y, f.z, f.w}};
  } else {
    return {{*p}};
  }
}

template <int N> GPU_FN void store(float *p, const Pack<N> &a) {
  if constexpr (N == 4) gpu_store4(p, make_float4(a.v[0], a.v[1], a.v[2], a.v[3]));
  else *p = a.v[0];
}

// each has this thread do its part of n elements: op.at<N>(i) does N of them from the i-th on.
template <class Op> GPU_FN void each(unsigned long long n, bool aligned, const Op &op) {
  const unsigned long long first = ((unsigned long long)blockIdx.x * blockDim.x + threadIdx.x) * 4;
  if (aligned && first + 4 <= n) {
    op.template at<4>(first);
    return;
  }
#pragma unroll 1
  for (unsigned long long i = first; i < n && i < first + 4; i++) op.template at<1>(i);
}

} // namespace packs
