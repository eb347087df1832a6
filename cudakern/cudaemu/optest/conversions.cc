// Expectations of cvt and cvta.
#include <cfenv>
#include <cmath>

#include "optest.h"

namespace optest {

namespace {

using i128 = __int128;

struct Type {
  std::string name;
  char kind;    // of the register
  int bits;
  bool isSigned;
  i128 low() const { return isSigned ? -((i128)1 << (bits - 1)) : 0; }
  i128 high() const { return ((i128)1 << (bits - isSigned)) - 1; }
  i128 of(uint64_t cell) const { // value of the low bits
    i128 v = (i128)(bits == 64 ? cell : cell & ((1ull << bits) - 1));
    if (isSigned && v > high()) v -= (i128)1 << bits;
    return v;
  }
};
const std::vector<Type> integers = {{"u8", 'h', 8, false},   {"s8", 'h', 8, true},    {"u16", 'h', 16, false},
                                    {"s16", 'h', 16, true},  {"u32", 'r', 32, false}, {"s32", 'r', 32, true},
                                    {"u64", 'l', 64, false}, {"s64", 'l', 64, true}};

// In which direction the processor rounds while f runs.
template <class F> auto rounding(const std::string &how, F f) {
  fesetround(how == "rz" ? FE_TOWARDZERO : how == "rm" ? FE_DOWNWARD : how == "rp" ? FE_UPWARD : FE_TONEAREST);
  const auto r = f();
  fesetround(FE_TONEAREST);
  return r;
}

std::string shape(char d, char s) { return std::string(1, d) + ":" + s; }

void integerToInteger() {
  for (const Type &d : integers)
    for (const Type &s : integers) {
      op("cvt." + d.name + "." + s.name, shape(d.kind, s.kind),
         [=](const In &x) { return (uint64_t)d.of((uint64_t)s.of(x.a)); });
      op("cvt.sat." + d.name + "." + s.name, shape(d.kind, s.kind), [=](const In &x) {
        const i128 v = s.of(x.a);
        return (uint64_t)(v < d.low() ? d.low() : v > d.high() ? d.high() : v);
      });
    }
  // registers wider than the type: the source's low bits count, the result is extended
  for (const char wide : {'r', 'l'})
    for (const Type &t : integers) {
      if (t.bits > (wide == 'r' ? 16 : 32)) continue;
      op("cvt." + t.name + ".u32", shape(wide, 'r'), [=](const In &x) { return (uint64_t)t.of(x.a); });
      op("cvt.s32." + t.name, shape('r', wide), [=](const In &x) { return (uint64_t)t.of(x.a); });
      op("cvt.rn.f32." + t.name, shape('f', wide),
         [=](const In &x) { return bits((float)(double)(int64_t)t.of(x.a)); });
    }
}

void floatToInteger() {
  const std::pair<const char *, long double (*)(long double)> ways[] = {
      {"rni", rintl}, {"rzi", truncl}, {"rmi", floorl}, {"rpi", ceill}};
  for (const auto &[way, f] : ways)
    for (const Type &d : integers) {
      const auto clamp = [d, f = f](long double x) -> uint64_t {
        if (x != x) return 0;
        const long double y = f(x);
        if (y < (long double)d.low()) return (uint64_t)d.low();
        if (y > (long double)d.high()) return (uint64_t)d.high();
        return (uint64_t)(i128)y;
      };
      op(std::string("cvt.") + way + "." + d.name + ".f32", shape(d.kind, 'f'),
         [=](const In &x) { return clamp(f32(x.a)); });
      op(std::string("cvt.") + way + "." + d.name + ".f64", shape(d.kind, 'g'),
         [=](const In &x) { return clamp(f64(x.a)); });
    }
  for (const auto &[way, f] : ways) {
    op(std::string("cvt.") + way + ".f32.f32", "f:f", [f = f](const In &x) { return bits((float)f(f32(x.a))); });
    op(std::string("cvt.") + way + ".f64.f64", "g:g", [f = f](const In &x) { return bits((double)f(f64(x.a))); });
  }
}

void integerToFloat() {
  for (const std::string way : {"rn", "rz", "rm", "rp"}) {
    for (const Type &s : integers) {
      // the processor's own conversion of a 64-bit integer, in the direction asked for
      op("cvt." + way + ".f32." + s.name, shape('f', s.kind), [=](const In &x) {
        return rounding(way, [&] {
          volatile float r;
          if (s.bits < 64) {
            volatile int64_t v = (int64_t)s.of(x.a);
            r = (float)v;
          } else {
            volatile long double v = s.isSigned ? (long double)(int64_t)x.a : (long double)x.a;
            r = (float)v;
          }
          return bits((float)r);
        });
      });
      op("cvt." + way + ".f64." + s.name, shape('g', s.kind), [=](const In &x) {
        return rounding(way, [&] {
          volatile long double v = (long double)(int64_t)x.a;
          if (s.bits < 64) v = (long double)(int64_t)s.of(x.a);
          else if (!s.isSigned) v = (long double)x.a;
          volatile double r = (double)v;
          return bits((double)r);
        });
      });
    }
    op("cvt." + way + ".f32.f64", "f:g", [way](const In &x) {
      return rounding(way, [&] {
        volatile double v = f64(x.a);
        volatile float r = (float)v;
        return bits((float)r);
      });
    });
  }
}

// half precision by value: 2^-24 is its smallest step
uint64_t toHalf(float x) {
  const uint64_t s = std::signbit(x) ? 0x8000 : 0;
  if (x != x) return 0x7FFF;
  const double a = std::fabs((double)x);
  if (a >= 65520) return s | 0x7C00;
  if (a < 0x1p-14) return s | (uint64_t)std::nearbyint(a * 0x1p24);
  int e;
  const double m = std::frexp(a, &e); // in [0.5, 1)
  const uint64_t mantissa = (uint64_t)std::nearbyint(m * 2048);
  return s | (((uint64_t)(e + 13) << 10) + mantissa);
}
double fromHalf(uint64_t h) {
  const int e = (int)(h >> 10 & 31);
  const double m = (double)(h & 0x3FF), s = h & 0x8000 ? -1 : 1;
  if (e == 31) return m ? NAN : s * INFINITY;
  return s * (e ? std::ldexp(1024 + m, e - 25) : std::ldexp(m, -24));
}
// the nearest of the floats whose low bits are zero; `away`: ties away from zero, else to even
uint64_t shorter(float x, int low, bool away) {
  if (x != x || std::isinf(x)) return bits(x);
  const uint64_t b = bits(x), down = b & ~((1ull << low) - 1), up = down + (1ull << low);
  const uint64_t rest = b - down, half = 1ull << (low - 1);
  if (rest != half) return rest < half ? down : up;
  return away || (down >> low & 1) ? up : down;
}

} // namespace

void conversions() {
  integerToInteger();
  floatToInteger();
  integerToFloat();
  op("cvt.f64.f32", "g:f", [](const In &x) { return bits((double)f32(x.a)); });
  op("cvt.f32.f32", "f:f", [](const In &x) { return x.a; });
  const auto flushed = [](float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; };
  op("cvt.ftz.f32.f32", "f:f", [=](const In &x) { return bits(flushed(f32(x.a))); });
  op("cvt.rn.ftz.f32.f64", "f:g", [=](const In &x) { return bits(flushed((float)f64(x.a))); });
  op("cvt.sat.f32.f32", "f:f", [](const In &x) {
    const float v = f32(x.a);
    return v != v ? 0 : bits(std::fmin(std::fmax(v, 0.0f), 1.0f)) & 0x7FFFFFFF;
  });
  op("cvt.rn.f16.f32", "h:f", [](const In &x) { return toHalf(f32(x.a)); });
  op("cvt.f32.f16", "f:h", [](const In &x) { return bits((float)fromHalf(x.a & 0xFFFF)); });
  op("cvt.rn.bf16.f32", "h:f",
     [](const In &x) { return f32(x.a) != f32(x.a) ? 0x7FFF : shorter(f32(x.a), 16, false) >> 16; });
  op("cvt.rna.tf32.f32", "r:f",
     [](const In &x) { return f32(x.a) != f32(x.a) ? 0x7FFFFFFF : shorter(f32(x.a), 13, true); });
  // to generic addresses and back
  for (const std::string space : {"global", "const", "param"}) {
    op("cvta." + space + ".u64", "l:l", [](const In &x) { return x.a; });
    op("cvta.to." + space + ".u64", "l:l", [](const In &x) { return x.a; });
  }
}

} // namespace optest
