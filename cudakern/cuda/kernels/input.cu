// Images into the network, and moves of features.
#include "images.h"

// view_words are the 32-bit words of one image's view: y, x, flip, and the shift of three channels as float.
constexpr int view_words = 6;

// Views uint8 images: a thread makes one element of the output. The mean is that of the pixel or, where mean_y is not
// negative, that which begins at (mean_y, mean_x) and lies under every output alike. Sums of 32 bits may wrap where a
// view is far outside; what is inside is told by one comparison without sign: a wrapped place is outside all the same.
extern "C" __global__ void __launch_bounds__(256, 4)
input_forward(int blocks, unsigned long long over_blocks, int channels, int height, int width, int out_h, int out_w,
              unsigned long long over_out_h, unsigned long long over_out_w,
              const unsigned char *__restrict__ pixels, const unsigned *__restrict__ views,
              const float *__restrict__ mean, int mean_y, int mean_x, float scale, float *__restrict__ y) {
  const images::Place at = images::place(blocks, over_blocks);
  const int each = channels * out_h * out_w, area = height * width;
  if (at.i >= each) return;
  const images::Pixel to = images::pixel(at.i, out_h, out_w, over_out_h, over_out_w);
  const unsigned *view = views + at.image * view_words;
  const unsigned py = (unsigned)to.y + view[0], px = (unsigned)(view[2] ? out_w - 1 - to.x : to.x) + view[1];
  float v = 0;
  if (py < (unsigned)height && px < (unsigned)width) {
    const unsigned pixel = (unsigned)(to.map * area) + py * (unsigned)width + px;
    const unsigned char *image = pixels + at.image * (unsigned)(channels * area);
    const unsigned under =
        mean_y < 0 ? pixel : (unsigned)(to.map * area) + (unsigned)((to.y + mean_y) * width + to.x + mean_x);
    v = ((float)image[pixel] - mean[under] + __uint_as_float(view[3 + to.map % 3])) * scale;
  }
  y[at.image * (unsigned)each + (unsigned)at.i] = v;
}

// Copies `width` elements of each row, from place from_first of rows of from_step elements to place to_first of rows of
// to_step.
extern "C" __global__ void __launch_bounds__(256, 4)
concat_copy(int blocks, unsigned long long over_blocks, int width, int from_step, int from_first, int to_step,
            int to_first, const float *__restrict__ src, float *__restrict__ dst) {
  const images::Place at = images::place(blocks, over_blocks);
  if (at.i >= width) return;
  dst[at.image * (unsigned)to_step + (unsigned)(to_first + at.i)] =
      src[at.image * (unsigned)from_step + (unsigned)(from_first + at.i)];
}
