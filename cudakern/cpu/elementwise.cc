// Elementwise ops, dropout, softmax and the input, built like maps.cc: every clone gives the same bits.
// cgo does not take these as flags.
#pragma GCC optimize("fp-contract=off", "no-math-errno", "no-trapping-math")
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "engine.h"
#include "threads.h"

#define CLONES __attribute__((target_clones("avx512f", "avx2", "default")))

namespace {

// Philox4x32-10, as in cudakern/philox.
inline void philox(uint32_t c[4], uint32_t k0, uint32_t k1) {
  for (int r = 0; r < 10; r++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];
    uint32_t n0 = (uint32_t)(b >> 32) ^ c[1] ^ k0, n2 = (uint32_t)(a >> 32) ^ c[3] ^ k1;
    c[1] = (uint32_t)b;
    c[3] = (uint32_t)a;
    c[0] = n0;
    c[2] = n2;
  }
}

// exponential and logarithm in double, from +, *, / alone, so that no library's version reaches the bits. Relative
// error below 1e-15 for arguments in (-700, 0], and for those in [1, 2^52]. What is no number stays none, so that the
// guard against a diverged step sees it in the loss.
double exponential(double x) {
  if (x < -700) return 0;
  double k = std::nearbyint(x * 1.4426950408889634);
  double r = (x - k * 6.93147180369123816490e-01) - k * 1.90821492927058770002e-10;
  double s = 1;
  for (int i = 14; i > 0; i--) s = 1 + s * r / i; // Taylor, |r| <= 0.347
  uint64_t bits = (uint64_t)(1023 + (int64_t)k) << 52;
  double scale;
  memcpy(&scale, &bits, 8);
  return s * scale;
}

double logarithm(double x) {
  if (!(x <= 0x1p1023)) return x;
  uint64_t bits;
  memcpy(&bits, &x, 8);
  int64_t e = (int64_t)(bits >> 52) - 1023;
  bits = (bits & 0xfffffffffffffULL) | 0x3ff0000000000000ULL;
  double m;
  memcpy(&m, &bits, 8);
  if (m > 1.4142135623730951) {
    m /= 2;
    e++;
  }
  double s = (m - 1) / (m + 1), q = s * s, sum = 0;
  for (int i = 23; i > 0; i -= 2) sum = sum * q + 1.0 / i; // atanh series, |s| <= 0.172
  return (double)e * 0.69314718055994530942 + 2 * s * sum;
}

// tangent is tanh x in float, from +, -, * and / alone, in the order of the GPU's kernel (cuda/kernels/numbers.h, which
// says how), so that both give the same bits.
inline float tangent(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x), sign = bits & 0x80000000u;
  const float positive = __builtin_bit_cast(float, bits ^ sign), a = positive > 9.5f ? 9.5f : positive, u = a * a;
  float p = -0.005704984068870544f;
  p = p * u + 0.0206390842795372f;
  p = p * u - 0.05373971536755562f;
  p = p * u + 0.13331441581249237f;
  p = p * u - 0.3333328068256378f;
  const float low = a + a * (u * p), t = a * 2.8853900817779268f + 12582912.f, k = t - 12582912.f;
  const float r = ((a + a) - k * 0.693359375f) + k * 2.12194440e-4f;
  float s = 1 / 5040.f;
  s = s * r + 1 / 720.f;
  s = s * r + 1 / 120.f;
  s = s * r + 1 / 24.f;
  s = s * r + 1 / 6.f;
  s = s * r + 0.5f;
  s = s * r + 1;
  s = s * r + 1;
  const uint32_t power = (__builtin_bit_cast(uint32_t, t) << 23) + 0x3f800000u;
  const float high = 1 - 2 / (s * __builtin_bit_cast(float, power) + 1), y = a < 0.625f ? low : high;
  return __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, y) | sign);
}

// row_sum is the greatest logit and the sum of exponentials below it, in class order.
double row_sum(const float *z, int classes, float *top) {
  float t = z[0];
  for (int i = 1; i < classes; i++) t = z[i] > t ? z[i] : t;
  double s = 0;
  for (int i = 0; i < classes; i++) s += exponential((double)z[i] - t);
  *top = t;
  return s;
}

} // namespace

extern "C" {

CLONES static void relu_forward(size_t n, const float *x, float *y) {
  for (size_t i = 0; i < n; i++) y[i] = x[i] < 0 ? 0.f : x[i]; // NaN stays
}
CLONES static void relu_backward(size_t n, const float *y, const float *dy, float *dx) {
  for (size_t i = 0; i < n; i++) dx[i] = y[i] > 0 ? dy[i] : 0.f;
}
CLONES static void tanh_forward(size_t n, const float *x, float *y) {
  for (size_t i = 0; i < n; i++) y[i] = tangent(x[i]);
}
CLONES static void tanh_backward(size_t n, const float *y, const float *dy, float *dx) {
  for (size_t i = 0; i < n; i++) dx[i] = dy[i] * ((1 - y[i]) * (1 + y[i]));
}
CLONES static void scale(size_t n, float factor, const float *x, float *y) {
  for (size_t i = 0; i < n; i++) y[i] = x[i] * factor;
}
CLONES void ck_add_alone(size_t n, float *dst, const float *src) {
  for (size_t i = 0; i < n; i++) dst[i] += src[i];
}
// sgd says whether all that it has written to w1 is finite: a number that is not has all bits of its exponent set, and
// one more in the exponent's last place carries into the sign's. To look here saves reading the weights again.
CLONES static bool sgd(size_t n, const float *w0, const float *v0, const float *g, float *w1, float *v1, float momentum,
    float rate, float decay) {
  float shrink = decay * rate;
  uint32_t seen = 0;
  for (size_t i = 0; i < n; i++) {
    float w = w0[i];
    float v = momentum * v0[i] - shrink * w - rate * g[i];
    v1[i] = v;
    w1[i] = w += v;
    uint32_t bits;
    memcpy(&bits, &w, sizeof bits);
    seen |= (bits & 0x7f800000u) + 0x00800000u;
  }
  return !(seen >> 31);
}

static void dropout(const ck_dropout_desc *d, uint64_t key, uint64_t step, const float *x, float *y) {
  size_t units = (size_t)d->c * d->area;
  for (int n = 0; n < d->n; n++, x += units, y += units)
    for (size_t u = 0; u < units; u += 4) {
      uint32_t c[4] = {(uint32_t)((d->first_unit + u) / 4), (uint32_t)(d->first_image + n), (uint32_t)step,
          (uint32_t)(step >> 32)};
      philox(c, (uint32_t)key, (uint32_t)(key >> 32));
      for (size_t i = u; i < u + 4 && i < units; i++) {
        size_t m = i / d->area, p = i % d->area;
        size_t at = (m / d->block) * d->area * d->block + p * d->block + m % d->block;
        y[at] = c[i - u] < d->threshold ? x[at] * d->factor : 0.f;
      }
    }
}

static void softmax_forward(int n, int classes, int valid, const float *z, const int32_t *labels, float *loss,
    int32_t *rank, int32_t *ties) {
  for (int i = 0; i < n; i++, z += classes) {
    loss[i] = 0;
    rank[i] = -1;
    ties[i] = 0;
    if (i >= valid) continue;
    float top, t = z[labels[i]];
    double sum = row_sum(z, classes, &top);
    loss[i] = (float)(logarithm(sum) - ((double)t - top));
    rank[i] = 0;
    ties[i] = -1; // the label's own logit equals itself
    for (int c = 0; c < classes; c++) {
      rank[i] += z[c] > t;
      ties[i] += z[c] == t;
    }
  }
}

static void softmax_backward(int n, int classes, int valid, int divisor, const float *z, const int32_t *labels,
    float *dz) {
  for (int i = 0; i < n; i++, z += classes, dz += classes) {
    if (i >= valid) {
      memset(dz, 0, sizeof(float) * classes);
      continue;
    }
    float top;
    double sum = row_sum(z, classes, &top);
    for (int c = 0; c < classes; c++)
      dz[c] = (float)((exponential((double)z[c] - top) / sum - (c == labels[i])) / divisor);
  }
}

// view_row views n pixels of a row, to places `step` apart. Most rows are plain ones, one way (1) or the other (-1):
// those are done by vectors, some pixels at a time and then turned around.
CLONES static void view_row(int n, const uint8_t *src, const float *mean, float shift, float scale, float *y,
    long step) {
  if (step == 1) {
    for (int i = 0; i < n; i++) y[i] = ((float)src[i] - mean[i] + shift) * scale;
    return;
  }
  float part[256];
  for (int some; n > 0; n -= some, src += some, mean += some, y += some * step) {
    some = n < 256 ? n : 256;
    for (int i = 0; i < some; i++) part[i] = ((float)src[i] - mean[i] + shift) * scale;
    if (step == -1)
      for (int i = 0; i < some; i++) (y - some + 1)[i] = part[some - 1 - i];
    else
      for (int i = 0; i < some; i++) y[i * step] = part[i];
  }
}

// view_row_over is view_row where the mean goes another way than the image: that of the i-th pixel is mean[i * turn].
static void view_row_over(int n, const uint8_t *src, const float *mean, int turn, float shift, float scale, float *y,
    long step) {
  for (int i = 0; i < n; i++) y[i * step] = ((float)src[i] - mean[i * turn] + shift) * scale;
}

static void input(const ck_input_desc *d, const uint8_t *images, const ck_view *views, const float *mean, float scale,
    float *y) {
  const size_t plane = (size_t)d->h * d->w, out = (size_t)d->out_h * d->out_w;
  for (int n = 0; n < d->n; n++) {
    const ck_view *v = views + n;
    // Columns of the image that are seen, and where the first of them goes.
    const int from = v->x > 0 ? v->x : 0, to = v->x + d->out_w < d->w ? v->x + d->out_w : d->w;
    const int at = v->flip ? d->out_w - 1 - (from - v->x) : from - v->x;
    for (int c = 0; c < d->c; c++) {
      const uint8_t *src = images + ((size_t)n * d->c + c) * plane;
      float *dst = y + (size_t)n * d->c * out + (size_t)(c / d->block) * out * d->block + c % d->block;
      for (int oy = 0; oy < d->out_h; oy++, dst += (size_t)d->out_w * d->block) {
        const int py = oy + v->y, seen = py >= 0 && py < d->h && to > from ? to - from : 0;
        if (seen < d->out_w)
          for (int i = 0; i < d->out_w; i++) dst[i * d->block] = 0;
        if (seen && d->mean_y >= 0)
          view_row_over(seen, src + (size_t)py * d->w + from,
              mean + c * plane + (size_t)(oy + d->mean_y) * d->w + d->mean_x + at, v->flip ? -1 : 1, v->shift[c % 3],
              scale, dst + at * d->block, v->flip ? -d->block : d->block);
        else if (seen)
          view_row(seen, src + (size_t)py * d->w + from, mean + c * plane + (size_t)py * d->w + from, v->shift[c % 3],
              scale, dst + at * d->block, v->flip ? -d->block : d->block);
      }
    }
  }
}

void ck_relu_forward(ck_team *team, size_t n, const float *x, float *y) {
  team->floats(n, [&](size_t a, size_t b) { relu_forward(b - a, x + a, y + a); });
}
void ck_relu_backward(ck_team *team, size_t n, const float *y, const float *dy, float *dx) {
  team->floats(n, [&](size_t a, size_t b) { relu_backward(b - a, y + a, dy + a, dx + a); });
}
void ck_tanh_forward(ck_team *team, size_t n, const float *x, float *y) {
  team->floats(n, [&](size_t a, size_t b) { tanh_forward(b - a, x + a, y + a); });
}
void ck_tanh_backward(ck_team *team, size_t n, const float *y, const float *dy, float *dx) {
  team->floats(n, [&](size_t a, size_t b) { tanh_backward(b - a, y + a, dy + a, dx + a); });
}
void ck_scale(ck_team *team, size_t n, float factor, const float *x, float *y) {
  team->floats(n, [&](size_t a, size_t b) { scale(b - a, factor, x + a, y + a); });
}
void ck_add(ck_team *team, size_t n, float *dst, const float *src) {
  team->floats(n, [&](size_t a, size_t b) { ck_add_alone(b - a, dst + a, src + a); });
}
int ck_sgd(ck_team *team, size_t n, const float *w0, const float *v0, const float *g, float *w1, float *v1,
    float momentum, float rate, float decay) {
  std::atomic<bool> finite{true};
  team->floats(n, [&](size_t a, size_t b) {
    if (!sgd(b - a, w0 + a, v0 + a, g + a, w1 + a, v1 + a, momentum, rate, decay)) finite = false;
  });
  return finite;
}

void ck_dropout(ck_team *team, const ck_dropout_desc *d, uint64_t key, uint64_t step, const float *x, float *y) {
  const size_t units = (size_t)d->c * d->area;
  team->images(*d, units, [&](ck_dropout_desc part, size_t n) {
    part.first_image += (int)n;
    dropout(&part, key, step, x + n * units, y + n * units);
  });
}

// An image's softmax is some hundred times the work of as many floats.
void ck_softmax_forward(ck_team *team, int n, int classes, int valid, const float *z, const int32_t *labels,
    float *loss, int32_t *rank, int32_t *ties) {
  team->ranges(n, 1, team->enough(threads::Team::worth / 128 / classes + 1), [&](size_t a, size_t b) {
    softmax_forward((int)(b - a), classes, valid - (int)a, z + a * classes, labels + a, loss + a, rank + a, ties + a);
  });
}
void ck_softmax_backward(ck_team *team, int n, int classes, int valid, int divisor, const float *z,
    const int32_t *labels, float *dz) {
  team->ranges(n, 1, team->enough(threads::Team::worth / 128 / classes + 1), [&](size_t a, size_t b) {
    softmax_backward((int)(b - a), classes, valid - (int)a, divisor, z + a * classes, labels + a, dz + a * classes);
  });
}

void ck_input(ck_team *team, const ck_input_desc *d, const uint8_t *images, const ck_view *views, const float *mean,
    float scale, float *y) {
  const size_t in = (size_t)d->c * d->h * d->w, out = (size_t)d->c * d->out_h * d->out_w;
  team->images(*d, out, [&](const ck_input_desc &part, size_t n) {
    input(&part, images + n * in, views + n, mean, scale, y + n * out);
  });
}

} // extern "C"
