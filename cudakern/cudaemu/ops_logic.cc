// Bits: and or xor not cnot shl shr shf lop3 bfe bfi bfind prmt popc clz brev, and mov.
#include "lanes.h"

namespace emu {
namespace EMU_BUILD {
namespace {

// Shifts by the width or more yield 0, or the sign.
template <class T> T left(T a, u32 n) { return n < sizeof(T) * 8 ? (T)(a << n) : (T)0; }
template <class T> T right(T a, u32 n) {
  constexpr u32 bits = sizeof(T) * 8;
  if constexpr (std::is_signed_v<T>) return (T)(a >> (n < bits ? n : bits - 1));
  else return n < bits ? (T)(a >> n) : (T)0;
}
u32 funnelLeft(u32 low, u32 high, u32 n) { return (u32)(((u64)high << 32 | low) << n >> 32); }
u32 funnelRight(u32 low, u32 high, u32 n) { return (u32)(((u64)high << 32 | low) >> n); }

// bfe: `length` bits from `position` on; beyond the top, zeros or the sign of the field's (or the word's) top bit.
template <class T> T extract(T a, u32 position, u32 length) {
  constexpr u32 top = sizeof(T) * 8 - 1;
  using U = std::make_unsigned_t<T>;
  position &= 0xFF;
  length &= 0xFF;
  if (!length) return 0;
  const u32 end = position + length - 1 < top ? position + length - 1 : top;
  const bool sign = std::is_signed_v<T> && ((U)a >> end & 1);
  U r = position > top ? (U)0 : (U)a >> position;
  const u32 kept = position > top ? 0 : end - position + 1;
  const U mask = kept > top ? ~(U)0 : ((U)1 << kept) - 1;
  r &= mask;
  if (sign) r |= ~mask;
  return (T)r;
}
template <class T> T insert(T a, T b, u32 position, u32 length) {
  constexpr u32 bits = sizeof(T) * 8;
  position &= 0xFF;
  length &= 0xFF;
  if (position >= bits || !length) return b;
  const T field = (length >= bits ? ~(T)0 : ((T)1 << length) - 1) << position;
  return (T)((b & ~field) | (a << position & field));
}
template <class T> u32 topBit(T a) { // bfind: of signed numbers the highest bit that is not the sign
  using U = std::make_unsigned_t<T>;
  U u = (U)a;
  if constexpr (std::is_signed_v<T>)
    if (a < 0) u = ~u;
  return u ? (u32)(63 - __builtin_clzll((u64)u)) : ~0u;
}
template <class T> u32 topShift(T a) { // bfind.shiftamt
  const u32 t = topBit(a);
  return t == ~0u ? t : (u32)(sizeof(T) * 8 - 1) - t;
}
template <class T> T reversed(T a) {
  T r = 0;
  for (unsigned k = 0; k < sizeof(T) * 8; k++) r |= (a >> k & 1) << (sizeof(T) * 8 - 1 - k);
  return r;
}

u32 permuted(u32 a, u32 b, u32 selector) {
  const u64 bytes = (u64)b << 32 | a;
  u32 r = 0;
  for (int k = 0; k < 4; k++) {
    const u32 s = selector >> 4 * k & 0xF;
    u32 byte = (u32)(bytes >> 8 * (s & 7)) & 0xFF;
    if (s & 8) byte = byte & 0x80 ? 0xFF : 0; // the sign of that byte, in each bit
    r |= byte << 8 * k;
  }
  return r;
}
// The modes of prmt pick bytes by the two lowest bits of the selector.
constexpr u32 pick(int first, int second, int third, int fourth) {
  return (u32)(first | second << 4 | third << 8 | fourth << 12);
}
constexpr u32 prmtModes[6][4] = {
    {pick(0, 1, 2, 3), pick(1, 2, 3, 4), pick(2, 3, 4, 5), pick(3, 4, 5, 6)}, // f4e
    {pick(0, 7, 6, 5), pick(1, 0, 7, 6), pick(2, 1, 0, 7), pick(3, 2, 1, 0)}, // b4e
    {pick(0, 0, 0, 0), pick(1, 1, 1, 1), pick(2, 2, 2, 2), pick(3, 3, 3, 3)}, // rc8
    {pick(0, 1, 2, 3), pick(1, 1, 2, 3), pick(2, 2, 2, 3), pick(3, 3, 3, 3)}, // ecl
    {pick(0, 0, 0, 0), pick(0, 1, 1, 1), pick(0, 1, 2, 2), pick(0, 1, 2, 3)}, // ecr
    {pick(0, 1, 0, 1), pick(2, 3, 2, 3), pick(0, 1, 0, 1), pick(2, 3, 2, 3)}, // rc16
};
template <int mode> u32 permutedBy(u32 a, u32 b, u32 selector) { return permuted(a, b, prmtModes[mode][selector & 3]); }

void lop3(Warp &w, const Inst &i, u32 m) { // each bit of the result is looked up by the three bits of the sources
  u32 *d = w.reg<u32>(i.d);
  const u32 *a = w.reg<u32>(i.a), *b = w.reg<u32>(i.b), *c = w.reg<u32>(i.c);
  u32 table[8];
  for (int k = 0; k < 8; k++) table[k] = i.imm >> k & 1 ? ~0u : 0u;
  EMU_LANES {
    u32 r = 0;
    for (int k = 0; k < 8; k++)
      r |= table[k] & (k & 4 ? a[l] : ~a[l]) & (k & 2 ? b[l] : ~b[l]) & (k & 1 ? c[l] : ~c[l]);
    d[l] = m >> l & 1 ? r : d[l];
  }
}

template <class T, class H> void join(Warp &w, const Inst &i, u32 m) { // mov.b64 d, {a, b}
  T *d = w.reg<T>(i.d);
  const H *a = w.reg<H>(i.vec[0]), *b = w.reg<H>(i.vec[1]);
  EMU_LANES d[l] = m >> l & 1 ? (T)((T)b[l] << sizeof(H) * 8 | a[l]) : d[l];
}
template <class T, class H> void split(Warp &w, const Inst &i, u32 m) { // mov.b64 {d, e}, a
  H *d = w.reg<H>(i.vec[0]), *e = w.reg<H>(i.vec[1]);
  const T *a = w.reg<T>(i.a);
  T copy[lanes];
  memcpy(copy, a, sizeof copy);
  EMU_LANES d[l] = m >> l & 1 ? (H)copy[l] : d[l];
  EMU_LANES e[l] = m >> l & 1 ? (H)(copy[l] >> sizeof(H) * 8) : e[l];
}

template <auto f> void onPredicates(Warp &w, const Inst &i, u32 m) {
  setPredicate(w, i.d, f(w.predicate(i.a), w.predicate(i.b)), m);
}

template <class T> T same(T a) { return a; }

const Entry logic[] = {
    {"mov.b16|u16|s16|f16|bf16", each<same<u16>, u16, u16>, "d2 a2", Class::Move},
    {"mov.b32|u32|s32|f16x2", each<same<u32>, u32, u32>, "d4 a4", Class::Move},
    {"mov.f32", each<same<u32>, u32, u32>, "ds as", Class::Move},
    {"mov.b64|u64|s64", each<same<u64>, u64, u64>, "d8 a8", Class::Move},
    {"mov.f64", each<same<u64>, u64, u64>, "dt at", Class::Move},
    {"mov.b64", join<u64, u32>, "d8 v4", Class::Move},
    {"mov.b64", split<u64, u32>, "v4 a8", Class::Move},
    {"mov.b32", join<u32, u16>, "d4 v2", Class::Move},
    {"mov.b32", split<u32, u16>, "v2 a4", Class::Move},
    {"mov.pred", onPredicates<[](u32 a, u32) { return a; }>, "dp ap", Class::Move},

    {"and.b16", each<[](u16 a, u16 b) { return (u16)(a & b); }, u16, u16, u16>, "d2 a2 b2"},
    {"and.b32", each<[](u32 a, u32 b) { return a & b; }, u32, u32, u32>, "d4 a4 b4"},
    {"and.b64", each<[](u64 a, u64 b) { return a & b; }, u64, u64, u64>, "d8 a8 b8"},
    {"and.pred", onPredicates<[](u32 a, u32 b) { return a & b; }>, "dp ap bp"},
    {"or.b16", each<[](u16 a, u16 b) { return (u16)(a | b); }, u16, u16, u16>, "d2 a2 b2"},
    {"or.b32", each<[](u32 a, u32 b) { return a | b; }, u32, u32, u32>, "d4 a4 b4"},
    {"or.b64", each<[](u64 a, u64 b) { return a | b; }, u64, u64, u64>, "d8 a8 b8"},
    {"or.pred", onPredicates<[](u32 a, u32 b) { return a | b; }>, "dp ap bp"},
    {"xor.b16", each<[](u16 a, u16 b) { return (u16)(a ^ b); }, u16, u16, u16>, "d2 a2 b2"},
    {"xor.b32", each<[](u32 a, u32 b) { return a ^ b; }, u32, u32, u32>, "d4 a4 b4"},
    {"xor.b64", each<[](u64 a, u64 b) { return a ^ b; }, u64, u64, u64>, "d8 a8 b8"},
    {"xor.pred", onPredicates<[](u32 a, u32 b) { return a ^ b; }>, "dp ap bp"},
    {"not.b16", each<[](u16 a) { return (u16)~a; }, u16, u16>, "d2 a2"},
    {"not.b32", each<[](u32 a) { return ~a; }, u32, u32>, "d4 a4"},
    {"not.b64", each<[](u64 a) { return ~a; }, u64, u64>, "d8 a8"},
    {"not.pred", onPredicates<[](u32 a, u32) { return ~a; }>, "dp ap"},
    {"cnot.b16", each<[](u16 a) { return (u16)!a; }, u16, u16>, "d2 a2"},
    {"cnot.b32", each<[](u32 a) { return (u32)!a; }, u32, u32>, "d4 a4"},
    {"cnot.b64", each<[](u64 a) { return (u64)!a; }, u64, u64>, "d8 a8"},

    {"shl.b16", each<left<u16>, u16, u16, u32>, "d2 a2 b4"},
    {"shl.b32", each<left<u32>, u32, u32, u32>, "d4 a4 b4"},
    {"shl.b64", each<left<u64>, u64, u64, u32>, "d8 a8 b4"},
    {"shr.u16|b16", each<right<u16>, u16, u16, u32>, "d2 a2 b4"},
    {"shr.u32|b32", each<right<u32>, u32, u32, u32>, "d4 a4 b4"},
    {"shr.u64|b64", each<right<u64>, u64, u64, u32>, "d8 a8 b4"},
    {"shr.s16", each<right<s16>, s16, s16, u32>, "d2 a2 b4"},
    {"shr.s32", each<right<s32>, s32, s32, u32>, "d4 a4 b4"},
    {"shr.s64", each<right<s64>, s64, s64, u32>, "d8 a8 b4"},
    {"shf.l.wrap.b32", each<[](u32 a, u32 b, u32 n) { return funnelLeft(a, b, n & 31); }, u32, u32, u32, u32>,
        "d4 a4 b4 c4"},
    {"shf.l.clamp.b32", each<[](u32 a, u32 b, u32 n) { return funnelLeft(a, b, n < 32 ? n : 32); }, u32, u32, u32, u32>,
        "d4 a4 b4 c4"},
    {"shf.r.wrap.b32", each<[](u32 a, u32 b, u32 n) { return funnelRight(a, b, n & 31); }, u32, u32, u32, u32>,
        "d4 a4 b4 c4"},
    {"shf.r.clamp.b32", each<[](u32 a, u32 b, u32 n) { return funnelRight(a, b, n < 32 ? n : 32); }, u32, u32, u32,
                            u32>,
        "d4 a4 b4 c4"},
    {"lop3.b32", lop3, "d4 a4 b4 c4 i"},

    {"bfe.u32", each<extract<u32>, u32, u32, u32, u32>, "d4 a4 b4 c4"},
    {"bfe.s32", each<extract<s32>, s32, s32, u32, u32>, "d4 a4 b4 c4"},
    {"bfe.u64", each<extract<u64>, u64, u64, u32, u32>, "d8 a8 b4 c4"},
    {"bfe.s64", each<extract<s64>, s64, s64, u32, u32>, "d8 a8 b4 c4"},
    {"bfi.b32", each<insert<u32>, u32, u32, u32, u32, u32>, "d4 a4 b4 c4 f4"},
    {"bfi.b64", each<insert<u64>, u64, u64, u64, u32, u32>, "d8 a8 b8 c4 f4"},
    {"bfind.u32", one<topBit<u32>, u32, u32>, "d4 a4"},
    {"bfind.s32", one<topBit<s32>, u32, s32>, "d4 a4"},
    {"bfind.u64", one<topBit<u64>, u32, u64>, "d4 a8"},
    {"bfind.s64", one<topBit<s64>, u32, s64>, "d4 a8"},
    {"bfind.shiftamt.u32", one<topShift<u32>, u32, u32>, "d4 a4"},
    {"bfind.shiftamt.s32", one<topShift<s32>, u32, s32>, "d4 a4"},
    {"bfind.shiftamt.u64", one<topShift<u64>, u32, u64>, "d4 a8"},
    {"bfind.shiftamt.s64", one<topShift<s64>, u32, s64>, "d4 a8"},
    {"prmt.b32", each<permuted, u32, u32, u32, u32>, "d4 a4 b4 c4"},
    {"prmt.b32.f4e", each<permutedBy<0>, u32, u32, u32, u32>, "d4 a4 b4 c4"},
    {"prmt.b32.b4e", each<permutedBy<1>, u32, u32, u32, u32>, "d4 a4 b4 c4"},
    {"prmt.b32.rc8", each<permutedBy<2>, u32, u32, u32, u32>, "d4 a4 b4 c4"},
    {"prmt.b32.ecl", each<permutedBy<3>, u32, u32, u32, u32>, "d4 a4 b4 c4"},
    {"prmt.b32.ecr", each<permutedBy<4>, u32, u32, u32, u32>, "d4 a4 b4 c4"},
    {"prmt.b32.rc16", each<permutedBy<5>, u32, u32, u32, u32>, "d4 a4 b4 c4"},
    {"popc.b32", one<[](u32 a) { return (u32)__builtin_popcount(a); }, u32, u32>, "d4 a4"},
    {"popc.b64", one<[](u64 a) { return (u32)__builtin_popcountll(a); }, u32, u64>, "d4 a8"},
    {"clz.b32", one<[](u32 a) { return a ? (u32)__builtin_clz(a) : 32u; }, u32, u32>, "d4 a4"},
    {"clz.b64", one<[](u64 a) { return a ? (u32)__builtin_clzll(a) : 64u; }, u32, u64>, "d4 a8"},
    {"brev.b32", one<reversed<u32>, u32, u32>, "d4 a4"},
    {"brev.b64", one<reversed<u64>, u64, u64>, "d8 a8"},
};

} // namespace

EMU_TABLE(logic)

} // namespace EMU_BUILD
} // namespace emu
