// Functions that the hardware has no instruction of sufficient accuracy for, and Philox. Everything is built from
// operations that IEEE 754 rounds in one way, so the bits are the same on every GPU.
#pragma once
#include "gpu.h"

namespace numbers {

// exponential is e^x in double: relative error below 3e-16 for |x| <= 700. Beyond that 0 or infinity, which is what
// float would hold as well. What is no number stays so.
GPU_FN double exponential(double x) {
  if (x < -700) return 0;
  if (x > 700) return __longlong_as_double(0x7ff0000000000000LL);
  const double k = rint(x * 1.4426950408889634);
  double r = fma(k, -6.93147180369123816490e-01, x); // ln 2 in two parts: the first product is exact
  r = fma(k, -1.90821492927058770002e-10, r);
  // Taylor's series; |r| <= 0.347, so the term left out is below 5e-18.
  double s = 1.0 / 6227020800.0;
  s = fma(s, r, 1.0 / 479001600.0);
  s = fma(s, r, 1.0 / 39916800.0);
  s = fma(s, r, 1.0 / 3628800.0);
  s = fma(s, r, 1.0 / 362880.0);
  s = fma(s, r, 1.0 / 40320.0);
  s = fma(s, r, 1.0 / 5040.0);
  s = fma(s, r, 1.0 / 720.0);
  s = fma(s, r, 1.0 / 120.0);
  s = fma(s, r, 1.0 / 24.0);
  s = fma(s, r, 1.0 / 6.0);
  s = fma(s, r, 0.5);
  s = fma(s, r, 1.0);
  s = fma(s, r, 1.0);
  return s * __longlong_as_double((long long)(1023 + (int)k) << 52);
}

// logarithm is ln x in double, of x normal and positive: relative error below 1e-15 for x >= 1.5 or x <= 0.7, absolute
// error below 3e-16 between. Infinity and what is no number come back as they are.
GPU_FN double logarithm(double x) {
  const long long b = __double_as_longlong(x);
  int e = (int)(b >> 52 & 0xfff) - 1023;
  if (e >= 1024) return x; // infinite, no number, or negative
  double m = __longlong_as_double((b & 0xfffffffffffffLL) | 0x3ff0000000000000LL);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    e++;
  }
  // ln m = 2 atanh s; |s| <= 0.172, so the term left out is below 1e-18 of s.
  const double s = (m - 1) / (m + 1), q = s * s;
  double sum = 1.0 / 21;
  sum = fma(sum, q, 1.0 / 19);
  sum = fma(sum, q, 1.0 / 17);
  sum = fma(sum, q, 1.0 / 15);
  sum = fma(sum, q, 1.0 / 13);
  sum = fma(sum, q, 1.0 / 11);
  sum = fma(sum, q, 1.0 / 9);
  sum = fma(sum, q, 1.0 / 7);
  sum = fma(sum, q, 1.0 / 5);
  sum = fma(sum, q, 1.0 / 3);
  sum = fma(sum, q, 1.0);
  return fma((double)e, 0.69314718055994530942, 2 * s * sum);
}

// root_power is s^-0.75, the paper's exponent, by three operations that are rounded correctly.
GPU_FN float root_power(float s) {
  const float r = sqrtf(s);
  return 1.0f / (r * sqrtf(r));
}

// power is s^-beta of a positive s: correct but for one rounding.
GPU_FN float power(float s, float beta) {
  if (beta == 0.75f) return root_power(s);
  return (float)exponential(-(double)beta * logarithm((double)s));
}

// tangent is tanh x, within 1.4 units in the last place (measured, all sizes). Below 0.625 it is a polynomial, fitted
// for the least largest relative error (4.4e-9); above it is 1 - 2 / (e^2a + 1), the exponential by a series over 2^k,
// with k from adding and taking off 1.5 * 2^23. In float, since most GPUs have little else, and without fused
// operations, in the order of the CPU device (cpu/elementwise.cc).
GPU_FN float tangent(float x) {
  const unsigned bits = __float_as_uint(x), sign = bits & 0x80000000u;
  const float positive = __uint_as_float(bits ^ sign), a = positive > 9.5f ? 9.5f : positive, u = a * a;
  float p = -0.005704984068870544f;
  p = p * u + 0.0206390842795372f;
  p = p * u - 0.05373971536755562f;
  p = p * u + 0.13331441581249237f;
  p = p * u - 0.3333328068256378f;
  const float low = a + a * (u * p), t = a * 2.8853900817779268f + 12582912.f, k = t - 12582912.f;
  const float r = ((a + a) - k * 0.693359375f) + k * 2.12194440e-4f; // ln 2 in two parts, the first product exact
  float s = 1 / 5040.f; // |r| <= 0.347, so the term left out is below 6e-9
  s = s * r + 1 / 720.f;
  s = s * r + 1 / 120.f;
  s = s * r + 1 / 24.f;
  s = s * r + 1 / 6.f;
  s = s * r + 0.5f;
  s = s * r + 1;
  s = s * r + 1;
  const unsigned power = (__float_as_uint(t) << 23) + 0x3f800000u; // the sum's last bits are k
  const float high = 1 - 2 / (s * __uint_as_float(power) + 1), y = a < 0.625f ? low : high;
  return __uint_as_float(__float_as_uint(y) | sign);
}

// Words are four random words.
struct Words {
  unsigned w[4];
};

// philox is Philox4x32-10, as in the Go package of that name.
GPU_FN Words philox(unsigned c0, unsigned c1, unsigned c2, unsigned c3, unsigned long long key) {
  unsigned k0 = (unsigned)key, k1 = (unsigned)(key >> 32);
#pragma unroll
  for (int r = 0; r < 10; r++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    const unsigned long long a = (unsigned long long)0xD2511F53u * c0, b = (unsigned long long)0xCD9E8D57u * c2;
    const unsigned n0 = (unsigned)(b >> 32) ^ c1 ^ k0, n2 = (unsigned)(a >> 32) ^ c3 ^ k1;
    c1 = (unsigned)b;
    c3 = (unsigned)a;
    c0 = n0;
    c2 = n2;
  }
  return {{c0, c1, c2, c3}};
}

} // namespace numbers
