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

GPU_FN Place place(unsigned blocks) {
  const unsigned image = blockIdx.x / blocks;
  return {image, (int)((blockIdx.x - image * blocks) * blockDim.x + threadIdx.x)};
}

} // namespace images
