// Loads and stores: ld st, ld.param. The decoder asks loadHandler and storeHandler for what a statement needs; what
// moves 4-byte words between global or shared memory and a whole warp has paths of its own, all else goes lane by lane.
#include "lanes.h"

namespace emu {
namespace EMU_BUILD {
namespace {

// addressesOf computes the address of each lane; those of idle lanes are garbage.
void addressesOf(Warp &w, const Inst &i, u64 *at) {
  const u64 *a = w.reg<u64>(i.a);
  for (int l = 0; l < lanes; l++) at[l] = a[l] + (u64)i.imm;
}

// reach is what the register's addresses (of all lanes, without the offset) have in common.
const Reach &reach(Warp &w, const Inst &i) {
  Reach &r = w.reaches[i.reach];
  if (!i.fresh) return r;
  const u64 *a = w.reg<u64>(i.a);
  const u64 step = a[1] - a[0];
#ifdef __AVX2__
  const auto vector = [&](int k) { return _mm256_load_si256((const __m256i *)(a + 4 * k)); };
  const __m256i first = vector(0), second = vector(1), zero = _mm256_setzero_si256();
  __m256i low = first, high = first, bits = zero, uneven = zero, grouped = zero, periodic = zero, want = first;
  const __m256i ahead = _mm256_set1_epi64x((long long)(4 * step));
  uneven = _mm256_xor_si256(first, _mm256_setr_epi64x((long long)a[0], (long long)(a[0] + step),
                                       (long long)(a[0] + 2 * step), (long long)(a[0] + 3 * step)));
  for (int k = 0; k < 8; k += 2) {
    const __m256i x = vector(k), y = vector(k + 1), one = _mm256_permute4x64_epi64(x, 0);
    bits = _mm256_or_si256(bits, _mm256_or_si256(x, y));
    low = _mm256_blendv_epi8(low, x, _mm256_cmpgt_epi64(low, x)); // above 2^63 no address is: signed comparison will do
    low = _mm256_blendv_epi8(low, y, _mm256_cmpgt_epi64(low, y));
    high = _mm256_blendv_epi8(high, x, _mm256_cmpgt_epi64(x, high));
    high = _mm256_blendv_epi8(high, y, _mm256_cmpgt_epi64(y, high));
    uneven = _mm256_or_si256(uneven, _mm256_xor_si256(x, want));
    want = _mm256_add_epi64(want, ahead);
    uneven = _mm256_or_si256(uneven, _mm256_xor_si256(y, want));
    want = _mm256_add_epi64(want, ahead);
    grouped = _mm256_or_si256(grouped, _mm256_or_si256(_mm256_xor_si256(x, one), _mm256_xor_si256(y, one)));
    periodic = _mm256_or_si256(periodic, _mm256_or_si256(_mm256_xor_si256(x, first), _mm256_xor_si256(y, second)));
  }
  alignas(32) s64 lows[4], highs[4];
  alignas(32) u64 ors[4];
  _mm256_store_si256((__m256i *)lows, low);
  _mm256_store_si256((__m256i *)highs, high);
  _mm256_store_si256((__m256i *)ors, bits);
  s64 least = lows[0], most = highs[0];
  for (int k = 1; k < 4; k++) {
    least = lows[k] < least ? lows[k] : least;
    most = highs[k] > most ? highs[k] : most;
  }
  r.low = (u64)least;
  r.high = (u64)most;
  r.bits = ors[0] | ors[1] | ors[2] | ors[3];
  r.step = _mm256_testz_si256(uneven, uneven) ? step : ~(u64)0;
  r.groups = _mm256_testz_si256(grouped, grouped);
  r.period = _mm256_testz_si256(periodic, periodic);
#else
  r = {a[0], a[0], 0, step, true, true};
  for (int l = 0; l < lanes; l++) {
    r.low = (s64)a[l] < (s64)r.low ? a[l] : r.low;
    r.high = (s64)a[l] > (s64)r.high ? a[l] : r.high;
    r.bits |= a[l];
    if (a[l] != a[0] + step * (u64)l) r.step = ~(u64)0;
    r.groups = r.groups && a[l] == a[l & ~7];
    r.period = r.period && a[l] == a[l & 7];
  }
#endif
  return r;
}

// base yields the pointer to which addresses are to be added, if all of [low, end) may be accessed, else null. (For
// what is in the reservation it is no pointer to anything; only the sums are.)
template <Space space> const u8 *base(Warp &w, const Inst &i, u64 low, u64 end, bool write, bool *ok) {
  *ok = false;
  if constexpr (space == Space::Shared) {
    *ok = (s64)low >= 0 && end <= w.block->sharedBytes && end > low;
    return w.block->shared;
  } else {
    Span *s = &spanOf(w, i);
    if ((low < s->low || end > s->high) && !span(w, i, low, &s)) return nullptr;
    *ok = low >= s->low && end <= s->high && end > low && !(write && s->constant);
    return (const u8 *)((uintptr_t)s->bytes - (uintptr_t)s->low);
  }
}

// spread writes a word to eight lanes.
inline void spread(const u8 *from, u32 *to) {
#ifdef __AVX2__
  _mm256_store_ps((float *)to, _mm256_broadcast_ss((const float *)from));
#else
  u32 v;
  memcpy(&v, from, 4);
  for (int n = 0; n < 8; n++) to[n] = v;
#endif
}

// Four words of each of `count` lanes (a multiple of 8), to registers that hold one word of all lanes; `repeat`: the
// other lanes get the same, 8 by 8.
void gather4(const u8 *from, const u64 *at, u32 *const *d, int count, bool repeat) {
#ifdef __AVX2__
  for (int l = 0; l < count; l += 8) {
    const auto two = [&](int k) {
      return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps((const float *)(from + at[l + k]))),
          _mm_loadu_ps((const float *)(from + at[l + k + 4])), 1);
    };
    const __m256 a = two(0), b = two(1), c = two(2), e = two(3);
    const __m256 ab = _mm256_unpacklo_ps(a, b), AB = _mm256_unpackhi_ps(a, b);
    const __m256 ce = _mm256_unpacklo_ps(c, e), CE = _mm256_unpackhi_ps(c, e);
    const __m256 out[4] = {_mm256_shuffle_ps(ab, ce, 0x44), _mm256_shuffle_ps(ab, ce, 0xEE),
        _mm256_shuffle_ps(AB, CE, 0x44), _mm256_shuffle_ps(AB, CE, 0xEE)};
    for (int k = 0; k < 4; k++)
      for (int to = l; to < (repeat ? lanes : l + 8); to += 8) _mm256_store_ps((float *)(d[k] + to), out[k]);
  }
#else
  for (int l = 0; l < count; l++) {
    u32 v[4];
    memcpy(v, from + at[l], 16);
    for (int k = 0; k < 4; k++)
      for (int to = l; to < (repeat ? lanes : l + 1); to += 8) d[k][to] = v[k];
  }
#endif
}

// Any load, lane by lane.
void loadAny(Warp &w, const Inst &i, u32 m) {
  const u32 size = (u32)i.bytes * i.count, width = i.mode & 0x7F;
  alignas(64) u64 at[lanes]; // apart: what is loaded may go where the addresses are
  addressesOf(w, i, at);
  if (w.block->watched) checkAccess(w, i, m, at, i.space, false, false);
  for (int l = 0; l < lanes; l++) {
    if (!(m >> l & 1)) continue;
    const u8 *p = resolve(w, i, l, at[l], size, i.space, false);
    for (int k = 0; k < i.count; k++, p += i.bytes) {
      u64 v = 0;
      memcpy(&v, p, i.bytes);
      if (i.mode & 0x80) v = (u64)((s64)(v << (64 - 8 * i.bytes)) >> (64 - 8 * i.bytes));
      memcpy(w.registers + i.vec[k] + (u32)l * width, &v, width);
    }
  }
}
void storeAny(Warp &w, const Inst &i, u32 m) {
  const u32 size = (u32)i.bytes * i.count, width = i.mode & 0x7F;
  alignas(64) u64 at[lanes];
  addressesOf(w, i, at);
  if (w.block->watched) checkAccess(w, i, m, at, i.space, true, false);
  for (int l = 0; l < lanes; l++) {
    if (!(m >> l & 1)) continue;
    u8 *p = resolve(w, i, l, at[l], size, i.space, true);
    for (int k = 0; k < i.count; k++, p += i.bytes) memcpy(p, w.registers + i.vec[k] + (u32)l * width, i.bytes);
  }
}

// Words of 4 bytes of some lanes, one after the other.
template <Space space, int count> void loadLanes(Warp &w, const Inst &i, u32 m) {
  if (w.block->watched) return loadAny(w, i, m);
  const u64 *at = w.reg<u64>(i.a);
  const u8 *last = nullptr;
  for (; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    const u8 *from = place<space>(w, i, l, at[l] + (u64)i.imm, 4 * count, false);
    if (space == Space::Global) last = ahead(from, last);
    for (int k = 0; k < count; k++) memcpy(w.reg<u32>(i.vec[k]) + l, from + 4 * k, 4);
  }
}
template <Space space, int count> void storeLanes(Warp &w, const Inst &i, u32 m) {
  if (w.block->watched) return storeAny(w, i, m);
  const u64 *at = w.reg<u64>(i.a);
  for (; m; m &= m - 1) {
    const int l = __builtin_ctz(m);
    u8 *to = place<space>(w, i, l, at[l] + (u64)i.imm, 4 * count, true);
    for (int k = 0; k < count; k++) memcpy(to + 4 * k, w.reg<u32>(i.vec[k]) + l, 4);
  }
}

// Words of 4 bytes into registers of 4 bytes, `count` of them. Registers of addresses have 64 bits, so that what is
// loaded never goes where the addresses are.
template <Space space, int count> void loadWords(Warp &w, const Inst &i, u32 m) {
  constexpr u64 size = 4 * count;
  const Reach &r = reach(w, i);
  const u64 offset = (u64)i.imm, low = r.low + offset;
  bool ok = false;
  const u8 *from = nullptr;
  if (m == everyone && !((r.bits | offset) & (size - 1)) && !w.block->watched)
    from = base<space>(w, i, low, r.high + offset + size, false, &ok);
  if (!ok) return loadLanes<space, count>(w, i, m);
  from = (const u8 *)((uintptr_t)from + (uintptr_t)offset);
  const u64 *at = w.reg<u64>(i.a);
  u32 *d[count];
  for (int k = 0; k < count; k++) d[k] = w.reg<u32>(i.vec[k]);
  if (r.groups) { // as many addresses as groups of 8 lanes, or one
    for (int l = 0; l < lanes; l += 8) {
      const u8 *p = from + at[l];
      for (int k = 0; k < count; k++) spread(p + 4 * k, d[k] + l);
    }
  } else if constexpr (count == 4) {
    gather4(from, at, d, r.period ? 8 : lanes, r.period);
  } else if (count == 1 && r.step == size) {
    memcpy(d[0], from + r.low, lanes * size);
  } else {
    const u8 *last = nullptr;
    for (int l = 0; l < lanes; l++) {
      if (space == Space::Global) last = ahead(from + at[l], last);
      for (int k = 0; k < count; k++) memcpy(d[k] + l, from + at[l] + 4 * k, 4);
    }
  }
}
template <Space space, int count> void storeWords(Warp &w, const Inst &i, u32 m) {
  constexpr u64 size = 4 * count;
  const Reach &r = reach(w, i);
  const u64 offset = (u64)i.imm, low = r.low + offset;
  bool ok = false;
  u8 *to = nullptr;
  if (m == everyone && !((r.bits | offset) & (size - 1)) && !w.block->watched)
    to = (u8 *)base<space>(w, i, low, r.high + offset + size, true, &ok);
  if (!ok) return storeLanes<space, count>(w, i, m);
  to = (u8 *)((uintptr_t)to + (uintptr_t)offset);
  const u64 *at = w.reg<u64>(i.a);
  const u32 *d[count];
  for (int k = 0; k < count; k++) d[k] = w.reg<u32>(i.vec[k]);
  if (count == 1 && r.step == size) {
    memcpy(to + r.low, d[0], lanes * size);
    return;
  }
  for (int l = 0; l < lanes; l++) {
    u32 v[count];
    for (int k = 0; k < count; k++) v[k] = d[k][l];
    memcpy(to + at[l], v, size);
  }
}

// A kernel's parameter at a place known when it is decoded (imm): the same for all lanes.
void loadParam(Warp &w, const Inst &i, u32 m) {
  const u32 width = i.mode & 0x7F;
  for (int k = 0; k < i.count; k++) {
    u64 v = 0;
    memcpy(&v, w.block->params + i.imm + k * i.bytes, i.bytes);
    if (i.mode & 0x80) v = (u64)((s64)(v << (64 - 8 * i.bytes)) >> (64 - 8 * i.bytes));
    if (width == 4) {
      u32 *d = w.reg<u32>(i.vec[k]);
      EMU_LANES d[l] = m >> l & 1 ? (u32)v : d[l];
    } else if (width == 8) {
      u64 *d = w.reg<u64>(i.vec[k]);
      EMU_LANES d[l] = m >> l & 1 ? v : d[l];
    } else {
      u16 *d = w.reg<u16>(i.vec[k]);
      EMU_LANES d[l] = m >> l & 1 ? (u16)v : d[l];
    }
  }
}

template <Space space> Handler words(int count, bool write) {
  if (count == 1) return write ? storeWords<space, 1> : loadWords<space, 1>;
  if (count == 2) return write ? storeWords<space, 2> : loadWords<space, 2>;
  return write ? storeWords<space, 4> : loadWords<space, 4>;
}
Handler words(Space s, int bytes, int width, int count, bool write) {
  if (bytes == 4 && width == 4) {
    if (s == Space::Shared) return words<Space::Shared>(count, write);
    // A generic address that is no global one finds no span and goes lane by lane.
    if (s == Space::Global || s == Space::Const || s == Space::Generic) return words<Space::Global>(count, write);
  }
  return write ? storeAny : loadAny;
}

void isGlobal(Warp &w, const Inst &i, u32 m) {
  const u64 *a = w.reg<u64>(i.a);
  u32 yes = 0;
  for (int l = 0; l < lanes; l++) {
    const u64 window = a[l] & windowMask;
    const Space s = window == sharedWindow ? Space::Shared : window == localWindow ? Space::Local : Space::Global;
    yes |= (u32)(s == (Space)i.mode) << l;
  }
  setPredicate(w, i.d, yes, m);
}
void nothing(Warp &, const Inst &, u32) {}

const Entry memory[] = {
    {"isspacep.global", isGlobal, "dp a8", Class::Compare, (u8)Space::Global},
    {"isspacep.shared", isGlobal, "dp a8", Class::Compare, (u8)Space::Shared},
    {"isspacep.local", isGlobal, "dp a8", Class::Compare, (u8)Space::Local},
    {"prefetch.?global|local.L1|L2", nothing, "A", Class::Move},
    {"prefetchu.L1", nothing, "A", Class::Move},
};

} // namespace

EMU_TABLE(memory)
Handler loadHandler(Space s, int bytes, int width, int count) { return words(s, bytes, width, count, false); }
Handler storeHandler(Space s, int bytes, int width, int count) { return words(s, bytes, width, count, true); }
Handler loadParamHandler() { return loadParam; }

} // namespace EMU_BUILD
} // namespace emu
