// Loads and stores: ld st, ld.param. The decoder asks loadHandler and storeHandler for what a statement needs; what
// moves 4-byte words between global or shared memory and a whole warp has paths of its own, all else goes lane by lane.
#include "lanes.h"

namespace emu {
namespace EMU_BUILD {
namespace {

struct Reach {
  u64 low, high, bits; // lowest and highest address, all of them or-ed
};

// reach computes the addresses of an access and what they have in common. Addresses of idle lanes are garbage: at[] is
// for everyone, the rest only if all lanes take part.
Reach reach(Warp &w, const Inst &i, u64 *at) {
  const u64 *a = w.reg<u64>(i.a);
  const u64 offset = (u64)i.imm;
#ifdef __AVX2__
  const __m256i add = _mm256_set1_epi64x((long long)offset);
  __m256i low = _mm256_add_epi64(_mm256_load_si256((const __m256i *)a), add), high = low, bits = low;
  _mm256_store_si256((__m256i *)at, low);
  for (int l = 4; l < lanes; l += 4) { // addresses above 2^63 are in no space: signed comparison will do
    const __m256i x = _mm256_add_epi64(_mm256_load_si256((const __m256i *)(a + l)), add);
    _mm256_store_si256((__m256i *)(at + l), x);
    low = _mm256_blendv_epi8(low, x, _mm256_cmpgt_epi64(low, x));
    high = _mm256_blendv_epi8(high, x, _mm256_cmpgt_epi64(x, high));
    bits = _mm256_or_si256(bits, x);
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
  return {(u64)least, (u64)most, ors[0] | ors[1] | ors[2] | ors[3]};
#else
  Reach r{~(u64)0 >> 1, 0, 0};
  for (int l = 0; l < lanes; l++) {
    const u64 x = at[l] = a[l] + offset;
    r.low = (s64)x < (s64)r.low ? x : r.low;
    r.high = (s64)x > (s64)r.high ? x : r.high;
    r.bits |= x;
  }
  return r;
#endif
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

bool consecutive(const u64 *at, u64 size) {
  u64 apart = 0;
  for (int l = 0; l < lanes; l++) apart |= at[l] ^ (at[0] + size * (u64)l);
  return !apart;
}

// Four words of each of 32 lanes, from or to registers that hold one word of all lanes.
void gather4(const u8 *from, const u64 *at, u32 *d0, u32 *d1, u32 *d2, u32 *d3) {
#ifdef __AVX2__
  for (int l = 0; l < lanes; l += 8) {
    const auto two = [&](int k) {
      return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps((const float *)(from + at[l + k]))),
          _mm_loadu_ps((const float *)(from + at[l + k + 4])), 1);
    };
    const __m256 a = two(0), b = two(1), c = two(2), d = two(3);
    const __m256 ab = _mm256_unpacklo_ps(a, b), AB = _mm256_unpackhi_ps(a, b);
    const __m256 cd = _mm256_unpacklo_ps(c, d), CD = _mm256_unpackhi_ps(c, d);
    _mm256_store_ps((float *)(d0 + l), _mm256_shuffle_ps(ab, cd, 0x44));
    _mm256_store_ps((float *)(d1 + l), _mm256_shuffle_ps(ab, cd, 0xEE));
    _mm256_store_ps((float *)(d2 + l), _mm256_shuffle_ps(AB, CD, 0x44));
    _mm256_store_ps((float *)(d3 + l), _mm256_shuffle_ps(AB, CD, 0xEE));
  }
#else
  for (int l = 0; l < lanes; l++) {
    u32 v[4];
    memcpy(v, from + at[l], 16);
    d0[l] = v[0], d1[l] = v[1], d2[l] = v[2], d3[l] = v[3];
  }
#endif
}
void scatter4(u8 *to, const u64 *at, const u32 *d0, const u32 *d1, const u32 *d2, const u32 *d3) {
  for (int l = 0; l < lanes; l++) {
    const u32 v[4] = {d0[l], d1[l], d2[l], d3[l]};
    memcpy(to + at[l], v, 16);
  }
}

// Any load, lane by lane.
void loadLanes(Warp &w, const Inst &i, u32 m, const u64 *at) {
  const u32 size = (u32)i.bytes * i.count, width = i.mode & 0x7F;
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
void storeLanes(Warp &w, const Inst &i, u32 m, const u64 *at) {
  const u32 size = (u32)i.bytes * i.count, width = i.mode & 0x7F;
  for (int l = 0; l < lanes; l++) {
    if (!(m >> l & 1)) continue;
    u8 *p = resolve(w, i, l, at[l], size, i.space, true);
    for (int k = 0; k < i.count; k++, p += i.bytes) memcpy(p, w.registers + i.vec[k] + (u32)l * width, i.bytes);
  }
}
void loadAny(Warp &w, const Inst &i, u32 m) {
  alignas(64) u64 at[lanes];
  reach(w, i, at);
  if (w.block->full) checkAccess(w, i, m, at, i.space, false, false);
  loadLanes(w, i, m, at);
}
void storeAny(Warp &w, const Inst &i, u32 m) {
  alignas(64) u64 at[lanes];
  reach(w, i, at);
  if (w.block->full) checkAccess(w, i, m, at, i.space, true, false);
  storeLanes(w, i, m, at);
}

// Words of 4 bytes into registers of 4 bytes, `count` of them.
template <Space space, int count> void loadWords(Warp &w, const Inst &i, u32 m) {
  constexpr u64 size = 4 * count;
  alignas(64) u64 at[lanes];
  const Reach r = reach(w, i, at);
  if (w.block->full) checkAccess(w, i, m, at, i.space, false, false);
  bool ok = false;
  const u8 *from = nullptr;
  if (m == everyone && !(r.bits & (size - 1))) from = base<space>(w, i, r.low, r.high + size, false, &ok);
  if (!ok) return loadLanes(w, i, m, at);
  if (r.low == r.high) {
    u32 v[count];
    memcpy(v, from + r.low, size);
    for (int k = 0; k < count; k++) {
      u32 *d = w.reg<u32>(i.vec[k]);
      EMU_LANES d[l] = v[k];
    }
  } else if constexpr (count == 4) {
    gather4(from, at, w.reg<u32>(i.vec[0]), w.reg<u32>(i.vec[1]), w.reg<u32>(i.vec[2]), w.reg<u32>(i.vec[3]));
  } else if (count == 1 && r.high - r.low == (lanes - 1) * size && consecutive(at, size)) {
    memcpy(w.reg<u32>(i.vec[0]), from + r.low, lanes * size);
  } else {
    u32 *d[count];
    for (int k = 0; k < count; k++) d[k] = w.reg<u32>(i.vec[k]);
    for (int l = 0; l < lanes; l++)
      for (int k = 0; k < count; k++) memcpy(d[k] + l, from + at[l] + 4 * k, 4);
  }
}
template <Space space, int count> void storeWords(Warp &w, const Inst &i, u32 m) {
  constexpr u64 size = 4 * count;
  alignas(64) u64 at[lanes];
  const Reach r = reach(w, i, at);
  if (w.block->full) checkAccess(w, i, m, at, i.space, true, false);
  bool ok = false;
  u8 *to = nullptr;
  if (m == everyone && !(r.bits & (size - 1))) to = (u8 *)base<space>(w, i, r.low, r.high + size, true, &ok);
  if (!ok) return storeLanes(w, i, m, at);
  if constexpr (count == 4) {
    scatter4(to, at, w.reg<u32>(i.vec[0]), w.reg<u32>(i.vec[1]), w.reg<u32>(i.vec[2]), w.reg<u32>(i.vec[3]));
  } else if (count == 1 && r.high - r.low == (lanes - 1) * size && consecutive(at, size)) {
    memcpy(to + r.low, w.reg<u32>(i.vec[0]), lanes * size);
  } else {
    const u32 *d[count];
    for (int k = 0; k < count; k++) d[k] = w.reg<u32>(i.vec[k]);
    for (int l = 0; l < lanes; l++)
      for (int k = 0; k < count; k++) memcpy(to + at[l] + 4 * k, d[k] + l, 4);
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
