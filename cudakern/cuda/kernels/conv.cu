// Convolutions as products of matrices that are gathered on the way (DESIGN.md: what A and B are in each pass).
#include "conv.h"

constexpr int ACCUMULATE = 1, RELU = 2; // flags of a product's end

// windows computes maps x pixels of every image: y = w * x forward, dx = w^T * dy by data, a phase to each blockIdx.z.
template <class T, bool WIDE>
GPU_FN void windows(int images, int maps, int pitch, int h, int w, unsigned sourceImage, unsigned outMap, int flags,
                    const int *table, const int *taps, const float *packed, const float *source, const float *bias,
                    float *out) {
  table += 16 * blockIdx.z;
  const Window win(table);
  const unsigned total = (unsigned)images * win.pixels, first = blockIdx.x * T::N;
  if (first >= total) return; // phases differ in size
  Gather<T, WIDE> operands(win, packed, pitch, taps, source, h, w, sourceImage,
                           min(first + threadIdx.x % T::N, total - 1));
  const Place<T> place;
  float c[8][8];
  multiply<T>(operands, win.taps / K_STEP, place, c);

  gpu_forget(table);
  const Window again(table); // read twice rather than kept in registers that the loop needs
  const int row0 = blockIdx.y * T::M;
#pragma unroll
  for (int j = 0; j < 8; j++) {
    const unsigned q = first + place.column(j);
    if (q >= total) continue;
    unsigned image;
    int y, x;
    again.split(q, image, y, x);
    float *to = out + (unsigned long long)image * maps * outMap + again.first + y * again.row + x * again.column;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const int map = row0 + place.row(i);
      if (map >= maps) continue;
      float v = c[i][j];
      float *at = to + (unsigned long long)map * outMap;
      if (bias) v += bias[map];
      if (flags & ACCUMULATE) v += *at;
      if (flags & RELU) v = fmaxf(v, 0.0f);
      *at = v;
    }
  }
}

#define CONV_WINDOWS(name, M, N, WIDE, BLOCKS)                                                                        \
  extern "C" __global__ void __launch_bounds__(M *N / 64, BLOCKS)                                                     \
      name(int images, int maps, int pitch, int h, int w, unsigned sourceImage, unsigned outMap, int flags,           \
           const int *__restrict__ table, const int *__restrict__ taps,                                               \
           const float *__restrict__ packed, const float *__restrict__ source, const float *__restrict__ bias,        \
           float *__restrict__ out) {                                                                                 \
    windows<Tile<M, N>, WIDE>(images, maps, pitch, h, w, sourceImage, outMap, flags, table, taps, packed, source,     \
                              bias, out);                                                                     \
  }
CONV_WINDOWS(conv_forward_128x128, 128, 128, false, 2)
CONV_WINDOWS(conv_forward_64x128, 64, 128, false, 4)
CONV_WINDOWS(conv_forward_64x64, 64, 64, false, 7)
