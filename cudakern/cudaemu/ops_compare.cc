// Comparison and choice: setp set selp slct.
#include "lanes.h"

namespace emu {
namespace EMU_BUILD {
namespace {

enum class Combine : uint8_t { None, And, Or, Xor };

// setp.cmp.bool d|e, a, b, c: d = (a cmp b) bool c, e = !(a cmp b) bool c.
template <auto f, class A, Combine how> void setp(Warp &w, const Inst &i, u32 m) {
  u32 yes = compared<f, A>(w.reg<A>(i.a), w.reg<A>(i.b)), no = ~yes;
  if constexpr (how != Combine::None) {
    const u32 c = w.predicate(i.c);
    yes = how == Combine::And ? yes & c : how == Combine::Or ? yes | c : yes ^ c;
    no = how == Combine::And ? no & c : how == Combine::Or ? no | c : no ^ c;
  }
  setPredicate(w, i.d, yes, m);
  setPredicate(w, i.e, no, m);
}
// set.cmp.type d, a, b: all ones (or 1.0) where it holds.
template <auto f, class A, u32 truth> void set(Warp &w, const Inst &i, u32 m) {
  const u32 yes = compared<f, A>(w.reg<A>(i.a), w.reg<A>(i.b));
  u32 *d = w.reg<u32>(i.d);
  EMU_LANES d[l] = m >> l & 1 ? (yes >> l & 1 ? truth : 0) : d[l];
}
template <class T> void selp(Warp &w, const Inst &i, u32 m) {
  T *d = w.reg<T>(i.d);
  const T *a = w.reg<T>(i.a), *b = w.reg<T>(i.b);
  const u32 c = w.predicate(i.c);
  if (m == everyone) EMU_LANES d[l] = c >> l & 1 ? a[l] : b[l];
  else EMU_LANES d[l] = m >> l & 1 ? (c >> l & 1 ? a[l] : b[l]) : d[l];
}
template <class T> T slctInteger(T a, T b, s32 c) { return c >= 0 ? a : b; }
template <class T> T slctFloat(T a, T b, f32 c) { return c >= 0 ? a : b; }

template <class T> bool ordered(T a, T b) { return a == a && b == b; }

#define EMU_SETP(cmp, type, T, w, truth)                                                                               \
  {"setp." cmp "." type, setp<[](T a, T b) { return truth; }, T, Combine::None>, "dp|ep a" w " b" w, Class::Compare},  \
      {"setp." cmp ".and." type, setp<[](T a, T b) { return truth; }, T, Combine::And>, "dp|ep a" w " b" w " cp",      \
          Class::Compare},                                                                                             \
      {"setp." cmp ".or." type, setp<[](T a, T b) { return truth; }, T, Combine::Or>, "dp|ep a" w " b" w " cp",        \
          Class::Compare},                                                                                             \
      {"setp." cmp ".xor." type, setp<[](T a, T b) { return truth; }, T, Combine::Xor>, "dp|ep a" w " b" w " cp",      \
          Class::Compare},                                                                                             \
      {"set." cmp ".u32|s32." type, set<[](T a, T b) { return truth; }, T, ~0u>, "d4 a" w " b" w, Class::Compare},     \
      {"set." cmp ".f32." type, set<[](T a, T b) { return truth; }, T, 0x3F800000u>, "d4 a" w " b" w, Class::Compare}
#define EMU_SETP_EQUAL(type, T, w) EMU_SETP("eq", type, T, w, (a == b)), EMU_SETP("ne", type, T, w, (a != b))
#define EMU_SETP_ORDER(type, T, w, lt, le, gt, ge)                                                                     \
  EMU_SETP(lt, type, T, w, (a < b)), EMU_SETP(le, type, T, w, (a <= b)), EMU_SETP(gt, type, T, w, (a > b)),            \
      EMU_SETP(ge, type, T, w, (a >= b))
#define EMU_SETP_FLOAT(type, T, w)                                                                                     \
  EMU_SETP("eq", type, T, w, (a == b)), EMU_SETP("ne", type, T, w, (ordered(a, b) && a != b)),                         \
      EMU_SETP_ORDER(type, T, w, "lt", "le", "gt", "ge"), EMU_SETP("equ", type, T, w, (!ordered(a, b) || a == b)),     \
      EMU_SETP("neu", type, T, w, (a != b)), EMU_SETP("ltu", type, T, w, (!(a >= b))),                                 \
      EMU_SETP("leu", type, T, w, (!(a > b))), EMU_SETP("gtu", type, T, w, (!(a <= b))),                               \
      EMU_SETP("geu", type, T, w, (!(a < b))), EMU_SETP("num", type, T, w, (ordered(a, b))),                           \
      EMU_SETP("nan", type, T, w, (!ordered(a, b)))

const Entry compare[] = {
    EMU_SETP_EQUAL("b16|s16|u16", u16, "2"),
    EMU_SETP_EQUAL("b32|s32|u32", u32, "4"),
    EMU_SETP_EQUAL("b64|s64|u64", u64, "8"),
    EMU_SETP_ORDER("s16", s16, "2", "lt", "le", "gt", "ge"),
    EMU_SETP_ORDER("s32", s32, "4", "lt", "le", "gt", "ge"),
    EMU_SETP_ORDER("s64", s64, "8", "lt", "le", "gt", "ge"),
    EMU_SETP_ORDER("u16", u16, "2", "lt|lo", "le|ls", "gt|hi", "ge|hs"),
    EMU_SETP_ORDER("u32", u32, "4", "lt|lo", "le|ls", "gt|hi", "ge|hs"),
    EMU_SETP_ORDER("u64", u64, "8", "lt|lo", "le|ls", "gt|hi", "ge|hs"),
    EMU_SETP_FLOAT("?ftz.f32", f32, "s"),
    EMU_SETP_FLOAT("f64", f64, "t"),
    {"selp.b16|u16|s16", selp<u16>, "d2 a2 b2 cp", Class::Move},
    {"selp.b32|u32|s32", selp<u32>, "d4 a4 b4 cp", Class::Move},
    {"selp.f32", selp<u32>, "ds as bs cp", Class::Move},
    {"selp.b64|u64|s64", selp<u64>, "d8 a8 b8 cp", Class::Move},
    {"selp.f64", selp<u64>, "dt at bt cp", Class::Move},
    {"slct.b32|u32|s32|f32.s32", each<slctInteger<u32>, u32, u32, u32, s32>, "ds as bs c4", Class::Move},
    {"slct.b64|u64|s64|f64.s32", each<slctInteger<u64>, u64, u64, u64, s32>, "dt at bt c4", Class::Move},
    {"slct.?ftz.b32|u32|s32|f32.f32", each<slctFloat<u32>, u32, u32, u32, f32>, "ds as bs cs", Class::Move},
    {"slct.?ftz.b64|u64|s64|f64.f32", each<slctFloat<u64>, u64, u64, u64, f32>, "dt at bt cs", Class::Move},
};

} // namespace

EMU_TABLE(compare)

} // namespace EMU_BUILD
} // namespace emu
