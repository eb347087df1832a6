// Loads and stores: ld st, ld.param. The decoder asks loadHandler and storeHandler for what a statement needs; what
// moves 4-byte words between global or shared memory and a whole warp has paths of its own, all else goes lane by lane.
#include "reach.h"

namespace emu {
namespace EMU_BUILD {
namespace {

// addressesOf computes the address of each lane; those of idle lanes are garbage.
void addressesOf(Warp &w, const Inst &i, u64 *at) {
  const u64 *a = w.reg<u64>(i.a);
  for (int l = 0; l < lanes; l++) at[l] = a[l] + (u64)i.imm;
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
  } else if (count == 1 && r.rows) {
    const u8 *last = nullptr;
    for (int l = 0; l < lanes; l += 8) {
      if (space == Space::Global) last = ahead(from + at[l], last);
      memcpy(d[0] + l, from + at[l], 32);
    }
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
  if (count == 1 && r.rows) {
    for (int l = 0; l < lanes; l += 8) memcpy(to + at[l], d[0] + l, 32);
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
