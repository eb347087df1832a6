// Ops on maps, N x C x H x W: response normalisation and max-pooling.
#include "images.h"
#include "numbers.h"

namespace maps {

// value is a map's element of one pixel, 0 outside of the maps.
GPU_FN float value(const float *pixel, int m, int count, int area) {
  return m >= 0 && m < count ? pixel[(long long)m * area] : 0.f;
}

// sum adds in ascending order.
template <int SIZE> GPU_FN float sum(const float (&v)[SIZE]) {
  float s = v[0];
#pragma unroll
  for (int i = 1; i < SIZE; i++) s = s + v[i];
  return s;
}
template <int SIZE> GPU_FN float squares(const float (&v)[SIZE]) {
  float q[SIZE];
#pragma unroll
  for (int i = 0; i < SIZE; i++) q[i] = v[i] * v[i];
  return sum<SIZE>(q);
}

// push moves everything down by one and appends v.
template <int SIZE> GPU_FN void push(float (&a)[SIZE], float v) {
#pragma unroll
  for (int i = 0; i + 1 < SIZE; i++) a[i] = a[i + 1];
  a[SIZE - 1] = v;
}

// Window is what the sum of a general normalisation runs over: maps of one pixel, or pixels of one map.
struct Window {
  int first, rows, columns, row_step, column_step;
};

// window is that of place i of an image: `size` elements from `before` in front of it on, clipped.
GPU_FN Window window(int i, int count, int height, int width, int size, int before, int space) {
  const int area = height * width;
  if (!space) {
    const int m = i / area, lo = max(m - before, 0), hi = m - before > count - size ? count : m - before + size;
    return {lo * area + i % area, 1, hi - lo, 0, area};
  }
  const int px = i % width, py = i / width % height;
  const int y0 = max(py - before, 0), y1 = py - before > height - size ? height : py - before + size;
  const int x0 = max(px - before, 0), x1 = px - before > width - size ? width : px - before + size;
  return {i - (py - y0) * width - (px - x0), y1 - y0, x1 - x0, width, 1};
}

// scale is k + alpha * the sum of squares over a window.
GPU_FN float scale(const float *image, Window w, float k, float alpha) {
  float s = 0;
  for (int r = 0; r < w.rows; r++)
    for (int c = 0; c < w.columns; c++) {
      const float v = image[w.first + r * w.row_step + c * w.column_step];
      s = s + v * v;
    }
  return k + alpha * s;
}

} // namespace maps

// Normalisation over five neighbouring maps with exponent 0.75, the paper's. A thread walks along the maps of one
// pixel, from blockIdx.y * chunk on, with the window in registers: every element is read once, but for the four next to
// a chunk's ends. Sums are made anew for each map, so that where chunks begin does not reach the bits.
extern "C" __global__ void __launch_bounds__(128, 8)
lrn_forward_5(int blocks, unsigned long long over_blocks, int count, int area, int chunk, float k, float alpha,
              const float *__restrict__ x, float *__restrict__ y) {
  const images::Place at = images::place(blocks, over_blocks);
  const int first = (int)blockIdx.y * chunk, end = min(first + chunk, count);
  if (at.i >= area) return;
  const unsigned long long image = at.image * (unsigned)count * (unsigned)area + (unsigned)at.i;
  const float *in = x + image;
  float *out = y + image + (long long)first * area;
  float v[5] = {0.f}; // x of maps m-2 .. m+2
#pragma unroll
  for (int i = 1; i < 5; i++) v[i] = maps::value(in, first - 3 + i, count, area);
  float ahead = maps::value(in, first + 2, count, area);
  for (int m = first; m < end; m++, out += area) {
    maps::push(v, ahead);
    ahead = maps::value(in, m + 3, count, area); // asked for before it is needed
    const float s = k + alpha * maps::squares(v);
    *out = v[2] * numbers::root_power(s);
  }
}

// Its gradient. With s_j as above, g_j = dy_j s_j^-0.75 and q_j = g_j x_j / s_j:
// dx_i = g_i - 2 alpha beta x_i (q_(i-2) + ... + q_(i+2)). A map is finished when the thread is two maps further.
extern "C" __global__ void __launch_bounds__(128, 8)
lrn_backward_5(int blocks, unsigned long long over_blocks, int count, int area, int chunk, float k, float alpha,
               const float *__restrict__ x, const float *__restrict__ dy, float *__restrict__ dx) {
  const images::Place at = images::place(blocks, over_blocks);
  const int first = (int)blockIdx.y * chunk, end = min(first + chunk, count);
  const float f = 2 * alpha * 0.75f;
  if (at.i >= area) return;
  const unsigned long long image = at.image * (unsigned)count * (unsigned)area + (unsigned)at.i;
  const float *in = x + image, *gradient = dy + image;
  float *out = dx + image + (long long)first * area;
  float v[5] = {0.f}, q[5] = {0.f}, g[3] = {0.f}; // x of j-2 .. j+2, q of j-4 .. j, g of j-2 .. j
#pragma unroll
  for (int i = 1; i < 5; i++) v[i] = maps::value(in, first - 5 + i, count, area);
  float ahead = maps::value(in, first, count, area), ahead_dy = maps::value(gradient, first - 2, count, area);
  for (int j = first - 2; j < end + 2; j++) {
    const float d = ahead_dy; // 0 outside of the maps, and so are g and q there
    maps::push(v, ahead);
    ahead = maps::value(in, j + 3, count, area);
    ahead_dy = maps::value(gradient, j + 1, count, area);
    const float s = k + alpha * maps::squares(v), scaled = numbers::root_power(s) * d;
    maps::push(g, scaled);
    maps::push(q, scaled * v[2] / s);
    if (j < first + 2) continue;
    *out = g[0] - f * v[0] * maps::sum(q);
    out += area;
  }
}

// Normalisation over any window, across maps or within them, one thread an element.
extern "C" __global__ void __launch_bounds__(256, 4)
lrn_forward_any(int blocks, unsigned long long over_blocks, int count, int height, int width, int size, int space,
                float k, float alpha, float beta, const float *__restrict__ x, float *__restrict__ y) {
  const images::Place at = images::place(blocks, over_blocks);
  const int each = count * height * width;
  if (at.i >= each) return;
  const maps::Window w = maps::window(at.i, count, height, width, size, size / 2, space);
  const float *image = x + at.image * (unsigned)each;
  y[at.image * (unsigned)each + (unsigned)at.i] =
      image[at.i] * numbers::power(maps::scale(image, w, k, alpha), beta);
}

// The first half of its gradient: g into dx, and q into `ratios`, which the second half sums over mirrored windows.
extern "C" __global__ void __launch_bounds__(256, 4)
lrn_ratios_any(int blocks, unsigned long long over_blocks, int count, int height, int width, int size, int space,
               float k, float alpha, float beta, const float *__restrict__ x, const float *__restrict__ dy,
               float *__restrict__ ratios, float *__restrict__ dx) {
  const images::Place at = images::place(blocks, over_blocks);
  const int each = count * height * width;
  if (at.i >= each) return;
  const maps::Window w = maps::window(at.i, count, height, width, size, size / 2, space);
  const float *image = x + at.image * (unsigned)each;
  const unsigned long long i = at.image * (unsigned)each + (unsigned)at.i;
  const float s = maps::scale(image, w, k, alpha), g = numbers::power(s, beta) * dy[i];
  dx[i] = g;
  ratios[i] = g * image[at.i] / s;
}

extern "C" __global__ void __launch_bounds__(256, 4)
lrn_backward_any(int blocks, unsigned long long over_blocks, int count, int height, int width, int size, int space,
                 float alpha, float beta, const float *__restrict__ x, const float *__restrict__ ratios,
                 float *__restrict__ dx) {
  const images::Place at = images::place(blocks, over_blocks);
  const int each = count * height * width;
  if (at.i >= each) return;
  const maps::Window w = maps::window(at.i, count, height, width, size, size - 1 - size / 2, space);
  const float *q = ratios + at.image * (unsigned)each + (unsigned)w.first, f = 2 * alpha * beta;
  float s = 0;
  for (int r = 0; r < w.rows; r++)
    for (int c = 0; c < w.columns; c++) s = s + q[r * w.row_step + c * w.column_step];
  const unsigned long long i = at.image * (unsigned)each + (unsigned)at.i;
  dx[i] = dx[i] - f * x[i] * s;
}

namespace {

// Pool is a pooling as kernels have it.
struct Pool {
  int height, width, out_h, out_w, kernel, stride, top, left;
};

// greatest is the maximum of the window that begins at (y, x); what is no number wins. KERNEL is its size, if the
// compiler is to know it: then all is asked for at once.
template <int KERNEL> GPU_FN float greatest(const Pool &p, const float *map, int y, int x) {
  float best = __int_as_float((int)0xff800000u);
  const auto take = [&](int py, int px) {
    const float v = map[py * p.width + px];
    best = v > best || v != v ? v : best;
  };
  if constexpr (KERNEL > 0) {
#pragma unroll
    for (int i = 0; i < KERNEL; i++)
#pragma unroll
      for (int j = 0; j < KERNEL; j++)
        if (y + i >= 0 && y + i < p.height && x + j >= 0 && x + j < p.width) take(y + i, x + j);
  } else {
    for (int py = max(y, 0); py < min(y + p.kernel, p.height); py++)
      for (int px = max(x, 0); px < min(x + p.kernel, p.width); px++) take(py, px);
  }
  return best;
}

} // namespace

// Max-pooling, one thread a window.
extern "C" __global__ void __launch_bounds__(256, 4)
pool_forward(int blocks, unsigned long long over_blocks, int count, int height, int width, int out_h, int out_w,
             unsigned long long over_out_h, unsigned long long over_out_w, int kernel, int stride, int top, int left,
             const float *__restrict__ x, float *__restrict__ y) {
  const images::Place at = images::place(blocks, over_blocks);
  const int each = count * out_h * out_w;
  if (at.i >= each) return;
  const Pool p{height, width, out_h, out_w, kernel, stride, top, left};
  const images::Pixel out = images::pixel(at.i, out_h, out_w, over_out_h, over_out_w);
  const float *map = x + (at.image * (unsigned)count + (unsigned)out.map) * (unsigned)(height * width);
  const int from_y = out.y * stride - top, from_x = out.x * stride - left;
  y[at.image * (unsigned)each + (unsigned)at.i] =
      kernel == 3 ? greatest<3>(p, map, from_y, from_x) : greatest<0>(p, map, from_y, from_x);
}

// Its gradient, one thread a pixel, which adds up what the windows that hold it give it, in their order. A window gives
// to every place equal to its maximum (ties_all), or to the first in row order: then a place equal to it looks at those
// before it.
extern "C" __global__ void __launch_bounds__(256, 4)
pool_backward(int blocks, unsigned long long over_blocks, int count, int height, int width,
              unsigned long long over_height, unsigned long long over_width, int out_h, int out_w, int kernel,
              int stride, unsigned long long over_stride, int top, int left, int ties_all, const float *__restrict__ x,
              const float *__restrict__ y, const float *__restrict__ dy, float *__restrict__ dx) {
  const images::Place at = images::place(blocks, over_blocks);
  const int each = count * height * width;
  if (at.i >= each) return;
  const images::Pixel in = images::pixel(at.i, height, width, over_height, over_width);
  // Windows (oy, ox) with oy*stride - top <= in.y < oy*stride - top + kernel, and so for x.
  const int reach_y = in.y + top, reach_x = in.x + left;
  const int oy0 = reach_y < kernel ? 0 : images::quotient(reach_y - kernel, over_stride) + 1;
  const int ox0 = reach_x < kernel ? 0 : images::quotient(reach_x - kernel, over_stride) + 1;
  const int oy1 = min(images::quotient(reach_y, over_stride), out_h - 1);
  const int ox1 = min(images::quotient(reach_x, over_stride), out_w - 1);
  const unsigned long long plane = at.image * (unsigned)count + (unsigned)in.map;
  const float *map = x + plane * (unsigned)(height * width), own = map[in.y * width + in.x];
  const float *best = y + plane * (unsigned)(out_h * out_w), *gradient = dy + plane * (unsigned)(out_h * out_w);
  float sum = 0;
  for (int oy = oy0; oy <= oy1; oy++)
    for (int ox = ox0; ox <= ox1; ox++) {
      if (best[oy * out_w + ox] != own) continue;
      bool mine = true;
      if (!ties_all) {
        const int x0 = max(ox * stride - left, 0), x1 = min(ox * stride - left + kernel, width);
        for (int py = max(oy * stride - top, 0); py <= in.y && mine; py++)
          for (int px = x0; px < (py < in.y ? x1 : in.x) && mine; px++) mine = map[py * width + px] != own;
      }
      if (mine) sum = sum + gradient[oy * out_w + ox];
    }
  dx[at.image * (unsigned)each + (unsigned)at.i] = sum;
}
