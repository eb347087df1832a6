// Synchronisation: bar, barrier, membar, fence, cp.async and its waits, trap and nanosleep. What makes lanes wait is
// the dispatcher's (interp.cc); here stands which instruction does so.
#include "lanes.h"

namespace emu {
namespace EMU_BUILD {
namespace {

void nothing(Warp &, const Inst &, u32) {} // blocks see each other's memory at once, and in order

// cp.async reads its source now and writes its destination when it is waited for, the latest a GPU may do so: who
// forgets to wait reads what was there before.

// copyLane does it for a lane.
void copyLane(Warp &w, const Inst &i, int l, PendingCopy &c) {
  const u64 at = w.reg<u64>(i.a)[l] + (u64)i.imm, source = w.reg<u64>(i.b)[l] + (u64)i.imm2;
  const u32 size = i.bytes, valid = i.mode & 1 ? w.reg<u32>(i.c)[l] : size, read = valid < size ? valid : size;
  c.shared[l] = (u32)(resolve(w, i, l, at, size, Space::Shared, true) - w.block->shared);
  if (source & (size - 1)) faultText(w, i, l, MisalignedAddress, "source of cp.async is not aligned to its size");
  if (w.block->watched) checkAsyncIssue(w, i, l, source, c.shared[l], read);
  u8 *const to = c.data + (u32)l * size;
  memset(to, 0, size);
  if (read) memcpy(to, resolve(w, i, l, source, read, Space::Global, false), read);
}

void count(Warp &w, const Inst &i, const PendingCopy &c) {
  u64 from[lanes];
  u32 read[lanes];
  for (int l = 0; l < lanes; l++) {
    const u32 valid = i.mode & 1 ? w.reg<u32>(i.c)[l] : i.bytes;
    from[l] = w.reg<u64>(i.b)[l] + (u64)i.imm2;
    read[l] = valid < i.bytes ? valid : i.bytes;
  }
  countAsync(w, i, c, from, read);
}

// copyWarp does it for all lanes, if each copies all or nothing, and those that copy read one allocation that was read
// here before. False: they have to be looked at one by one.
template <u32 size> bool copyWarp(Warp &w, const Inst &i, PendingCopy &c) {
  static const u8 zeros[16] = {};
  const u64 *to = w.reg<u64>(i.a), *from = w.reg<u64>(i.b);
  const Span &span = spanOf(w, i);
  u32 reads = everyone;
  if (i.mode & 1) {
    const u32 *valid = w.reg<u32>(i.c);
    alignas(64) s32 whole[lanes], none[lanes];
    EMU_LANES whole[l] = valid[l] >= size ? -1 : 0, none[l] = valid[l] ? 0 : -1;
    reads = pack(whole);
    if ((reads | pack(none)) != everyone) return false;
  }
  const u64 shared = w.block->sharedBytes, global = span.high - span.low;
  if (shared < size || global < size) return false;
  alignas(64) s64 beyond[lanes]; // of what lanes read, below zero if it is not in the allocation
  u64 bad = 0;
  for (int l = 0; l < lanes; l++) { // a difference below zero has bit 63
    const u64 a = to[l] + (u64)i.imm, b = from[l] + (u64)i.imm2, offset = b - span.low;
    bad |= ((a | b) & (size - 1)) | (a | (shared - size - a)) >> 63;
    beyond[l] = (s64)(offset | (global - size - offset));
    c.shared[l] = (u32)a;
  }
  if (bad) return false;
  if (reads == everyone) {
    s64 any = 0;
    for (int l = 0; l < lanes; l++) any |= beyond[l];
    if (any < 0) return false;
  } else {
    for (int l = 0; l < lanes; l++)
      if (reads >> l & 1 && beyond[l] < 0) return false;
  }
  const uintptr_t base = (uintptr_t)span.bytes + (uintptr_t)i.imm2 - (uintptr_t)span.low;
  const u8 *last = zeros;
  for (int l = 0; l < lanes; l += 8) {
    u8 *const data = c.data + (u32)l * size;
    const u32 eight = reads >> l & 0xFF;
    u64 apart = 0; // 0: neighbours
    for (int k = 1; k < 8; k++) apart |= from[l + k] ^ (from[l] + (u64)k * size);
    if (eight == 0xFF && !apart) {
      last = ahead((const u8 *)(base + (uintptr_t)from[l]), last);
      memcpy(data, last, 8 * size);
    } else if (!eight) {
      memset(data, 0, 8 * size);
    } else {
      for (int k = 0; k < 8; k++) {
        if (eight >> k & 1) last = ahead((const u8 *)(base + (uintptr_t)from[l + k]), last);
        memcpy(data + (u32)k * size, eight >> k & 1 ? last : zeros, size);
      }
    }
  }
  return true;
}

void copyAsync(Warp &w, const Inst &i, u32 m) {
  while (m) { // once for each number of commits that lanes have made: as a rule, all the same
    const u32 group = w.committed[__builtin_ctz(m)];
    alignas(64) s32 equal[lanes];
    EMU_LANES equal[l] = w.committed[l] == group ? -1 : 0;
    const u32 same = pack(equal);
    PendingCopy &c = w.copies.add();
    c.mask = same & m;
    c.group = group;
    c.size = i.bytes;
    c.line = i.line;
    const bool whole = c.mask == everyone && !w.block->watched &&
                       (i.bytes == 4   ? copyWarp<4>(w, i, c)
                        : i.bytes == 8 ? copyWarp<8>(w, i, c)
                                       : copyWarp<16>(w, i, c));
    if (!whole) {
      for (int l = 0; l < lanes; l++)
        if (c.mask >> l & 1) copyLane(w, i, l, c);
      if (w.block->watched) count(w, i, c);
    }
    m &= ~same;
  }
}
void commit(Warp &w, const Inst &, u32 m) {
  for (int l = 0; l < lanes; l++) w.committed[l] += m >> l & 1;
}
// wait finishes the copies of lanes in m that belong to a group before the last imm commits; mode 1: all copies.
void wait(Warp &w, const Inst &i, u32 m) {
  u32 least = w.committed[0], most = least;
  for (int l = 1; l < lanes; l++) {
    least = w.committed[l] < least ? w.committed[l] : least;
    most = w.committed[l] > most ? w.committed[l] : most;
  }
  w.copies.sweep([&](const PendingCopy &c) {
    u32 done = everyone;
    if (!(i.mode & 1) && (s64)c.group >= (s64)most - i.imm) {
      done = 0;
    } else if (!(i.mode & 1) && (s64)c.group >= (s64)least - i.imm) { // it depends on the lane
      done = 0;
      for (int l = 0; l < lanes; l++) done |= (u32)((s64)c.group < (s64)w.committed[l] - i.imm) << l;
    }
    done &= m & c.mask;
    if (!done) return done;
    if (w.block->watched) checkAsyncDone(w, c, done);
    c.finish(w.block->shared, done);
    return done;
  });
}

void clock32(Warp &w, const Inst &i, u32 m) {
  const u32 now = (u32)clockOf(w);
  u32 *d = w.reg<u32>(i.d);
  EMU_LANES d[l] = m >> l & 1 ? now : d[l];
}
void clock64(Warp &w, const Inst &i, u32 m) {
  const u64 now = clockOf(w);
  u64 *d = w.reg<u64>(i.d);
  EMU_LANES d[l] = m >> l & 1 ? now : d[l];
}

const Entry sync[] = {
    {"bar|barrier.?cta.sync.?aligned", nullptr, "a4 (b4)", Class::Sync, 0, Flow::Barrier},
    {"bar|barrier.?cta.arrive.?aligned", nullptr, "a4 b4", Class::Sync, 0, Flow::Arrive},
    {"bar|barrier.?cta.red.popc.?aligned.u32", nullptr, "d4 a4 cp", Class::Sync, 1, Flow::Barrier},
    {"bar|barrier.?cta.red.and.?aligned.pred", nullptr, "dp a4 cp", Class::Sync, 2, Flow::Barrier},
    {"bar|barrier.?cta.red.or.?aligned.pred", nullptr, "dp a4 cp", Class::Sync, 3, Flow::Barrier},
    {"bar|barrier.?cta.red.popc.?aligned.u32", nullptr, "d4 a4 b4 cp", Class::Sync, 1, Flow::Barrier},
    {"bar|barrier.?cta.red.and.?aligned.pred", nullptr, "dp a4 b4 cp", Class::Sync, 2, Flow::Barrier},
    {"bar|barrier.?cta.red.or.?aligned.pred", nullptr, "dp a4 b4 cp", Class::Sync, 3, Flow::Barrier},
    {"bar.warp.sync", nullptr, "f4", Class::Sync, 0, Flow::SyncWarp},
    {"membar.cta|gl|sys", nothing, "", Class::Sync},
    {"fence.?sc|acq_rel.cta|cluster|gpu|sys", nothing, "", Class::Sync},
    {"cp.async.ca|cg.shared|shared::cta.global.?L2::64B|L2::128B|L2::256B", copyAsync, "A B n", Class::AsyncCopy},
    {"cp.async.ca|cg.shared|shared::cta.global.?L2::64B|L2::128B|L2::256B", copyAsync, "A B n c4", Class::AsyncCopy, 1},
    {"cp.async.commit_group", commit, "", Class::Sync},
    {"cp.async.wait_group", wait, "i", Class::Sync},
    {"cp.async.wait_all", wait, "", Class::Sync, 1},
    {"clock.u32", clock32, "d4", Class::Move}, // mov.u32 d, %clock; no opcode of PTX
    {"clock.u64", clock64, "d8", Class::Move}, // %clock64, %globaltimer
    {"nanosleep.u32", nothing, "a4", Class::Control},
    {"trap", nullptr, "", Class::Control, 0, Flow::Trap},
    {"brkpt", nullptr, "", Class::Control, 0, Flow::Trap},
    {"ret|exit.?uni", nullptr, "", Class::Control, 0, Flow::Exit},
};

} // namespace

EMU_TABLE(sync)

} // namespace EMU_BUILD
} // namespace emu
