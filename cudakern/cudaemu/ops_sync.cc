// Synchronisation: bar, barrier, membar, fence, cp.async and its waits, trap and nanosleep. What makes lanes wait is
// the dispatcher's (interp.cc); here stands which instruction does so.
#include "lanes.h"

namespace emu {
namespace EMU_BUILD {
namespace {

void nothing(Warp &, const Inst &, u32) {} // blocks see each other's memory at once, and in order

// cp.async reads its source now and writes its destination when it is waited for, the latest a GPU may do so: who
// forgets to wait reads what was there before.
void copyAsync(Warp &w, const Inst &i, u32 m) {
  const u64 *to = w.reg<u64>(i.a), *from = w.reg<u64>(i.b);
  const u32 *valid = w.reg<u32>(i.c);
  for (int l = 0; l < lanes; l++) {
    if (!(m >> l & 1)) continue;
    const u64 at = to[l] + (u64)i.imm, source = from[l] + (u64)i.imm2;
    const u32 size = i.bytes, read = i.mode & 1 ? (valid[l] < size ? valid[l] : size) : size;
    const u8 *target = resolve(w, i, l, at, size, Space::Shared, true);
    PendingCopy c{};
    c.lane = (u32)l;
    c.group = w.committed[l];
    c.shared = (u32)(target - w.block->shared);
    c.size = size;
    c.line = i.line;
    if (source & (size - 1)) faultText(w, i, l, MisalignedAddress, "source of cp.async is not aligned to its size");
    if (w.block->watched) checkAsyncIssue(w, i, l, source, c.shared, read);
    if (read) memcpy(c.data, resolve(w, i, l, source, read, Space::Global, false), read);
    w.copies.push_back(c);
  }
}
void commit(Warp &w, const Inst &, u32 m) {
  for (int l = 0; l < lanes; l++) w.committed[l] += m >> l & 1;
}
// wait finishes the copies of lanes in m that belong to a group before the last imm commits; mode 1: all copies.
void wait(Warp &w, const Inst &i, u32 m) {
  size_t kept = 0;
  for (size_t k = 0; k < w.copies.size(); k++) {
    const PendingCopy &c = w.copies[k];
    const bool done = m >> c.lane & 1 && (i.mode & 1 || (s64)c.group < (s64)w.committed[c.lane] - i.imm);
    if (done) {
      if (w.block->watched) checkAsyncDone(w, c);
      memcpy(w.block->shared + c.shared, c.data, c.size);
    } else {
      if (kept != k) w.copies[kept] = c;
      kept++;
    }
  }
  w.copies.resize(kept);
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
