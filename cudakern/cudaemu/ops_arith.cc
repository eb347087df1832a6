// Arithmetic on integers and floats: add sub mul mad fma div rem neg abs min max sad dp4a. (fma.rn.f32: ops_fma.cc)
#include "lanes.h"

namespace emu {
namespace EMU_BUILD {
namespace {

// NaNs: the other operand; -0 is below +0.
template <class T> T least(T a, T b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return fromBits<T>(toBits(a) | toBits(b));
  return a < b ? a : b;
}
template <class T> T most(T a, T b) {
  if (a != a) return b;
  if (b != b) return a;
  if (a == b) return fromBits<T>(toBits(a) & toBits(b));
  return b < a ? a : b;
}

// Division as GPUs do it: by zero all bits are ones, the remainder is a; the one overflow wraps.
template <class T> T quotient(T a, T b) {
  if (b == 0) return (T)-1;
  if constexpr (std::is_signed_v<T>)
    if (b == -1) return (T)(0 - (std::make_unsigned_t<T>)a);
  return (T)(a / b);
}
template <class T> T remainder(T a, T b) {
  if (b == 0) return a;
  if constexpr (std::is_signed_v<T>)
    if (b == -1) return 0;
  return (T)(a % b);
}
template <class T> T absolute(T a) { return a < 0 ? (T)(0 - (std::make_unsigned_t<T>)a) : a; }
template <class T> T distance(T a, T b) {
  using U = std::make_unsigned_t<T>;
  return (T)(a < b ? (U)b - (U)a : (U)a - (U)b);
}
inline s32 saturate(s64 x) { return x > INT32_MAX ? INT32_MAX : x < INT32_MIN ? INT32_MIN : (s32)x; }
inline f32 unit(f32 x) { return x > 1 ? 1.0f : x > 0 ? x : 0.0f; } // .sat; NaN to 0

u64 high(u64 a, u64 b) { return (u64)((unsigned __int128)a * b >> 64); }
s64 high(s64 a, s64 b) { return (s64)((__int128)a * b >> 64); }

template <class T> u32 dot4(u32 a, u32 b, u32 c) {
  for (int k = 0; k < 4; k++) c += (u32)((s32)(T)(a >> 8 * k) * (s32)(T)(b >> 8 * k));
  return c;
}

// The last operand of a carrying add is in Warp::predicate(i.e): add.cc, addc.cc and so on use one hidden carry a warp.
const Entry arith[] = {
    // integers
    {"add.s16|u16", each<[](u16 a, u16 b) { return (u16)(a + b); }, u16, u16, u16>, "d2 a2 b2"},
    {"add.s32|u32", each<[](u32 a, u32 b) { return a + b; }, u32, u32, u32>, "d4 a4 b4"},
    {"add.s64|u64", each<[](u64 a, u64 b) { return a + b; }, u64, u64, u64>, "d8 a8 b8"},
    {"add.sat.s32", each<[](s32 a, s32 b) { return saturate((s64)a + b); }, s32, s32, s32>, "d4 a4 b4"},
    {"sub.s16|u16", each<[](u16 a, u16 b) { return (u16)(a - b); }, u16, u16, u16>, "d2 a2 b2"},
    {"sub.s32|u32", each<[](u32 a, u32 b) { return a - b; }, u32, u32, u32>, "d4 a4 b4"},
    {"sub.s64|u64", each<[](u64 a, u64 b) { return a - b; }, u64, u64, u64>, "d8 a8 b8"},
    {"sub.sat.s32", each<[](s32 a, s32 b) { return saturate((s64)a - b); }, s32, s32, s32>, "d4 a4 b4"},
    {"mul.lo.s16|u16", each<[](u16 a, u16 b) { return (u16)((u32)a * b); }, u16, u16, u16>, "d2 a2 b2"},
    {"mul.lo.s32|u32", each<[](u32 a, u32 b) { return a * b; }, u32, u32, u32>, "d4 a4 b4"},
    {"mul.lo.s64|u64", each<[](u64 a, u64 b) { return a * b; }, u64, u64, u64>, "d8 a8 b8"},
    {"mul.hi.s16", each<[](s16 a, s16 b) { return (s16)((s32)a * b >> 16); }, s16, s16, s16>, "d2 a2 b2"},
    {"mul.hi.u16", each<[](u16 a, u16 b) { return (u16)((u32)a * b >> 16); }, u16, u16, u16>, "d2 a2 b2"},
    {"mul.hi.s32", each<[](s32 a, s32 b) { return (s32)((s64)a * b >> 32); }, s32, s32, s32>, "d4 a4 b4"},
    {"mul.hi.u32", each<[](u32 a, u32 b) { return (u32)((u64)a * b >> 32); }, u32, u32, u32>, "d4 a4 b4"},
    {"mul.hi.s64", each<[](s64 a, s64 b) { return high(a, b); }, s64, s64, s64>, "d8 a8 b8"},
    {"mul.hi.u64", each<[](u64 a, u64 b) { return high(a, b); }, u64, u64, u64>, "d8 a8 b8"},
    {"mul.wide.s16", each<[](s16 a, s16 b) { return (s32)a * b; }, s32, s16, s16>, "d4 a2 b2"},
    {"mul.wide.u16", each<[](u16 a, u16 b) { return (u32)a * b; }, u32, u16, u16>, "d4 a2 b2"},
    {"mul.wide.s32", each<[](s32 a, s32 b) { return (s64)a * b; }, s64, s32, s32>, "d8 a4 b4"},
    {"mul.wide.u32", each<[](u32 a, u32 b) { return (u64)a * b; }, u64, u32, u32>, "d8 a4 b4"},
    {"mul24.lo.s32",
     each<[](s32 a, s32 b) { return (u32)(((s64)(s32)((u32)a << 8) >> 8) * ((s32)((u32)b << 8) >> 8)); }, u32, s32,
          s32>,
     "d4 a4 b4"},
    {"mul24.lo.u32", each<[](u32 a, u32 b) { return (a & 0xFFFFFF) * (b & 0xFFFFFF); }, u32, u32, u32>, "d4 a4 b4"},
    {"mad.lo.s16|u16", each<[](u16 a, u16 b, u16 c) { return (u16)((u32)a * b + c); }, u16, u16, u16, u16>,
     "d2 a2 b2 c2"},
    {"mad.lo.s32|u32", each<[](u32 a, u32 b, u32 c) { return a * b + c; }, u32, u32, u32, u32>, "d4 a4 b4 c4"},
    {"mad.lo.s64|u64", each<[](u64 a, u64 b, u64 c) { return a * b + c; }, u64, u64, u64, u64>, "d8 a8 b8 c8"},
    {"mad.hi.s32", each<[](s32 a, s32 b, s32 c) { return (u32)((s64)a * b >> 32) + (u32)c; }, u32, s32, s32, s32>,
     "d4 a4 b4 c4"},
    {"mad.hi.u32", each<[](u32 a, u32 b, u32 c) { return (u32)((u64)a * b >> 32) + c; }, u32, u32, u32, u32>,
     "d4 a4 b4 c4"},
    {"mad.hi.s64", each<[](s64 a, s64 b, s64 c) { return (u64)high(a, b) + (u64)c; }, u64, s64, s64, s64>,
     "d8 a8 b8 c8"},
    {"mad.hi.u64", each<[](u64 a, u64 b, u64 c) { return high(a, b) + c; }, u64, u64, u64, u64>, "d8 a8 b8 c8"},
    {"mad.wide.s16", each<[](s16 a, s16 b, u32 c) { return (u32)((s32)a * b) + c; }, u32, s16, s16, u32>,
     "d4 a2 b2 c4"},
    {"mad.wide.u16", each<[](u16 a, u16 b, u32 c) { return (u32)a * b + c; }, u32, u16, u16, u32>, "d4 a2 b2 c4"},
    {"mad.wide.s32", each<[](s32 a, s32 b, u64 c) { return (u64)((s64)a * b) + c; }, u64, s32, s32, u64>,
     "d8 a4 b4 c8"},
    {"mad.wide.u32", each<[](u32 a, u32 b, u64 c) { return (u64)a * b + c; }, u64, u32, u32, u64>, "d8 a4 b4 c8"},
    {"div.s16", one<quotient<s16>, s16, s16, s16>, "d2 a2 b2"},
    {"div.u16", one<quotient<u16>, u16, u16, u16>, "d2 a2 b2"},
    {"div.s32", one<quotient<s32>, s32, s32, s32>, "d4 a4 b4"},
    {"div.u32", one<quotient<u32>, u32, u32, u32>, "d4 a4 b4"},
    {"div.s64", one<quotient<s64>, s64, s64, s64>, "d8 a8 b8"},
    {"div.u64", one<quotient<u64>, u64, u64, u64>, "d8 a8 b8"},
    {"rem.s16", one<remainder<s16>, s16, s16, s16>, "d2 a2 b2"},
    {"rem.u16", one<remainder<u16>, u16, u16, u16>, "d2 a2 b2"},
    {"rem.s32", one<remainder<s32>, s32, s32, s32>, "d4 a4 b4"},
    {"rem.u32", one<remainder<u32>, u32, u32, u32>, "d4 a4 b4"},
    {"rem.s64", one<remainder<s64>, s64, s64, s64>, "d8 a8 b8"},
    {"rem.u64", one<remainder<u64>, u64, u64, u64>, "d8 a8 b8"},
    {"neg.s16", each<[](u16 a) { return (u16)-a; }, u16, u16>, "d2 a2"},
    {"neg.s32", each<[](u32 a) { return -a; }, u32, u32>, "d4 a4"},
    {"neg.s64", each<[](u64 a) { return -a; }, u64, u64>, "d8 a8"},
    {"abs.s16", each<absolute<s16>, s16, s16>, "d2 a2"},
    {"abs.s32", each<absolute<s32>, s32, s32>, "d4 a4"},
    {"abs.s64", each<absolute<s64>, s64, s64>, "d8 a8"},
    {"min.s16", each<[](s16 a, s16 b) { return a < b ? a : b; }, s16, s16, s16>, "d2 a2 b2"},
    {"min.u16", each<[](u16 a, u16 b) { return a < b ? a : b; }, u16, u16, u16>, "d2 a2 b2"},
    {"min.s32", each<[](s32 a, s32 b) { return a < b ? a : b; }, s32, s32, s32>, "d4 a4 b4"},
    {"min.u32", each<[](u32 a, u32 b) { return a < b ? a : b; }, u32, u32, u32>, "d4 a4 b4"},
    {"min.s64", each<[](s64 a, s64 b) { return a < b ? a : b; }, s64, s64, s64>, "d8 a8 b8"},
    {"min.u64", each<[](u64 a, u64 b) { return a < b ? a : b; }, u64, u64, u64>, "d8 a8 b8"},
    {"max.s16", each<[](s16 a, s16 b) { return b < a ? a : b; }, s16, s16, s16>, "d2 a2 b2"},
    {"max.u16", each<[](u16 a, u16 b) { return b < a ? a : b; }, u16, u16, u16>, "d2 a2 b2"},
    {"max.s32", each<[](s32 a, s32 b) { return b < a ? a : b; }, s32, s32, s32>, "d4 a4 b4"},
    {"max.u32", each<[](u32 a, u32 b) { return b < a ? a : b; }, u32, u32, u32>, "d4 a4 b4"},
    {"max.s64", each<[](s64 a, s64 b) { return b < a ? a : b; }, s64, s64, s64>, "d8 a8 b8"},
    {"max.u64", each<[](u64 a, u64 b) { return b < a ? a : b; }, u64, u64, u64>, "d8 a8 b8"},
    {"sad.s32", each<[](s32 a, s32 b, u32 c) { return (u32)distance(a, b) + c; }, u32, s32, s32, u32>, "d4 a4 b4 c4"},
    {"sad.u32", each<[](u32 a, u32 b, u32 c) { return distance(a, b) + c; }, u32, u32, u32, u32>, "d4 a4 b4 c4"},
    {"dp4a.s32.s32", each<dot4<s8>, u32, u32, u32, u32>, "d4 a4 b4 c4"},
    {"dp4a.u32.u32", each<dot4<u8>, u32, u32, u32, u32>, "d4 a4 b4 c4"},

    // f32
    {"add.?rn.f32", each<[](f32 a, f32 b) { return a + b; }, f32, f32, f32>, "ds as bs", Class::Float},
    {"add.?rn.ftz.f32", each<[](f32 a, f32 b) { return flush(flush(a) + flush(b)); }, f32, f32, f32>, "ds as bs",
     Class::Float},
    {"add.?rn.sat.f32", each<[](f32 a, f32 b) { return unit(a + b); }, f32, f32, f32>, "ds as bs", Class::Float},
    {"sub.?rn.f32", each<[](f32 a, f32 b) { return a - b; }, f32, f32, f32>, "ds as bs", Class::Float},
    {"sub.?rn.ftz.f32", each<[](f32 a, f32 b) { return flush(flush(a) - flush(b)); }, f32, f32, f32>, "ds as bs",
     Class::Float},
    {"mul.?rn.f32", each<[](f32 a, f32 b) { return a * b; }, f32, f32, f32>, "ds as bs", Class::Float},
    {"mul.?rn.ftz.f32", each<[](f32 a, f32 b) { return flush(flush(a) * flush(b)); }, f32, f32, f32>, "ds as bs",
     Class::Float},
    {"mul.?rn.sat.f32", each<[](f32 a, f32 b) { return unit(a * b); }, f32, f32, f32>, "ds as bs", Class::Float},
    {"fma.rn.ftz.f32",
     each<[](f32 a, f32 b, f32 c) { return flush(__builtin_fmaf(flush(a), flush(b), flush(c))); }, f32, f32, f32, f32>,
     "ds as bs cs", Class::Ffma},
    {"fma.rn.sat.f32", each<[](f32 a, f32 b, f32 c) { return unit(__builtin_fmaf(a, b, c)); }, f32, f32, f32, f32>,
     "ds as bs cs", Class::Ffma},
    {"neg.?ftz.f32", each<[](f32 a) { return -a; }, f32, f32>, "ds as", Class::Float},
    {"abs.?ftz.f32", each<[](f32 a) { return __builtin_fabsf(a); }, f32, f32>, "ds as", Class::Float},
    {"min.?ftz.f32", each<least<f32>, f32, f32, f32>, "ds as bs", Class::Float},
    {"max.?ftz.f32", each<most<f32>, f32, f32, f32>, "ds as bs", Class::Float},
    {"min.NaN.f32",
     each<[](f32 a, f32 b) { return a != a || b != b ? fromBits<f32>(0x7FFFFFFF) : least(a, b); }, f32, f32, f32>,
     "ds as bs", Class::Float},
    {"max.NaN.f32",
     each<[](f32 a, f32 b) { return a != a || b != b ? fromBits<f32>(0x7FFFFFFF) : most(a, b); }, f32, f32, f32>,
     "ds as bs", Class::Float},

    // f64
    {"add.?rn.f64", each<[](f64 a, f64 b) { return a + b; }, f64, f64, f64>, "dt at bt", Class::Double},
    {"sub.?rn.f64", each<[](f64 a, f64 b) { return a - b; }, f64, f64, f64>, "dt at bt", Class::Double},
    {"mul.?rn.f64", each<[](f64 a, f64 b) { return a * b; }, f64, f64, f64>, "dt at bt", Class::Double},
    {"fma|mad.rn.f64", each<[](f64 a, f64 b, f64 c) { return __builtin_fma(a, b, c); }, f64, f64, f64, f64>,
     "dt at bt ct", Class::Double},
    {"neg.f64", each<[](f64 a) { return -a; }, f64, f64>, "dt at", Class::Double},
    {"abs.f64", each<[](f64 a) { return __builtin_fabs(a); }, f64, f64>, "dt at", Class::Double},
    {"min.f64", each<least<f64>, f64, f64, f64>, "dt at bt", Class::Double},
    {"max.f64", each<most<f64>, f64, f64, f64>, "dt at bt", Class::Double},
};

} // namespace

EMU_TABLE(arith)

} // namespace EMU_BUILD
} // namespace emu
