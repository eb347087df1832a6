// cvt: between all integer and float types, with rounding and saturation; cvta and isspacep.
//
// Registers are 16 bits wide at least: an 8-bit type lives in the low byte of one. Where a register is wider than the
// type, the decoder adds a widening or narrowing of its own ("~" in the operands).
#include <limits>

#include "lanes.h"

namespace emu {
namespace EMU_BUILD {
namespace {

// Stored is what a register holds of type T: 8-bit types are extended to 16.
template <class T> struct Stored { using type = T; };
template <> struct Stored<u8> { using type = u16; };
template <> struct Stored<s8> { using type = s16; };
template <class T> using stored = typename Stored<T>::type;

template <class D, class S> stored<D> cast(stored<S> x) { return (stored<D>)(D)(S)x; }

template <class D, class S> stored<D> clamp(stored<S> stored_) { // .sat
  const __int128 x = (S)stored_, low = std::numeric_limits<D>::min(), high = std::numeric_limits<D>::max();
  return (stored<D>)(D)(x < low ? low : x > high ? high : x);
}

enum class Round : uint8_t { Nearest, Zero, Down, Up };

template <Round r, class F> F rounded(F x) {
  if constexpr (r == Round::Nearest) return sizeof(F) == 4 ? (F)__builtin_rintf((f32)x) : (F)__builtin_rint(x);
  if constexpr (r == Round::Zero) return sizeof(F) == 4 ? (F)__builtin_truncf((f32)x) : (F)__builtin_trunc(x);
  if constexpr (r == Round::Down) return sizeof(F) == 4 ? (F)__builtin_floorf((f32)x) : (F)__builtin_floor(x);
  return sizeof(F) == 4 ? (F)__builtin_ceilf((f32)x) : (F)__builtin_ceil(x);
}

// Floats beyond the integer's range become its ends; NaN becomes 0 (of 64-bit results of f32: the lowest, as ptxas's
// code does it, is not what the manual says; we follow the manual).
template <Round r, class D, class F> stored<D> toInteger(F x) {
  const F y = rounded<r>(x);
  constexpr F top = (F)((f64)(std::numeric_limits<D>::max() / 2 + 1) * 2); // one above the highest: a power of two
  if (y != y) return 0;
  if (y >= top) return (stored<D>)std::numeric_limits<D>::max();
  if (y < (F)std::numeric_limits<D>::min()) return (stored<D>)std::numeric_limits<D>::min();
  return (stored<D>)(D)y;
}

// Directed rounding: the nearest, then one step back if it went the wrong way. long double holds all sources exactly.
template <Round r, class F> F directed(long double x) {
  F y = (F)x;
  if constexpr (r == Round::Nearest) return y;
  if (y != y || (long double)y == x) return y;
  const bool above = (long double)y > x;
  if (above && (r == Round::Down || (r == Round::Zero && x > 0))) return (F)std::nextafter(y, -(F)INFINITY);
  if (!above && (r == Round::Up || (r == Round::Zero && x < 0))) return (F)std::nextafter(y, (F)INFINITY);
  return y;
}
template <Round r, class F, class S> F toFloat(stored<S> x) {
  if constexpr (r == Round::Nearest) return (F)(S)x;
  else return directed<r, F>((long double)(S)x);
}
template <Round r> f32 narrow(f64 x) {
  if constexpr (r == Round::Nearest) return (f32)x;
  else return directed<r, f32>(x);
}

using half = _Float16;
u16 toHalf(f32 x) {
  if (x != x) return 0x7FFF;
  const half h = (half)x;
  u16 bits;
  memcpy(&bits, &h, 2);
  return bits;
}
f32 fromHalf(u16 bits) {
  half h;
  memcpy(&h, &bits, 2);
  return (f32)h;
}
u16 toBrain(f32 x) { // bf16, to nearest even
  const u32 b = toBits(x);
  if (x != x) return 0x7FFF;
  return (u16)((b + 0x7FFF + (b >> 16 & 1)) >> 16);
}
// tf32 has 10 bits of mantissa: to nearest, ties away from zero.
u32 toTf32(f32 x) {
  const u32 b = toBits(x);
  if (x != x) return 0x7FFFFFFF;
  if ((b & 0x7F800000u) == 0x7F800000u) return b;
  return (b + 0x1000) & ~0x1FFFu;
}
f32 unit(f32 x) { return x > 1 ? 1.0f : x > 0 ? x : 0.0f; }

template <class D, class S> void widen(Warp &w, const Inst &i, u32 m) { // between registers of different widths
  each<[](S x) { return (D)x; }, D, S>(w, i, m);
}

#define EMU_INT(D, wd, S, ws)                                                                                          \
  {"cvt." #D "." #S, each<cast<D, S>, stored<D>, stored<S>>, "d" wd "~ a" ws "~", Class::Convert,                      \
      std::is_signed_v<D>},                                                                                            \
      {"cvt.sat." #D "." #S, one<clamp<D, S>, stored<D>, stored<S>>, "d" wd "~ a" ws "~", Class::Convert,              \
          std::is_signed_v<D>}
#define EMU_INT_FROM(D, wd)                                                                                            \
  EMU_INT(D, wd, u8, "2"), EMU_INT(D, wd, s8, "2"), EMU_INT(D, wd, u16, "2"), EMU_INT(D, wd, s16, "2"),                \
      EMU_INT(D, wd, u32, "4"), EMU_INT(D, wd, s32, "4"), EMU_INT(D, wd, u64, "8"), EMU_INT(D, wd, s64, "8")

#define EMU_TO_INT(D, wd, F, wf)                                                                                       \
  {"cvt.rni.?ftz.?sat." #D "." #F, each<toInteger<Round::Nearest, D, F>, stored<D>, F>, "d" wd "~ a" wf,               \
      Class::Convert, std::is_signed_v<D>},                                                                            \
      {"cvt.rzi.?ftz.?sat." #D "." #F, each<toInteger<Round::Zero, D, F>, stored<D>, F>, "d" wd "~ a" wf,              \
          Class::Convert, std::is_signed_v<D>},                                                                        \
      {"cvt.rmi.?ftz.?sat." #D "." #F, each<toInteger<Round::Down, D, F>, stored<D>, F>, "d" wd "~ a" wf,              \
          Class::Convert, std::is_signed_v<D>},                                                                        \
      {"cvt.rpi.?ftz.?sat." #D "." #F, each<toInteger<Round::Up, D, F>, stored<D>, F>, "d" wd "~ a" wf,                \
          Class::Convert, std::is_signed_v<D>}
#define EMU_TO_INTS(F, wf)                                                                                             \
  EMU_TO_INT(u8, "2", F, wf), EMU_TO_INT(s8, "2", F, wf), EMU_TO_INT(u16, "2", F, wf), EMU_TO_INT(s16, "2", F, wf),    \
      EMU_TO_INT(u32, "4", F, wf), EMU_TO_INT(s32, "4", F, wf), EMU_TO_INT(u64, "8", F, wf),                           \
      EMU_TO_INT(s64, "8", F, wf)

#define EMU_TO_FLOAT(F, wf, S, ws)                                                                                     \
  {"cvt.rn." #F "." #S, each<toFloat<Round::Nearest, F, S>, F, stored<S>>, "d" wf " a" ws "~", Class::Convert},        \
      {"cvt.rz." #F "." #S, one<toFloat<Round::Zero, F, S>, F, stored<S>>, "d" wf " a" ws "~", Class::Convert},        \
      {"cvt.rm." #F "." #S, one<toFloat<Round::Down, F, S>, F, stored<S>>, "d" wf " a" ws "~", Class::Convert},        \
      {"cvt.rp." #F "." #S, one<toFloat<Round::Up, F, S>, F, stored<S>>, "d" wf " a" ws "~", Class::Convert}
#define EMU_TO_FLOATS(F, wf)                                                                                           \
  EMU_TO_FLOAT(F, wf, u8, "2"), EMU_TO_FLOAT(F, wf, s8, "2"), EMU_TO_FLOAT(F, wf, u16, "2"),                           \
      EMU_TO_FLOAT(F, wf, s16, "2"), EMU_TO_FLOAT(F, wf, u32, "4"), EMU_TO_FLOAT(F, wf, s32, "4"),                     \
      EMU_TO_FLOAT(F, wf, u64, "8"), EMU_TO_FLOAT(F, wf, s64, "8")

const Entry convert[] = {
    EMU_INT_FROM(u8, "2"),
    EMU_INT_FROM(s8, "2"),
    EMU_INT_FROM(u16, "2"),
    EMU_INT_FROM(s16, "2"),
    EMU_INT_FROM(u32, "4"),
    EMU_INT_FROM(s32, "4"),
    EMU_INT_FROM(u64, "8"),
    EMU_INT_FROM(s64, "8"),
    EMU_TO_INTS(f32, "s"),
    EMU_TO_INTS(f64, "t"),
    EMU_TO_FLOATS(f32, "s"),
    EMU_TO_FLOATS(f64, "t"),

    {"cvt.f64.?ftz.f32", each<[](f32 x) { return (f64)x; }, f64, f32>, "dt as", Class::Convert},
    {"cvt.rn.f32.f64", each<narrow<Round::Nearest>, f32, f64>, "ds at", Class::Convert},
    {"cvt.rn.ftz.f32.f64", each<[](f64 x) { return flush((f32)x); }, f32, f64>, "ds at", Class::Convert},
    {"cvt.rz.f32.f64", one<narrow<Round::Zero>, f32, f64>, "ds at", Class::Convert},
    {"cvt.rm.f32.f64", one<narrow<Round::Down>, f32, f64>, "ds at", Class::Convert},
    {"cvt.rp.f32.f64", one<narrow<Round::Up>, f32, f64>, "ds at", Class::Convert},
    {"cvt.rni.?ftz.f32.f32", each<rounded<Round::Nearest, f32>, f32, f32>, "ds as", Class::Convert},
    {"cvt.rzi.?ftz.f32.f32", each<rounded<Round::Zero, f32>, f32, f32>, "ds as", Class::Convert},
    {"cvt.rmi.?ftz.f32.f32", each<rounded<Round::Down, f32>, f32, f32>, "ds as", Class::Convert},
    {"cvt.rpi.?ftz.f32.f32", each<rounded<Round::Up, f32>, f32, f32>, "ds as", Class::Convert},
    {"cvt.rni.f64.f64", each<rounded<Round::Nearest, f64>, f64, f64>, "dt at", Class::Convert},
    {"cvt.rzi.f64.f64", each<rounded<Round::Zero, f64>, f64, f64>, "dt at", Class::Convert},
    {"cvt.rmi.f64.f64", each<rounded<Round::Down, f64>, f64, f64>, "dt at", Class::Convert},
    {"cvt.rpi.f64.f64", each<rounded<Round::Up, f64>, f64, f64>, "dt at", Class::Convert},
    {"cvt.f32.f32", each<[](f32 x) { return x; }, f32, f32>, "ds as", Class::Convert},
    {"cvt.ftz.f32.f32", each<flush, f32, f32>, "ds as", Class::Convert},
    {"cvt.?ftz.sat.f32.f32", each<unit, f32, f32>, "ds as", Class::Convert},
    {"cvt.rn.f16.f32", one<toHalf, u16, f32>, "d2 as", Class::Convert},
    {"cvt.?ftz.f32.f16", one<fromHalf, f32, u16>, "ds a2", Class::Convert},
    {"cvt.rn.bf16.f32", one<toBrain, u16, f32>, "d2 as", Class::Convert},
    {"cvt.rna.tf32.f32", each<toTf32, u32, f32>, "d4 as", Class::Convert},

    // What the decoder adds where a register is wider or narrower than the type; "widen" is no opcode of PTX.
    {"widen.u32.u16", widen<u32, u16>, "d4 a2", Class::Convert},
    {"widen.s32.s16", widen<s32, s16>, "d4 a2", Class::Convert},
    {"widen.u64.u16", widen<u64, u16>, "d8 a2", Class::Convert},
    {"widen.s64.s16", widen<s64, s16>, "d8 a2", Class::Convert},
    {"widen.u64.u32", widen<u64, u32>, "d8 a4", Class::Convert},
    {"widen.s64.s32", widen<s64, s32>, "d8 a4", Class::Convert},
    {"widen.u16.u32", widen<u16, u32>, "d2 a4", Class::Convert},
    {"widen.u16.u64", widen<u16, u64>, "d2 a8", Class::Convert},
    {"widen.u32.u64", widen<u32, u64>, "d4 a8", Class::Convert},

    // Addresses: shared and local memory have windows in the generic space, global addresses are generic ones.
    {"cvta.?to.global|const|param.u64", each<[](u64 a) { return a; }, u64, u64>, "d8 a8", Class::Move},
    {"cvta.shared.u64", each<[](u64 a) { return a | sharedWindow; }, u64, u64>, "d8 a8", Class::Move},
    {"cvta.to.shared.u64", each<[](u64 a) { return a & ~windowMask; }, u64, u64>, "d8 a8", Class::Move},
    {"cvta.local.u64", each<[](u64 a) { return a | localWindow; }, u64, u64>, "d8 a8", Class::Move},
    {"cvta.to.local.u64", each<[](u64 a) { return a & ~windowMask; }, u64, u64>, "d8 a8", Class::Move},
};

} // namespace

EMU_TABLE(convert)

} // namespace EMU_BUILD
} // namespace emu
