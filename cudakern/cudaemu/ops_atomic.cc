// Atomics: atom and red, on global, shared and generic addresses. Lanes take their turns in ascending order; blocks
// that run on other threads of the host meet at the host's own atomics.
#include "lanes.h"

namespace emu {
namespace EMU_BUILD {
namespace {

template <class T> T *place(Warp &w, const Inst &i, int l, u64 address) {
  return (T *)resolve(w, i, l, address, sizeof(T), i.space, true);
}

// update makes d the old value and f(old, b, c) the new one.
template <auto f, class T> void update(Warp &w, const Inst &i, u32 m) {
  alignas(64) u64 at[lanes];
  const u64 *a = w.reg<u64>(i.a);
  for (int l = 0; l < lanes; l++) at[l] = a[l] + (u64)i.imm;
  if (w.block->watched) checkAccess(w, i, m, at, i.space, true, true);
  T *d = w.reg<T>(i.d);
  T b[lanes], c[lanes];
  memcpy(b, w.reg<T>(i.b), sizeof b); // d may be where b is
  memcpy(c, w.reg<T>(i.c), sizeof c);
  for (int l = 0; l < lanes; l++) {
    if (!(m >> l & 1)) continue;
    T *p = place<T>(w, i, l, at[l]);
    T old = __atomic_load_n(p, __ATOMIC_SEQ_CST);
    while (!__atomic_compare_exchange_n(p, &old, (T)f(old, b[l], c[l]), false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {}
    d[l] = old;
  }
}

u32 addF32(u32 a, u32 b, u32) { return toBits(fromBits<f32>(a) + fromBits<f32>(b)); }
u64 addF64(u64 a, u64 b, u64) { return toBits(fromBits<f64>(a) + fromBits<f64>(b)); }
template <class T> T least(T a, T b, T) { return a < b ? a : b; }
template <class T> T most(T a, T b, T) { return b < a ? a : b; }
template <class U, class S> U leastSigned(U a, U b, U) { return (S)a < (S)b ? a : b; }
template <class U, class S> U mostSigned(U a, U b, U) { return (S)b < (S)a ? a : b; }
u32 increment(u32 a, u32 b, u32) { return a >= b ? 0 : a + 1; }
u32 decrement(u32 a, u32 b, u32) { return a == 0 || b < a ? b : a - 1; }
template <class T> T swap(T a, T b, T c) { return a == b ? c : a; }

#define EMU_HOW ".?relaxed|acquire|release|acq_rel.?cta|cluster|gpu|sys.?global|shared|shared::cta."
#define EMU_ATOMIC(what, f, T, w)                                                                                      \
  {"atom" EMU_HOW what, update<f, T>, "d" w " A b" w, Class::Atomic, sizeof(T)},                                       \
      {"red" EMU_HOW what, update<f, T>, "A b" w, Class::Atomic, sizeof(T)}

constexpr auto add32 = [](u32 a, u32 b, u32) { return a + b; };
constexpr auto add64 = [](u64 a, u64 b, u64) { return a + b; };
constexpr auto and32 = [](u32 a, u32 b, u32) { return a & b; };
constexpr auto and64 = [](u64 a, u64 b, u64) { return a & b; };
constexpr auto or32 = [](u32 a, u32 b, u32) { return a | b; };
constexpr auto or64 = [](u64 a, u64 b, u64) { return a | b; };
constexpr auto xor32 = [](u32 a, u32 b, u32) { return a ^ b; };
constexpr auto xor64 = [](u64 a, u64 b, u64) { return a ^ b; };
constexpr auto exch32 = [](u32, u32 b, u32) { return b; };
constexpr auto exch64 = [](u64, u64 b, u64) { return b; };
constexpr auto min64s = leastSigned<u64, s64>;
constexpr auto max64s = mostSigned<u64, s64>;
constexpr auto min32s = leastSigned<u32, s32>;
constexpr auto max32s = mostSigned<u32, s32>;

const Entry atomic[] = {
    EMU_ATOMIC("add.u32|s32", add32, u32, "4"),
    EMU_ATOMIC("add.u64|s64", add64, u64, "8"),
    EMU_ATOMIC("add.?ftz.f32", addF32, u32, "s"),
    EMU_ATOMIC("add.f64", addF64, u64, "t"),
    EMU_ATOMIC("and.b32", and32, u32, "4"),
    EMU_ATOMIC("and.b64", and64, u64, "8"),
    EMU_ATOMIC("or.b32", or32, u32, "4"),
    EMU_ATOMIC("or.b64", or64, u64, "8"),
    EMU_ATOMIC("xor.b32", xor32, u32, "4"),
    EMU_ATOMIC("xor.b64", xor64, u64, "8"),
    EMU_ATOMIC("exch.b32", exch32, u32, "4"),
    EMU_ATOMIC("exch.b64", exch64, u64, "8"),
    EMU_ATOMIC("min.u32", least<u32>, u32, "4"),
    EMU_ATOMIC("min.u64", least<u64>, u64, "8"),
    EMU_ATOMIC("min.s32", min32s, u32, "4"),
    EMU_ATOMIC("min.s64", min64s, u64, "8"),
    EMU_ATOMIC("max.u32", most<u32>, u32, "4"),
    EMU_ATOMIC("max.u64", most<u64>, u64, "8"),
    EMU_ATOMIC("max.s32", max32s, u32, "4"),
    EMU_ATOMIC("max.s64", max64s, u64, "8"),
    EMU_ATOMIC("inc.u32", increment, u32, "4"),
    EMU_ATOMIC("dec.u32", decrement, u32, "4"),
    {"atom" EMU_HOW "cas.b32", update<swap<u32>, u32>, "d4 A b4 c4", Class::Atomic, 4},
    {"atom" EMU_HOW "cas.b64", update<swap<u64>, u64>, "d8 A b8 c8", Class::Atomic, 8},
};

} // namespace

EMU_TABLE(atomic)

} // namespace EMU_BUILD
} // namespace emu
