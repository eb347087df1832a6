// Expectations of integer, bit, float and comparison instructions. They are written from the manual, bit by bit or in a
// wider type, not as the handlers are.
#include <cfenv>
#include <cfloat>
#include <cmath>

#include "optest.h"

namespace optest {

namespace {

using i128 = __int128;
using u128 = unsigned __int128;

int64_t sign(uint64_t v, int bytes) { return (int64_t)(v << (64 - 8 * bytes)) >> (64 - 8 * bytes); }
uint64_t zero(uint64_t v, int bytes) { return bytes == 8 ? v : v & ((1ull << 8 * bytes) - 1); }
i128 value(uint64_t v, char type, int bytes) { return type == 's' ? (i128)sign(v, bytes) : (i128)zero(v, bytes); }

struct Type {
  char sign, kind;
  int bytes;
  std::string name;
};
const Type integers[] = {{'s', 'h', 2, "s16"}, {'u', 'h', 2, "u16"}, {'s', 'r', 4, "s32"}, {'u', 'r', 4, "u32"},
    {'s', 'l', 8, "s64"}, {'u', 'l', 8, "u64"}};

void integerArithmetic() {
  for (const Type &t : integers) {
    const std::string k(1, t.kind), two = k + ":" + k + k, one = k + ":" + k, three = two + k;
    const auto v = [t](uint64_t x) { return value(x, t.sign, t.bytes); };
    op("add." + t.name, two, [v](const In &x) { return (uint64_t)(v(x.a) + v(x.b)); });
    op("sub." + t.name, two, [v](const In &x) { return (uint64_t)(v(x.a) - v(x.b)); });
    op("mul.lo." + t.name, two, [v](const In &x) { return (uint64_t)((u128)v(x.a) * (u128)v(x.b)); });
    const int bits = 8 * t.bytes;
    // the high half by schoolbook multiplication of 32-bit digits, corrected for signs
    const auto high = [t, bits, v](uint64_t a, uint64_t b) -> uint64_t {
      if (bits < 64) return (uint64_t)((v(a) * v(b)) >> bits);
      const uint64_t al = a & 0xFFFFFFFF, ah = a >> 32, bl = b & 0xFFFFFFFF, bh = b >> 32;
      const uint64_t mid = (al * bl >> 32) + (ah * bl & 0xFFFFFFFF) + (al * bh & 0xFFFFFFFF);
      uint64_t h = ah * bh + (ah * bl >> 32) + (al * bh >> 32) + (mid >> 32);
      if (t.sign == 's' && (int64_t)a < 0) h -= b;
      if (t.sign == 's' && (int64_t)b < 0) h -= a;
      return h;
    };
    op("mul.hi." + t.name, two, [high](const In &x) { return high(x.a, x.b); });
    op("mad.lo." + t.name, three, [v](const In &x) { return (uint64_t)((u128)v(x.a) * (u128)v(x.b) + (u128)v(x.c)); });
    if (t.bytes > 2) op("mad.hi." + t.name, three, [high](const In &x) { return high(x.a, x.b) + x.c; });
    op("div." + t.name, two, [v](const In &x) -> uint64_t {
      if (!v(x.b)) return ~0ull;
      const i128 a = v(x.a) < 0 ? -v(x.a) : v(x.a), b = v(x.b) < 0 ? -v(x.b) : v(x.b);
      return (uint64_t)((v(x.a) < 0) != (v(x.b) < 0) ? -(a / b) : a / b);
    });
    op("rem." + t.name, two, [v](const In &x) {
      if (!v(x.b)) return (uint64_t)v(x.a);
      const i128 a = v(x.a) < 0 ? -v(x.a) : v(x.a), b = v(x.b) < 0 ? -v(x.b) : v(x.b);
      return (uint64_t)(v(x.a) < 0 ? -(a % b) : a % b);
    });
    op("min." + t.name, two, [v](const In &x) { return v(x.a) < v(x.b) ? x.a : x.b; });
    op("max." + t.name, two, [v](const In &x) { return v(x.a) > v(x.b) ? x.a : x.b; });
    if (t.sign == 's') {
      op("neg." + t.name, one, [v](const In &x) { return (uint64_t)-v(x.a); });
      op("abs." + t.name, one, [v](const In &x) { return (uint64_t)(v(x.a) < 0 ? -v(x.a) : v(x.a)); });
    }
    if (t.bytes < 8) {
      const std::string wide = t.bytes == 2 ? "r" : "l";
      op("mul.wide." + t.name, wide + ":" + k + k, [v](const In &x) { return (uint64_t)(v(x.a) * v(x.b)); });
      op("mad.wide." + t.name, wide + ":" + k + k + wide,
         [v](const In &x) { return (uint64_t)(v(x.a) * v(x.b)) + x.c; });
    }
    if (t.bytes == 4) {
      op("sad." + t.name, three, [v](const In &x) {
        const i128 d = v(x.a) - v(x.b);
        return (uint64_t)(d < 0 ? -d : d) + x.c;
      });
      op("mul24.lo." + t.name, two, [t](const In &x) {
        const i128 a = t.sign == 's' ? sign(x.a << 40, 8) >> 40 : (int64_t)(x.a & 0xFFFFFF);
        const i128 b = t.sign == 's' ? sign(x.b << 40, 8) >> 40 : (int64_t)(x.b & 0xFFFFFF);
        return (uint64_t)(a * b);
      });
      op("dp4a." + t.name + "." + t.name, three, [t](const In &x) {
        i128 sum = (i128)x.c;
        for (int k = 0; k < 4; k++) sum += value(x.a >> 8 * k, t.sign, 1) * value(x.b >> 8 * k, t.sign, 1);
        return (uint64_t)sum;
      });
    }
    op("shr." + t.name, k + ":" + k + "r", [t, bits](const In &x) {
      uint64_t r = 0;
      for (int i = 0; i < bits; i++) {
        const uint64_t from = (uint64_t)i + (uint32_t)x.b;
        const uint64_t bit = from < (uint64_t)bits ? x.a >> from & 1 : t.sign == 's' ? x.a >> (bits - 1) & 1 : 0;
        r |= bit << i;
      }
      return r;
    });
  }
  for (const char *name : {"add.sat.s32", "sub.sat.s32"})
    op(name, "r:rr", [plus = name[0] == 'a'](const In &x) {
      const int64_t r = plus ? sign(x.a, 4) + sign(x.b, 4) : sign(x.a, 4) - sign(x.b, 4);
      return (uint64_t)std::min<int64_t>(std::max<int64_t>(r, INT32_MIN), INT32_MAX);
    });
}

uint64_t permute(uint64_t a, uint64_t b, uint64_t selectors) { // selectors: 4 nibbles
  uint64_t r = 0;
  for (int k = 0; k < 4; k++) {
    const int s = (int)(selectors >> 4 * k & 15);
    const uint64_t byte = (s & 4 ? b : a) >> 8 * (s & 3) & 0xFF;
    r |= (s & 8 ? (byte >> 7) * 0xFF : byte) << 8 * k;
  }
  return r;
}

void bitwise() {
  for (const Type &t : {Type{'b', 'h', 2, "b16"}, Type{'b', 'r', 4, "b32"}, Type{'b', 'l', 8, "b64"}}) {
    const std::string k(1, t.kind), two = k + ":" + k + k, one = k + ":" + k;
    const int bits = 8 * t.bytes;
    op("and." + t.name, two, [](const In &x) { return ~(~x.a | ~x.b); });
    op("or." + t.name, two, [](const In &x) { return ~(~x.a & ~x.b); });
    op("xor." + t.name, two, [](const In &x) { return (x.a | x.b) - (x.a & x.b); });
    op("not." + t.name, one, [](const In &x) { return 0 - x.a - 1; });
    op("cnot." + t.name, one, [t](const In &x) { return (uint64_t)(zero(x.a, t.bytes) == 0); });
    op("mov." + t.name, one, [](const In &x) { return x.a; });
    op("shl." + t.name, k + ":" + k + "r", [bits](const In &x) {
      uint64_t r = 0;
      for (int i = 0; i < bits; i++)
        if ((uint64_t)i >= (uint32_t)x.b) r |= (x.a >> (i - (int)(uint32_t)x.b) & 1) << i;
      return r;
    });
    op("shr." + t.name, k + ":" + k + "r", [bits, t](const In &x) {
      return (uint32_t)x.b >= (uint32_t)bits ? 0 : zero(x.a, t.bytes) >> (uint32_t)x.b;
    });
    if (t.bytes == 2) continue;
    op("popc." + t.name, "r:" + k, [bits](const In &x) {
      uint64_t n = 0;
      for (int i = 0; i < bits; i++) n += x.a >> i & 1;
      return n;
    });
    op("clz." + t.name, "r:" + k, [bits](const In &x) {
      uint64_t n = 0;
      for (int i = bits - 1; i >= 0 && !(x.a >> i & 1); i--) n++;
      return n;
    });
    op("brev." + t.name, one, [bits](const In &x) {
      uint64_t r = 0;
      for (int i = 0; i < bits; i++) r = r << 1 | (x.a >> i & 1);
      return r;
    });
    op("bfi." + t.name, k + ":" + k + k + "rr", [bits](const In &x) { // the manual's loop
      uint64_t f = x.b;
      const int position = (int)(x.c & 0xFF), length = (int)(x.d & 0xFF);
      for (int i = 0; i < length && position + i < bits; i++) {
        f &= ~(1ull << (position + i));
        f |= (x.a >> i & 1) << (position + i);
      }
      return f;
    });
    for (const char sg : {'u', 's'}) {
      const std::string name = std::string(1, sg) + std::to_string(bits);
      op("bfe." + name, k + ":" + k + "rr", [bits, sg](const In &x) { // the manual's loop
        const int position = (int)(x.b & 0xFF), length = (int)(x.c & 0xFF), top = bits - 1;
        const uint64_t fill = sg == 'u' || !length ? 0 : x.a >> std::min(position + length - 1, top) & 1;
        uint64_t d = 0;
        for (int i = 0; i <= top; i++)
          d |= (i < length && position + i <= top ? x.a >> (position + i) & 1 : fill) << i;
        return d;
      });
      const auto find = [bits, sg](uint64_t a) {
        const uint64_t s = sg == 's' ? a >> (bits - 1) & 1 : 0;
        for (int i = bits - 1; i >= 0; i--)
          if ((a >> i & 1) != s) return (uint64_t)i;
        return (uint64_t)0xFFFFFFFF;
      };
      op("bfind." + name, "r:" + k, [find](const In &x) { return find(x.a); });
      op("bfind.shiftamt." + name, "r:" + k, [find, bits](const In &x) {
        const uint64_t at = find(x.a);
        return at == 0xFFFFFFFF ? at : (uint64_t)bits - 1 - at;
      });
    }
  }
  for (const std::string name : {"mov.u16", "mov.s16", "mov.f16", "mov.bf16"})
    op(name, "h:h", [](const In &x) { return x.a; });
  for (const std::string name : {"mov.u32", "mov.s32", "mov.f16x2"}) op(name, "r:r", [](const In &x) { return x.a; });
  for (const std::string name : {"mov.u64", "mov.s64"}) op(name, "l:l", [](const In &x) { return x.a; });
  op("mov.f32", "f:f", [](const In &x) { return x.a; });
  op("mov.f64", "g:g", [](const In &x) { return x.a; });
  op("mov.b64", "l:rr", [](const In &x) { return zero(x.a, 4) + (x.b << 32); }, 0, "{D}, {{A}, {B}}");
  op("mov.b32", "r:hh", [](const In &x) { return zero(x.a, 2) + (x.b << 16); }, 0, "{D}, {{A}, {B}}");
  op("mov.b64", "r:l", [](const In &x) { return x.a >> 32; }, 0, "{%t1, {D}}, {A}");
  op("mov.b64", "r:l", [](const In &x) { return x.a; }, 0, "{{D}, %t1}, {A}");
  op("mov.b32", "h:r", [](const In &x) { return x.a >> 16; }, 0, "{%h7, {D}}, {A}");
  op("mov.b32", "h:r", [](const In &x) { return x.a; }, 0, "{{D}, _}, {A}");
  op("mov.pred", "p:p", [](const In &x) { return x.a; });
  op("and.pred", "p:pp", [](const In &x) { return x.a * x.b; });
  op("or.pred", "p:pp", [](const In &x) { return (uint64_t)(x.a + x.b > 0); });
  op("xor.pred", "p:pp", [](const In &x) { return (uint64_t)(x.a != x.b); });
  op("not.pred", "p:p", [](const In &x) { return (uint64_t)(x.a == 0); });
  // immediates of every width, in every lane
  op("add.s16", "h:h", [](const In &x) { return x.a - 7; }, 0, "{D}, {A}, -7");
  op("add.s32", "r:r", [](const In &x) { return x.a + 0x12345678; }, 0, "{D}, {A}, 0x12345678");
  op("add.s64", "l:l", [](const In &x) { return x.a - 2; }, 0, "{D}, {A}, -2");
  op("mul.lo.s16", "h:h", [](const In &x) { return x.a * 40000; }, 0, "{D}, {A}, 40000");
  op("mov.u16", "h:h", [](const In &) { return 0xFFFEull; }, 0, "{D}, -2");
  op("add.f32", "f:f", [](const In &x) { return bits(f32(x.a) + 1.5f); }, 0, "{D}, {A}, 0f3FC00000");
  op("add.f64", "g:g", [](const In &x) { return bits(f64(x.a) + 1.5); }, 0, "{D}, {A}, 0d3FF8000000000000");
  op("mul.f32", "f:f", [](const In &x) { return bits(f32(x.a) * 0.25f); }, 0, "{D}, {A}, 0.25");

  for (const bool left : {true, false})
    for (const bool wrap : {true, false})
      op(std::string("shf.") + (left ? "l" : "r") + (wrap ? ".wrap" : ".clamp") + ".b32", "r:rrr", [=](const In &x) {
        const uint32_t n = wrap ? (uint32_t)x.c % 32 : std::min<uint32_t>((uint32_t)x.c, 32);
        const u128 both = (u128)(uint32_t)x.b << 32 | (uint32_t)x.a;
        return (uint64_t)(left ? both << n >> 32 : both >> n);
      });
  for (const int table : {0x80, 0xFE, 0x96, 0xCA, 0x01, 0xE2})
    op("lop3.b32", "r:rrr", [table](const In &x) {
      uint64_t r = 0;
      for (int i = 0; i < 32; i++) {
        const int at = (int)((x.a >> i & 1) * 4 + (x.b >> i & 1) * 2 + (x.c >> i & 1));
        r |= (uint64_t)(table >> at & 1) << i;
      }
      return r;
    }, 0, "{D}, {A}, {B}, {C}, " + std::to_string(table));
  op("prmt.b32", "r:rrr", [](const In &x) { return permute(x.a, x.b, x.c); });
  // the manual's tables, from the most significant byte down
  const std::pair<const char *, std::vector<uint64_t>> modes[] = {{"f4e", {0x3210, 0x4321, 0x5432, 0x6543}},
      {"b4e", {0x5670, 0x6701, 0x7012, 0x0123}}, {"rc8", {0x0000, 0x1111, 0x2222, 0x3333}},
      {"ecl", {0x3210, 0x3211, 0x3222, 0x3333}}, {"ecr", {0x0000, 0x1110, 0x2210, 0x3210}},
      {"rc16", {0x1010, 0x3232, 0x1010, 0x3232}}};
  for (const auto &[name, table] : modes)
    op(std::string("prmt.b32.") + name, "r:rrr", [t = table](const In &x) { return permute(x.a, x.b, t[x.c & 3]); });
}

float flushed(float x) { return std::fabs(x) < FLT_MIN ? std::copysign(0.0f, x) : x; }
float saturated(float x) { return x > 0 ? std::min(x, 1.0f) : 0.0f; } // NaN and -0 become 0

void floats() {
  // In double nothing of f32's sums, products and quotients is lost that would change the rounding to f32.
  const auto with = [](auto f) {
    return [f](const In &x) { return bits((float)f((double)f32(x.a), (double)f32(x.b))); };
  };
  const auto flushing = [](auto f) {
    return [f](const In &x) { return bits(flushed((float)f((double)flushed(f32(x.a)), (double)flushed(f32(x.b))))); };
  };
  const auto plus = [](double a, double b) { return a + b; };
  const auto minus = [](double a, double b) { return a - b; };
  const auto times = [](double a, double b) { return a * b; };
  const auto over = [](double a, double b) { return a / b; };
  for (const std::string rn : {"", "rn."}) {
    op("add." + rn + "f32", "f:ff", with(plus));
    op("sub." + rn + "f32", "f:ff", with(minus));
    op("mul." + rn + "f32", "f:ff", with(times));
    op("add." + rn + "ftz.f32", "f:ff", flushing(plus));
    op("sub." + rn + "ftz.f32", "f:ff", flushing(minus));
    op("mul." + rn + "ftz.f32", "f:ff", flushing(times));
    op("add." + rn + "f64", "g:gg", [](const In &x) { return bits((double)((__float128)f64(x.a) + f64(x.b))); });
    op("sub." + rn + "f64", "g:gg", [](const In &x) { return bits((double)((__float128)f64(x.a) - f64(x.b))); });
    op("mul." + rn + "f64", "g:gg", [](const In &x) { return bits((double)((__float128)f64(x.a) * f64(x.b))); });
  }
  op("add.sat.f32", "f:ff", [](const In &x) { return bits(saturated(f32(x.a) + f32(x.b))); });
  op("mul.sat.f32", "f:ff", [](const In &x) { return bits(saturated(f32(x.a) * f32(x.b))); });
  const auto fma = [](const In &x) { return bits(std::fmaf(f32(x.a), f32(x.b), f32(x.c))); };
  op("fma.rn.f32", "f:fff", fma);
  op("mad.rn.f32", "f:fff", fma);
  op("fma.rn.ftz.f32", "f:fff", [](const In &x) {
    return bits(flushed(std::fmaf(flushed(f32(x.a)), flushed(f32(x.b)), flushed(f32(x.c)))));
  });
  op("fma.rn.sat.f32", "f:fff", [fma](const In &x) { return bits(saturated(f32(fma(x)))); });
  for (const char *name : {"fma.rn.f64", "mad.rn.f64"})
    op(name, "g:ggg", [](const In &x) { return bits(std::fma(f64(x.a), f64(x.b), f64(x.c))); });
  op("neg.f32", "f:f", [](const In &x) { return x.a ^ 0x80000000; });
  op("abs.f32", "f:f", [](const In &x) { return x.a & 0x7FFFFFFF; });
  op("neg.f64", "g:g", [](const In &x) { return x.a ^ 1ull << 63; });
  op("abs.f64", "g:g", [](const In &x) { return x.a & ~(1ull << 63); });
  const auto smaller = [](auto a, auto b) { // -0 is below +0, NaN gives way
    if (a != a || b != b) return a != a ? b : a;
    return a < b || (a == b && std::signbit(a)) ? a : b;
  };
  const auto larger = [](auto a, auto b) {
    if (a != a || b != b) return a != a ? b : a;
    return a > b || (a == b && !std::signbit(a)) ? a : b;
  };
  op("min.f32", "f:ff", [=](const In &x) { return bits(smaller(f32(x.a), f32(x.b))); });
  op("max.f32", "f:ff", [=](const In &x) { return bits(larger(f32(x.a), f32(x.b))); });
  op("min.f64", "g:gg", [=](const In &x) { return bits(smaller(f64(x.a), f64(x.b))); });
  op("max.f64", "g:gg", [=](const In &x) { return bits(larger(f64(x.a), f64(x.b))); });
  op("min.NaN.f32", "f:ff", [=](const In &x) {
    return std::isunordered(f32(x.a), f32(x.b)) ? 0x7FFFFFFFull : bits(smaller(f32(x.a), f32(x.b)));
  });
  op("max.NaN.f32", "f:ff", [=](const In &x) {
    return std::isunordered(f32(x.a), f32(x.b)) ? 0x7FFFFFFFull : bits(larger(f32(x.a), f32(x.b)));
  });
  op("copysign.f32", "f:ff", [](const In &x) { return (x.a & 0x80000000) | (x.b & 0x7FFFFFFF); });
  op("copysign.f64", "g:gg", [](const In &x) { return (x.a & 1ull << 63) | (x.b & ~(1ull << 63)); });

  for (const std::string how : {"rn", "approx", "full"}) op("div." + how + ".f32", "f:ff", with(over));
  for (const std::string how : {"rn", "approx", "full"}) op("div." + how + ".ftz.f32", "f:ff", flushing(over));
  op("div.rn.f64", "g:gg", [](const In &x) { return bits((double)((__float128)f64(x.a) / f64(x.b))); }, 1);
  const auto one = [](const std::string &name, auto f, double ulps) {
    op(name + ".f32", "f:f", [f](const In &x) { return bits((float)f((long double)f32(x.a))); }, ulps);
    op(
        name + ".ftz.f32", "f:f", [f](const In &x) { return bits(flushed((float)f((long double)flushed(f32(x.a))))); },
        ulps);
  };
  one("rcp.rn", [](long double x) { return 1 / x; }, 0);
  one("rcp.approx", [](long double x) { return 1 / x; }, 0);
  one("sqrt.rn", [](long double x) { return sqrtl(x); }, 0);
  one("sqrt.approx", [](long double x) { return sqrtl(x); }, 0);
  one("rsqrt.approx", [](long double x) { return 1 / sqrtl(x); }, 1);
  one("ex2.approx", [](long double x) { return exp2l(x); }, 2);
  one("lg2.approx", [](long double x) { return log2l(x); }, 2);
  op("sin.approx.f32", "f:f", [](const In &x) { return bits((float)sinl(f32(x.a))); }, 2);
  op("cos.approx.f32", "f:f", [](const In &x) { return bits((float)cosl(f32(x.a))); }, 2);
  op("tanh.approx.f32", "f:f", [](const In &x) { return bits((float)tanhl(f32(x.a))); }, 2);
  op("rcp.rn.f64", "g:g", [](const In &x) { return bits((double)(1 / (__float128)f64(x.a))); }, 1);
  op("sqrt.rn.f64", "g:g", [](const In &x) { return bits((double)sqrtl(f64(x.a))); }, 1);
  op("rsqrt.approx.f64", "g:g", [](const In &x) { return bits((double)(1 / sqrtl(f64(x.a)))); }, 2);
  op(
      "rcp.approx.ftz.f64", "g:g", [](const In &x) { return bits((double)(1 / (long double)f64(x.a))) >> 32 << 32; },
      0x1p33);
}

void comparisons() {
  for (const Type &t : integers) {
    const auto all = [&](const std::string &cmp, auto holds) {
      const auto v = [t](uint64_t x) { return value(x, t.sign, t.bytes); };
      const std::string k(1, t.kind), three = "p:" + k + k + "p";
      const auto truth = [=](const In &x) { return (uint64_t)holds(v(x.a), v(x.b)); };
      op("setp." + cmp + "." + t.name, "p:" + k + k, truth);
      op("setp." + cmp + ".and." + t.name, three, [=](const In &x) { return truth(x) & x.c; });
      op("setp." + cmp + ".or." + t.name, three, [=](const In &x) { return truth(x) | x.c; });
      op("setp." + cmp + ".xor." + t.name, three, [=](const In &x) { return truth(x) ^ x.c; });
      op(
          "setp." + cmp + ".and." + t.name, three, [=](const In &x) { return truth(x) & (x.c ^ 1); }, 0,
          "{D}, {A}, {B}, !{C}");
      op(
          "setp." + cmp + ".or." + t.name, three, [=](const In &x) { return (truth(x) ^ 1) | x.c; }, 0,
          "%q8|{D}, {A}, {B}, {C}");
      op("set." + cmp + ".u32." + t.name, "r:" + k + k, [=](const In &x) { return truth(x) ? 0xFFFFFFFFull : 0; });
      op("set." + cmp + ".s32." + t.name, "r:" + k + k, [=](const In &x) { return truth(x) ? 0xFFFFFFFFull : 0; });
      op("set." + cmp + ".f32." + t.name, "f:" + k + k, [=](const In &x) { return bits(truth(x) ? 1.0f : 0.0f); });
    };
    all("eq", [](i128 a, i128 b) { return !(a - b); });
    all("ne", [](i128 a, i128 b) { return !!(a - b); });
    all("lt", [](i128 a, i128 b) { return a - b < 0; });
    all("le", [](i128 a, i128 b) { return a - b <= 0; });
    all("gt", [](i128 a, i128 b) { return a - b > 0; });
    all("ge", [](i128 a, i128 b) { return a - b >= 0; });
    if (t.sign != 'u') continue;
    all("lo", [](i128 a, i128 b) { return a - b < 0; });
    all("ls", [](i128 a, i128 b) { return a - b <= 0; });
    all("hi", [](i128 a, i128 b) { return a - b > 0; });
    all("hs", [](i128 a, i128 b) { return a - b >= 0; });
    const std::string b = "b" + t.name.substr(1), k(1, t.kind);
    op("setp.eq." + b, "p:" + k + k, [t](const In &x) { return (uint64_t)!zero(x.a ^ x.b, t.bytes); });
    op("setp.ne." + b, "p:" + k + k, [t](const In &x) { return (uint64_t)!!zero(x.a ^ x.b, t.bytes); });
    op("set.eq.u32." + b, "r:" + k + k, [t](const In &x) { return zero(x.a ^ x.b, t.bytes) ? 0 : 0xFFFFFFFFull; });
    op("set.ne.f32." + b, "f:" + k + k, [t](const In &x) { return bits(zero(x.a ^ x.b, t.bytes) ? 1.0f : 0.0f); });
    for (const std::string cmp : {"eq", "ne"})
      for (const std::string how : {"and", "or", "xor"})
        op("setp." + cmp + "." + how + "." + b, "p:" + k + k + "p", [t, cmp, how](const In &x) {
          const uint64_t same = !zero(x.a ^ x.b, t.bytes), yes = cmp == "eq" ? same : same ^ 1;
          return how == "and" ? yes & x.c : how == "or" ? yes | x.c : yes ^ x.c;
        });
    op("set.ne.u32." + b, "r:" + k + k, [t](const In &x) { return zero(x.a ^ x.b, t.bytes) ? 0xFFFFFFFFull : 0; });
    op("set.eq.f32." + b, "f:" + k + k, [t](const In &x) { return bits(zero(x.a ^ x.b, t.bytes) ? 0.0f : 1.0f); });
  }
  // floats: the set of relations (less, equal, greater, unordered) each comparison holds for
  const std::pair<const char *, int> relations[] = {{"eq", 2}, {"ne", 5}, {"lt", 1}, {"le", 3}, {"gt", 4}, {"ge", 6},
      {"equ", 10}, {"neu", 13}, {"ltu", 9}, {"leu", 11}, {"gtu", 12}, {"geu", 14}, {"num", 7}, {"nan", 8}};
  for (const auto &[cmp, set] : relations)
    for (const std::string type : {"f32", "f64"}) {
      const std::string k = type == "f32" ? "f" : "g", c = cmp;
      const auto truth = [single = type == "f32", mask = set](const In &x) {
        const double a = single ? f32(x.a) : f64(x.a), b = single ? f32(x.b) : f64(x.b);
        const int relation = a < b ? 1 : a == b ? 2 : a > b ? 4 : 8;
        return (uint64_t)((mask & relation) != 0);
      };
      op("setp." + c + "." + type, "p:" + k + k, truth);
      op("setp." + c + ".and." + type, "p:" + k + k + "p", [=](const In &x) { return truth(x) & x.c; });
      op("setp." + c + ".or." + type, "p:" + k + k + "p", [=](const In &x) { return truth(x) | x.c; });
      op("setp." + c + ".xor." + type, "p:" + k + k + "p", [=](const In &x) { return truth(x) ^ x.c; });
      op("set." + c + ".u32." + type, "r:" + k + k, [=](const In &x) { return truth(x) ? 0xFFFFFFFFull : 0; });
      op("set." + c + ".f32." + type, "f:" + k + k, [=](const In &x) { return bits(truth(x) ? 1.0f : 0.0f); });
    }
  const auto selp = [](const std::string &type, const std::string &k) {
    op("selp." + type, k + ":" + k + k + "p", [](const In &x) { return x.c ? x.a : x.b; });
  };
  for (const char *t : {"b16", "u16", "s16"}) selp(t, "h");
  for (const char *t : {"b32", "u32", "s32"}) selp(t, "r");
  for (const char *t : {"b64", "u64", "s64"}) selp(t, "l");
  selp("f32", "f");
  selp("f64", "g");
  for (const std::string t : {"b32", "u32", "s32", "b64", "u64", "s64", "f32", "f64"}) {
    const std::string k = t == "f32" ? "f" : t == "f64" ? "g" : t.substr(1) == "32" ? "r" : "l";
    op("slct." + t + ".s32", k + ":" + k + k + "r", [](const In &x) { return sign(x.c, 4) >= 0 ? x.a : x.b; });
    op("slct." + t + ".f32", k + ":" + k + k + "f", [](const In &x) { return f32(x.c) >= 0 ? x.a : x.b; });
  }
  for (const std::string type : {"f32", "f64"}) {
    const std::string k = type == "f32" ? "f" : "g";
    const auto kind = [single = type == "f32"](const In &x) {
      return single ? std::fpclassify(f32(x.a)) : std::fpclassify(f64(x.a));
    };
    const auto is = [&](const std::string &name, std::set<int> those) {
      op("testp." + name + "." + type, "p:" + k, [=](const In &x) { return (uint64_t)those.count(kind(x)); });
    };
    is("finite", {FP_NORMAL, FP_SUBNORMAL, FP_ZERO});
    is("infinite", {FP_INFINITE});
    is("number", {FP_NORMAL, FP_SUBNORMAL, FP_ZERO, FP_INFINITE});
    is("notanumber", {FP_NAN});
    is("normal", {FP_NORMAL});
    is("subnormal", {FP_SUBNORMAL});
  }
}

} // namespace

void arithmetic() {
  integerArithmetic();
  bitwise();
  floats();
  comparisons();
}

} // namespace optest
