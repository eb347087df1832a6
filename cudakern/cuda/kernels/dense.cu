// Dense layers: m x n of a product over k, cut along k into parts (blockIdx.z) where the matrix alone would leave a GPU
// idle. Parts and their order are of the shape alone.
#include "dense.h"

template <class T, class Sum, template <int, int, int> class A, template <int, int, int> class B, bool FORWARD>
GPU_FN void dense(int m, int n, int k, int perPart, int pitchA, int pitchB, int flags, const float *a, const float *b,
                  const float *bias, float *out) {
  typedef A<T::M, T::PITCH_A, T::THREADS> Left;
  typedef B<T::N, T::PITCH_B, T::THREADS> Right;
  const int row0 = blockIdx.y * T::M, column0 = blockIdx.x * T::N;
  const int first = blockIdx.z * perPart, last = min(first + perPart, k);
  Both<Left, Right> operands = {Left(a, m, pitchA, row0, first, last), Right(b, n, pitchB, column0, first, last)};
  float c[64];
  multiply<T, Sum>(operands, (last - first + K_STEP - 1) / K_STEP, c);
  const Sum place;

  out += (unsigned long long)blockIdx.z * m * n;
  const Finish finish(FORWARD ? flags : 0);
  if (FORWARD) {
#pragma unroll
    for (int j = 0; j < Sum::COLUMNS; j++) {
      const float b = bias ? bias[min(column0 + place.column(j), n - 1)] : 0.0f;
#pragma unroll
      for (int i = 0; i < Sum::ROWS; i++) c[Sum::index(i, j)] += b;
    }
  }
#pragma unroll
  for (int i = 0; i < Sum::ROWS; i++)
#pragma unroll
    for (int j = 0; j < Sum::COLUMNS; j++) {
      const int row = row0 + place.row(i), column = column0 + place.column(j);
      if (row < m && column < n) finish(out + (unsigned long long)row * n + column, c[Sum::index(i, j)]);
    }
}

#define DENSE(name, TILE, SUM, A, B, FORWARD, BLOCKS)                                                                 \
  extern "C" __global__ void __launch_bounds__(TILE::THREADS, BLOCKS)                                                 \
      name(int m, int n, int k, int perPart, int pitchA, int pitchB, int flags, const float *__restrict__ a,          \
           const float *__restrict__ b, const float *__restrict__ bias, float *__restrict__ out) {                    \
    dense<TILE, SUM<TILE>, A, B, FORWARD>(m, n, k, perPart, pitchA, pitchB, flags, a, b, bias, out);                  \
  }
DENSE(dense_forward_128x128, Tile128x128, Fp32, Along, Along, true, 2) // y = x w^T
DENSE(dense_forward_64x64, Tile64x64, Fp32, Along, Along, true, 6)
DENSE(dense_data_128x128, Tile128x128, Fp32, Along, Across, false, 2) // dx = dy w
DENSE(dense_data_64x64, Tile64x64, Fp32, Along, Across, false, 6)
DENSE(dense_weights_128x128, Tile128x128, Fp32, Across, Across, false, 2) // dw = dy^T x
DENSE(dense_weights_64x64, Tile64x64, Fp32, Across, Across, false, 6)
#if GPU_IMAGE_B
DENSE(dense_forward_tf32_128x128, TileTf32_128x128, Tf32, Along, Along, true, 2)
DENSE(dense_forward_tf32_64x64, TileTf32_64x64, Tf32, Along, Along, true, 6)
DENSE(dense_data_tf32_128x128, TileTf32_128x128, Tf32, Along, Across, false, 2)
DENSE(dense_data_tf32_64x64, TileTf32_64x64, Tf32, Along, Across, false, 6)
DENSE(dense_weights_tf32_128x128, TileTf32_128x128, Tf32, Across, Across, false, 2)
DENSE(dense_weights_tf32_64x64, TileTf32_64x64, Tf32, Across, Across, false, 6)
#endif

// sum_parts adds partial results, `count` numbers each, in ascending order of the parts, and finishes. n is how many
// units bias has; it repeats every n numbers.
extern "C" __global__ void __launch_bounds__(256)
    sum_parts(unsigned count, int parts, int n, int flags, const float *__restrict__ partial,
              const float *__restrict__ bias, float *__restrict__ out) {
  const unsigned i = blockIdx.x * 256u + threadIdx.x;
  if (i >= count) return;
  float sum = partial[i];
  for (int p = 1; p < parts; p++) sum += partial[(unsigned long long)p * count + i];
  Finish finish(flags);
  finish(out + i, bias ? sum + bias[i % n] : sum);
}
