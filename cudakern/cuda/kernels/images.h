// Where a thread works in kernels on batches. Blocks are numbered through all images, `blocks` of them to each, so that
// neither a batch nor an image can be too large for the grid's dimensions; places within an image fit an int.
#pragma once
#include "gpu.h"

namespace images {

// Place is an image and an element, pixel or group of it: of the last block's threads some have none.
struct Place {
  unsigned long long image;
  int i;
};

// quotient is x / d for 0 <= x < 2^31; `over` is what the host made of d (over in op_common.go): a division costs more
// than many a kernel does otherwise.
GPU_FN int quotient(int x, unsigned long long over) {
  return (int)gpu_divide((unsigned)x, (unsigned)(over >> 32), (unsigned)over);
}

GPU_FN Place place(int blocks, unsigned long long over_blocks) {
  const int image = quotient((int)blockIdx.x, over_blocks);
  return {(unsigned long long)image, (int)(((int)blockIdx.x - image * blocks) * blockDim.x + threadIdx.x)};
}

// Pixel is where an element of maps of height x width is.
struct Pixel {
  int map, y, x;
};

GPU_FN Pixel pixel(int i, int height, int width, unsigned long long over_height, unsigned long long over_width) {
  const int row = quotient(i, over_width), map = quotient(row, over_height);
  return {map, row - map * height, i - row * width};
}

} // namespace images
