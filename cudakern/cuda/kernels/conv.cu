// Convolutions as products of matrices that are gathered on the way (DESIGN.md: what A and B are in each pass).
#include "conv.h"

// windows computes maps x pixels of every image: y = w * x forward, dx = w^T * dy by data, a phase to each blockIdx.z.
template <class T, class Sum, bool WIDE>
GPU_FN void windows(int images, int maps, int pitch, int h, int w, unsigned sourceImage, unsigned outMap, int flags,
                    const int *table, const int *taps, const float *packed, const float *source, const float *bias,
                    float *out) {
  table += 16 * blockIdx.z;
  const Window win(table);
  const unsigned total = (unsigned)images * win.pixels, first = blockIdx.x * T::N;
  if (first >= total) return; // phases differ in size
  Gather<T, WIDE> operands(win, packed, pitch, taps, source, h, w, sourceImage,
                           min(first + threadIdx.x % T::N, total - 1));
  float c[64];
  multiply<T, Sum>(operands, win.taps / K_STEP, c);
  const Sum place;

  gpu_forget(table);
  const Window again(table); // read twice rather than kept in registers that the loop needs
  const int row0 = blockIdx.y * T::M;
  const Finish finish(flags);
#pragma unroll
  for (int i = 0; i < Sum::ROWS; i++) {
    const float b = bias ? bias[min(row0 + place.row(i), maps - 1)] : 0.0f;
#pragma unroll
    for (int j = 0; j < Sum::COLUMNS; j++) c[Sum::index(i, j)] += b;
  }
#pragma unroll
  for (int j = 0; j < Sum::COLUMNS; j++) {
    const unsigned q = first + place.column(j);
    unsigned image;
    int y, x;
    again.split(q, image, y, x);
    float *to = out + (unsigned long long)image * maps * outMap + again.first + y * again.row + x * again.column;
#pragma unroll
    for (int i = 0; i < Sum::ROWS; i++) {
      const int map = row0 + place.row(i);
      if (q < total && map < maps) finish(to + (unsigned long long)map * outMap, c[Sum::index(i, j)]);
    }
  }
}

#define CONV_WINDOWS(name, TILE, SUM, WIDE, BLOCKS)                                                                   \
  extern "C" __global__ void __launch_bounds__(TILE::THREADS, BLOCKS)                                                 \
      name(int images, int maps, int pitch, int h, int w, unsigned sourceImage, unsigned outMap, int flags,           \
           const int *__restrict__ table, const int *__restrict__ taps, const float *__restrict__ packed,             \
           const float *__restrict__ source, const float *__restrict__ bias, float *__restrict__ out) {               \
    windows<TILE, SUM<TILE>, WIDE>(images, maps, pitch, h, w, sourceImage, outMap, flags, table, taps, packed,        \
                                   source, bias, out);                                                                \
  }
CONV_WINDOWS(conv_forward_128x128, Tile128x128, Fp32, false, 2)
CONV_WINDOWS(conv_forward_64x128, Tile64x128, Fp32, false, 3)
CONV_WINDOWS(conv_forward_64x64, Tile64x64, Fp32, false, 6)
CONV_WINDOWS(conv_forward_wide_64x64, Tile64x64, Fp32, true, 6)
CONV_WINDOWS(conv_data_128x128, Tile128x128, Fp32, false, 2)
CONV_WINDOWS(conv_data_64x128, Tile64x128, Fp32, false, 3)
CONV_WINDOWS(conv_data_64x64, Tile64x64, Fp32, false, 6)
CONV_WINDOWS(conv_data_wide_64x64, Tile64x64, Fp32, true, 6)
#if GPU_IMAGE_B
CONV_WINDOWS(conv_forward_tf32_128x128, TileTf32_128x128, Tf32, false, 2)
CONV_WINDOWS(conv_forward_tf32_64x128, TileTf32_64x128, Tf32, false, 3)
CONV_WINDOWS(conv_forward_tf32_64x64, TileTf32_64x64, Tf32, false, 6)
CONV_WINDOWS(conv_forward_wide_tf32_64x64, TileTf32_64x64, Tf32, true, 6)
CONV_WINDOWS(conv_data_tf32_128x128, TileTf32_128x128, Tf32, false, 2)
CONV_WINDOWS(conv_data_tf32_64x128, TileTf32_64x128, Tf32, false, 3)
CONV_WINDOWS(conv_data_tf32_64x64, TileTf32_64x64, Tf32, false, 6)
CONV_WINDOWS(conv_data_wide_tf32_64x64, TileTf32_64x64, Tf32, true, 6)
#endif

// gradient computes dw = dy * x of the images of one part, blockIdx.z, filters x columns (In*K*K) of it.
template <class T, class Sum, bool WIDE>
GPU_FN void gradient(int images, int perPart, int filters, int columns, int plane, int h, int w, unsigned xImage,
                     const int *pixels, const int *taps, const float *x, const float *dy, float *out) {
  const int first = blockIdx.z * perPart, count = min(perPart, images - first) * plane;
  const int row0 = blockIdx.y * T::M, column0 = blockIdx.x * T::N;
  __shared__ int2 tapsHere[T::N];
  for (int i = threadIdx.x; i < T::N; i += T::THREADS) {
    const int column = 2 * min(column0 + i, columns - 1);
    tapsHere[i] = make_int2(taps[column], taps[column + 1]);
  }
  __syncthreads();
  Gradient<T, WIDE> operands(x + (long long)first * xImage, dy + (long long)first * filters * plane, pixels, tapsHere,
                             count, h, w, filters, plane, row0);
  float c[64];
  multiply<T, Sum>(operands, (count + K_STEP - 1) / K_STEP, c);
  const Sum place;

  out += (unsigned long long)blockIdx.z * filters * columns;
#pragma unroll
  for (int i = 0; i < Sum::ROWS; i++) {
    const int filter = row0 + place.row(i);
    if (filter >= filters) continue;
#pragma unroll
    for (int j = 0; j < Sum::COLUMNS; j++) {
      const int column = column0 + place.column(j);
      if (column < columns) out[(unsigned long long)filter * columns + column] = c[Sum::index(i, j)];
    }
  }
}

#define CONV_WEIGHTS(name, TILE, SUM, WIDE, BLOCKS)                                                                   \
  extern "C" __global__ void __launch_bounds__(TILE::THREADS, BLOCKS)                                                 \
      name(int images, int perPart, int filters, int columns, int plane, int h, int w, unsigned xImage,               \
           const int *__restrict__ pixels, const int *__restrict__ taps, const float *__restrict__ x,                 \
           const float *__restrict__ dy, float *__restrict__ out) {                                                   \
    gradient<TILE, SUM<TILE>, WIDE>(images, perPart, filters, columns, plane, h, w, xImage, pixels, taps, x, dy,      \
                                    out);                                                                             \
  }
CONV_WEIGHTS(conv_weights_128x128, Tile128x128, Fp32, false, 2)
CONV_WEIGHTS(conv_weights_64x128, Tile64x128, Fp32, false, 3)
CONV_WEIGHTS(conv_weights_64x64, Tile64x64, Fp32, false, 6)
CONV_WEIGHTS(conv_weights_wide_64x64, Tile64x64, Fp32, true, 6)
#if GPU_IMAGE_B
CONV_WEIGHTS(conv_weights_tf32_128x128, TileTf32_128x128, Tf32, false, 2)
CONV_WEIGHTS(conv_weights_tf32_64x128, TileTf32_64x128, Tf32, false, 3)
CONV_WEIGHTS(conv_weights_tf32_64x64, TileTf32_64x64, Tf32, false, 6)
CONV_WEIGHTS(conv_weights_wide_tf32_64x64, TileTf32_64x64, Tf32, true, 6)
#endif

// conv_pack lays weights out as windows() reads them: packed[tap][map], maps up to `pitch` and taps without a place
// (-1) zero. Weight (map, tap) lies at map*mapStride + places[tap]. Tiles of 32 x 32 by 256 threads, taps along x.
extern "C" __global__ void __launch_bounds__(256)
    conv_pack(int taps, int maps, int pitch, unsigned mapStride, const int *__restrict__ places,
              const float *__restrict__ weights, float *__restrict__ packed) {
  __shared__ float tile[32][33];
  const int x = threadIdx.x & 31, y = threadIdx.x >> 5, tap = blockIdx.x * 32 + x;
  const int place = tap < taps ? places[tap] : -1;
#pragma unroll
  for (int i = 0; i < 32; i += 8) {
    const int map = blockIdx.y * 32 + y + i;
    tile[y + i][x] = place >= 0 && map < maps ? weights[(unsigned long long)map * mapStride + place] : 0.0f;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 32; i += 8) {
    const int row = blockIdx.x * 32 + y + i, map = blockIdx.y * 32 + x;
    if (row < taps && map < pitch) packed[(unsigned long long)row * pitch + map] = tile[x][y + i];
  }
}

// conv_bias sums dy over the pixels of one map, blockIdx.x, in the images of one part, blockIdx.y. A thread sums every
// 256th pixel in order, a tree of fixed shape the threads.
extern "C" __global__ void __launch_bounds__(256)
    conv_bias(int images, int perPart, int maps, int plane, unsigned planeMultiplier, unsigned planeShift,
              const float *__restrict__ dy, float *__restrict__ out) {
  __shared__ float sums[256];
  const int tid = threadIdx.x, first = blockIdx.y * perPart;
  const unsigned count = (unsigned)min(perPart, images - first) * plane;
  dy += ((unsigned long long)first * maps + blockIdx.x) * plane;
  float sum = 0.0f;
  for (unsigned q = tid; q < count; q += 256) {
    const unsigned image = gpu_divide(q, planeMultiplier, planeShift);
    sum += dy[(unsigned long long)image * maps * plane + (q - image * plane)];
  }
  sums[tid] = sum;
  __syncthreads();
#pragma unroll
  for (int half = 128; half > 0; half >>= 1) {
    if (tid < half) sums[tid] += sums[tid + half];
    __syncthreads();
  }
  if (tid == 0) out[blockIdx.y * maps + blockIdx.x] = sums[0];
}
