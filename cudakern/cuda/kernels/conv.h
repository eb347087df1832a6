// conv.h reads the operands of convolutions as matrices that exist nowhere.
#pragma once
#include "gemm.h"

// Window says how output pixels meet the source: all of a forward pass, or one phase of a pass by data. With a stride
// S, pixels (y, x) of the image fall into S x S phases by their remainders; within one, the gradient is a convolution
// of stride 1 with every S-th row and column of the filters. 16 ints in this order, made by op_conv.go.
struct Window {
  int taps;                   // rows of the tap tables and of the packed weights, a multiple of K_STEP
  int firstTap;               // where they begin
  int step;                   // source pixels between the windows of neighbouring outputs
  int top, left;              // where the window of output (0, 0) begins in the source
  int columns, pixels;        // outputs in a row, and in an image
  int first, row, column;     // output (i, j) lies at first + i*row + j*column of its map
  int unused[2];
  unsigned pixelsMultiplier, pixelsShift, columnsMultiplier, columnsShift;

  GPU_METHOD explicit Window(const int *w) {
    int4 a = gpu_load4(w), b = gpu_load4(w + 4), c = gpu_load4(w + 8), d = gpu_load4(w + 12);
    taps = a.x, firstTap = a.y, step = a.z, top = a.w;
    left = b.x, columns = b.y, pixels = b.z, first = b.w;
    row = c.x, column = c.y;
    pixelsMultiplier = d.x, pixelsShift = d.y, columnsMultiplier = d.z, columnsShift = d.w;
  }
  // split finds image, row and column of output q of all images.
  GPU_METHOD void split(unsigned q, unsigned &image, int &i, int &j) const {
    image = gpu_divide(q, pixelsMultiplier, pixelsShift);
    unsigned p = q - image * pixels;
    i = gpu_divide(p, columnsMultiplier, columnsShift);
    j = p - i * columns;
  }
};

// Whether a tap meets the image. Where filters are at most NARROW wide, the rows and columns of a window that lie
// within are bits of a word (rows 0..14, columns 16..30; 15 and 31 never), the tap has its own two, and one instruction
// compares. WIDE filters have coordinates in half words instead, row high, column low: the window's mark is 0x7fff less
// its first place, from which the tap's is taken; `beyond` is that place less the image's size plus 0x8000, to which it
// is added. No half overflows, and the highest bit of one is set where the tap lies before or behind the image.
constexpr int NARROW = 15;
constexpr int NOWHERE = -1; // of a window: in no image, wide or narrow. A tap that is in none has bit 31 alone

GPU_FN unsigned rangeBits(int first, int size) {
  int low = min(max(-first, 0), NARROW), high = min(max(size - first, 0), NARROW);
  return ((1u << high) - 1) & ~((1u << low) - 1);
}

template <bool WIDE>
GPU_FN int windowMark(int top, int left, int h, int w) {
  if (WIDE) return (int)((unsigned)(0x7fff - top) << 16 | (unsigned)(0x7fff - left));
  return (int)~(rangeBits(top, h) | rangeBits(left, w) << 16); // what is missing
}

// beyondMark is the other half of a wide window.
template <bool WIDE>
GPU_FN int beyondMark(int window, int h, int w) {
  return WIDE ? (int)(~((unsigned)h << 16 | (unsigned)w) - (unsigned)window) : 0;
}

template <bool WIDE>
GPU_FN bool inside(int window, int beyond, int tap) {
  if (!WIDE) return (window & tap) == 0;
  return ((((unsigned)window - (unsigned)tap) | ((unsigned)beyond + (unsigned)tap)) & 0x80008000u) == 0;
}

// Gather reads packed weights as A and the windows of output pixels as B: a thread copies K_STEP * N / THREADS taps of
// one pixel. The table of taps has, for every four, their offsets from a window's first place and then their marks.
template <class T, bool WIDE>
struct Gather {
  static constexpr int A_WIDTH = 4, A_COUNT = K_STEP * T::M / 4 / T::THREADS;
  static constexpr int B_WIDTH = 1, B_COUNT = K_STEP * T::N / T::THREADS;
  static constexpr int A_ROWS = T::THREADS / (T::M / 4); // of a tile that the block copies at once

  const float *weights; // packed: [tap][pitch]
  const float *pixel;   // the window's first place in the source, which may lie outside of the image
  const int *taps;
  int pitch, window, beyond, offset[B_COUNT], mark[B_COUNT];

  // q is the output whose window the thread copies.
  GPU_METHOD Gather(const Window &win, const float *packed, int pitch, const int *taps, const float *source, int h,
                    int w, unsigned sourceImage, unsigned q)
      : pitch(pitch) {
    const int tid = threadIdx.x, tap = tid / T::N * B_COUNT;
    weights = packed + ((long long)win.firstTap + tid / (T::M / 4) - K_STEP) * pitch + blockIdx.y * T::M +
              tid % (T::M / 4) * 4;
    this->taps = taps + 2 * (win.firstTap + tap);
    unsigned image;
    int i, j;
    win.split(q, image, i, j);
    const int top = i * win.step + win.top, left = j * win.step + win.left;
    pixel = source + (long long)image * sourceImage + (long long)top * w + left;
    window = windowMark<WIDE>(top, left, h, w);
    beyond = beyondMark<WIDE>(window, h, w);
  }
  GPU_METHOD void advance() {
    weights += (long long)K_STEP * pitch;
#pragma unroll
    for (int i = 0; i < B_COUNT; i += 4) {
      int4 o = gpu_load4(taps + 2 * i), m = gpu_load4(taps + 2 * i + 4);
      offset[i] = o.x, offset[i + 1] = o.y, offset[i + 2] = o.z, offset[i + 3] = o.w;
      mark[i] = m.x, mark[i + 1] = m.y, mark[i + 2] = m.z, mark[i + 3] = m.w;
    }
    taps += 2 * K_STEP;
  }
  GPU_METHOD const float *a(int i) const { return weights + i * A_ROWS * pitch; }
  GPU_METHOD bool aValid(int) const { return true; }
  GPU_METHOD int aTo(int i) const {
    return (threadIdx.x / (T::M / 4) + i * A_ROWS) * T::PITCH_A + threadIdx.x % (T::M / 4) * 4;
  }
  GPU_METHOD const float *b(int i) const { return pixel + offset[i]; }
  GPU_METHOD bool bValid(int i) const { return inside<WIDE>(window, beyond, mark[i]); }
  GPU_METHOD int bTo(int i) const {
    return (threadIdx.x / T::N * B_COUNT + i) * T::PITCH_B + threadIdx.x % T::N;
  }
};

// Gradient reads, for a gradient by weights, dy as A (rows are filters) and the windows as B (columns are taps); k goes
// through the output pixels of one image after another. The table of pixels has, for all pixels of a part's images,
// where the window begins in x, its mark, and where the pixel lies in dy: four ints an entry, the last 0, and whole
// steps of them. A thread copies one pixel's part of M*K_STEP/THREADS filters and N*K_STEP/THREADS taps.
template <class T, bool WIDE>
struct Gradient {
  static constexpr int A_WIDTH = 1, A_COUNT = K_STEP * T::M / T::THREADS;
  static constexpr int B_WIDTH = 1, B_COUNT = K_STEP * T::N / T::THREADS;
  static constexpr int LINES = T::THREADS / K_STEP; // rows or columns that the block copies at once
  // Blocks of 256 threads, two to a processor, have 128 registers a thread: the taps would be too many.
  static constexpr bool TAPS_IN_REGISTERS = T::THREADS < 256;

  const float *x, *dy;     // of the part's first image
  const float *xAt, *dyAt; // of the pixel
  const int *pixels;
  const int2 *taps; // offset and mark of the tile's columns, in shared memory
  int at, count;    // the thread's pixel, of all in the part
  int window, beyond, h, w;
  unsigned filter[A_COUNT];
  int2 tap[B_COUNT];

  GPU_METHOD Gradient(const float *x, const float *dy, const int *pixels, const int2 *taps, int count, int h, int w,
                      int filters, int plane, int row0)
      : x(x), dy(dy), xAt(x), dyAt(dy), pixels(pixels), taps(taps + threadIdx.x / K_STEP),
        at((int)(threadIdx.x % K_STEP) - K_STEP), count(count), window(0), beyond(0), h(h), w(w) {
#pragma unroll
    for (int i = 0; i < A_COUNT; i++)
      filter[i] = (unsigned)min(row0 + (int)threadIdx.x / K_STEP + i * LINES, filters - 1) * plane;
    if (TAPS_IN_REGISTERS) readTaps();
  }
  GPU_METHOD void readTaps() {
#pragma unroll
    for (int i = 0; i < B_COUNT; i++) tap[i] = taps[i * LINES];
  }
  GPU_METHOD void advance() {
    at += K_STEP;
    const int4 e = gpu_load4(pixels + 4ll * at);
    xAt = x + e.x, dyAt = dy + e.z;
    window = at < count ? e.y : NOWHERE;
    beyond = beyondMark<WIDE>(window, h, w);
    if (!TAPS_IN_REGISTERS) readTaps();
  }
  GPU_METHOD const float *a(int i) const { return dyAt + filter[i]; }
  GPU_METHOD bool aValid(int) const { return at < count; }
  GPU_METHOD int aTo(int i) const {
    return threadIdx.x % K_STEP * T::PITCH_A + threadIdx.x / K_STEP + i * LINES;
  }
  GPU_METHOD const float *b(int i) const { return xAt + tap[i].x; }
  GPU_METHOD bool bValid(int i) const { return inside<WIDE>(window, beyond, tap[i].y); }
  GPU_METHOD int bTo(int i) const {
    return threadIdx.x % K_STEP * T::PITCH_B + threadIdx.x / K_STEP + i * LINES;
  }
};
