// Lanes: how a function of one thread becomes a handler for 32. For ops_*.cc, which are built once for each processor
// (EMU_BUILD is the namespace of the build: portable, avx2); all in here is internal to one build.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "decode.h"
#include "runs.h"

namespace emu {
namespace EMU_BUILD {
namespace {

using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using s8 = int8_t;
using s16 = int16_t;
using s32 = int32_t;
using s64 = int64_t;
using f32 = float;
using f64 = double;

// A lane's part of a register never overlaps another's, and a destination is either a source or apart from it: so the
// loops below may be vectorised.
#define EMU_LANES _Pragma("GCC ivdep") for (int l = 0; l < lanes; l++)

// each makes a handler of f(a, b, c) -> d, for f so cheap that idle lanes may compute too.
template <auto f, class D, class A> void each(Warp &w, const Inst &i, u32 m) {
  D *d = w.reg<D>(i.d);
  const A *a = w.reg<A>(i.a);
  if (m == everyone) EMU_LANES d[l] = f(a[l]);
  else EMU_LANES d[l] = (m >> l & 1) ? (D)f(a[l]) : d[l];
}
template <auto f, class D, class A, class B> void each(Warp &w, const Inst &i, u32 m) {
  D *d = w.reg<D>(i.d);
  const A *a = w.reg<A>(i.a);
  const B *b = w.reg<B>(i.b);
  if (m == everyone) EMU_LANES d[l] = f(a[l], b[l]);
  else EMU_LANES d[l] = (m >> l & 1) ? (D)f(a[l], b[l]) : d[l];
}
template <auto f, class D, class A, class B, class C> void each(Warp &w, const Inst &i, u32 m) {
  D *d = w.reg<D>(i.d);
  const A *a = w.reg<A>(i.a);
  const B *b = w.reg<B>(i.b);
  const C *c = w.reg<C>(i.c);
  if (m == everyone) EMU_LANES d[l] = f(a[l], b[l], c[l]);
  else EMU_LANES d[l] = (m >> l & 1) ? (D)f(a[l], b[l], c[l]) : d[l];
}
template <auto f, class D, class A, class B, class C, class E> void each(Warp &w, const Inst &i, u32 m) {
  D *d = w.reg<D>(i.d);
  const A *a = w.reg<A>(i.a);
  const B *b = w.reg<B>(i.b);
  const C *c = w.reg<C>(i.c);
  const E *e = w.reg<E>(i.f);
  EMU_LANES d[l] = (m >> l & 1) ? (D)f(a[l], b[l], c[l], e[l]) : d[l];
}

// one makes a handler of an f that costs more than a few instructions, or may not see what idle lanes hold.
template <auto f, class D, class A> void one(Warp &w, const Inst &i, u32 m) {
  D *d = w.reg<D>(i.d);
  const A *a = w.reg<A>(i.a);
  for (int l = 0; l < lanes; l++)
    if (m >> l & 1) d[l] = f(a[l]);
}
template <auto f, class D, class A, class B> void one(Warp &w, const Inst &i, u32 m) {
  D *d = w.reg<D>(i.d);
  const A *a = w.reg<A>(i.a);
  const B *b = w.reg<B>(i.b);
  for (int l = 0; l < lanes; l++)
    if (m >> l & 1) d[l] = f(a[l], b[l]);
}

// Predicates: pack makes a mask of 32 truth values that are 0 or all ones.
template <class T> u32 pack(const T *truth) {
#ifdef __AVX2__
  u32 r = 0;
  if constexpr (sizeof(T) == 4) {
    for (int k = 0; k < 4; k++)
      r |= (u32)_mm256_movemask_ps(_mm256_loadu_ps((const float *)truth + 8 * k)) << 8 * k;
    return r;
  } else if constexpr (sizeof(T) == 8) {
    for (int k = 0; k < 8; k++)
      r |= (u32)_mm256_movemask_pd(_mm256_loadu_pd((const double *)truth + 4 * k)) << 4 * k;
    return r;
  }
#endif
  u32 bits = 0;
  for (int l = 0; l < lanes; l++) bits |= (u32)(truth[l] & 1) << l;
  return bits;
}
template <int bytes> struct Truth;
template <> struct Truth<2> { using type = s16; };
template <> struct Truth<4> { using type = s32; };
template <> struct Truth<8> { using type = s64; };

template <auto f, class A> u32 compared(const A *a, const A *b) {
  using T = typename Truth<sizeof(A)>::type;
  alignas(64) T truth[lanes];
  EMU_LANES truth[l] = f(a[l], b[l]) ? (T)-1 : (T)0;
  return pack(truth);
}
inline void setPredicate(Warp &w, u32 slot, u32 value, u32 m) {
  u32 &p = w.predicate(slot);
  p = (p & ~m) | (value & m);
}

template <class T> T fromBits(std::conditional_t<sizeof(T) == 4, u32, u64> bits) {
  T t;
  memcpy(&t, &bits, sizeof t);
  return t;
}
template <class T> auto toBits(T t) {
  std::conditional_t<sizeof(T) == 4, u32, u64> bits;
  memcpy(&bits, &t, sizeof t);
  return bits;
}

// flush is what .ftz does to a subnormal.
inline f32 flush(f32 x) {
  const u32 bits = toBits(x);
  return (bits & 0x7F800000u) ? x : fromBits<f32>(bits & 0x80000000u);
}

// place is resolve for `size` bytes (a power of two) of shared or of other memory, and quick if these lie where the
// instruction found its bytes before.
template <Space space> u8 *place(Warp &w, const Inst &i, int l, u64 at, u32 size, bool write) {
  if (!(at & (size - 1))) {
    if constexpr (space == Space::Shared) {
      const u64 all = w.block->sharedBytes;
      if (at < all && size <= all - at) return w.block->shared + at;
    } else {
      const Span &s = spanOf(w, i);
      if (at >= s.low && at < s.high && size <= s.high - at && !(write && s.constant)) return s.bytes + (at - s.low);
    }
  }
  return resolve(w, i, l, at, size, space == Space::Shared ? Space::Shared : i.space, write);
}

// ahead tells the processor that the memory behind what lanes read will be read next: rows of a matrix are more streams
// than it follows by itself. `last` is where the lane before read.
inline const u8 *ahead(const u8 *from, const u8 *last) {
  if (((uintptr_t)from ^ (uintptr_t)last) >> 6) __builtin_prefetch(from + 64);
  return from;
}

} // namespace
} // namespace EMU_BUILD
} // namespace emu

#define EMU_TABLE(name)                                                                                                \
  Table name##Table() { return {name, sizeof name / sizeof *name}; }
