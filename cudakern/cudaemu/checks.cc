// Check::Full: reads of what nobody wrote, and races.
//
// Two accesses race if one of them writes, they overlap, and nothing orders them:
//  - in shared memory: threads of a block are ordered by barriers of the block, lanes of a warp by bar.warp.sync too;
//  - in global memory, one launch: threads of a block by barriers; lanes of a warp count as ordered; blocks never are
//    (atomics do not race with atomics; a kernel whose last block reads what others wrote is reported);
//  - in global memory, two operations (launches, copies): by streams and events, which the driver's Order knows.
// Two writes of the same content are no race.
#include "checks.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "interp.h"
#include "worker.h"

namespace emu {

namespace {

constexpr uint32_t threadBits = 10, threadMask = (1u << threadBits) - 1;
constexpr uint8_t manyWarps = 1, manyBlocks = 2, lastAtomic = 4;

uint32_t where(const Toucher &t) { return t.phase << threadBits | (t.thread & threadMask); }

// before: the recorded operation is done when t's begins. Operation 0 is nobody: it always is.
bool before(uint32_t op, const Toucher &t) { return !op || !t.order || op == t.op || t.order->before(op, t.op); }

// ordered within one launch
bool ordered(uint32_t block, uint32_t place, const Toucher &t) {
  if (block != t.block) return false;
  const uint32_t thread = place & threadMask, phase = place >> threadBits;
  return phase != (t.phase & (~0u >> threadBits)) || thread / lanes == t.thread / lanes;
}

} // namespace

Clash touchWord(ShadowWord &s, uint8_t bytes, const Toucher &t, bool write, bool atomic, bool same) {
  Clash c;
  const auto other = [&](Clash::Kind kind, uint32_t op, uint32_t block, uint32_t place) {
    c = {kind, op, block, place & threadMask};
  };
  const bool launch = t.op && t.block != ~0u;
  if (s.writeOp && s.writeBytes & bytes && !(write && same) && !(atomic && s.readMany & lastAtomic)) {
    const bool fine = s.writeOp != t.op ? before(s.writeOp, t) : !launch || ordered(s.writeBlock, s.writeWhere, t);
    if (!fine) other(write ? Clash::WriteOverWrite : Clash::ReadOfWrite, s.writeOp, s.writeBlock, s.writeWhere);
  }
  if (!c.kind && write && !atomic && s.readOp && s.readBytes & bytes) {
    const bool mine = s.readOp == t.op;
    const bool samePhase = s.readWhere >> threadBits == (t.phase & (~0u >> threadBits));
    const bool fine = !mine ? before(s.readOp, t)
                            : !launch || (!(s.readMany & manyBlocks) && ordered(s.readBlock, s.readWhere, t) &&
                                             !(s.readMany & manyWarps && samePhase));
    if (!fine && !(same)) other(Clash::WriteOverRead, s.readOp, s.readBlock, s.readWhere);
    if (!c.kind && s.otherReadOp && s.otherReadOp != t.op && !before(s.otherReadOp, t) && !same)
      other(Clash::WriteOverRead, s.otherReadOp, ~0u, 0);
  }
  if (!write && !c.kind && !s.has(bytes, t.born)) c.kind = Clash::Unwritten;
  if (c.kind) return c;

  if (write || atomic) {
    s.writeOp = t.op;
    s.writeBlock = t.block;
    s.writeWhere = where(t);
    s.writeBytes = bytes;
    s.give(bytes, t.born);
    s.readOp = s.otherReadOp = 0;
    s.readBytes = 0;
    s.readMany = atomic ? lastAtomic : 0;
    return c;
  }
  if (s.readOp == t.op) {
    if (s.readBlock != t.block) s.readMany |= manyBlocks;
    else if (s.readWhere >> threadBits != (where(t) >> threadBits)) s.readMany &= (uint8_t)~manyWarps;
    else if ((s.readWhere & threadMask) / lanes != t.thread / lanes) s.readMany |= manyWarps;
  } else {
    if (s.readOp && !before(s.readOp, t)) s.otherReadOp = s.readOp;
    s.readMany &= lastAtomic;
    s.readBytes = 0;
  }
  s.readOp = t.op;
  s.readBlock = t.block;
  s.readWhere = where(t);
  s.readBytes |= bytes;
  return c;
}

std::string clashText(const Clash &c, const Toucher &t, uint64_t address) {
  char hex[32];
  snprintf(hex, sizeof hex, "0x%llx", (unsigned long long)address);
  const std::string at = std::string(" at ") + hex;
  if (c.kind == Clash::Unwritten) return "reads memory" + at + " that nothing has written";
  const char *const what = c.kind == Clash::ReadOfWrite     ? "reads what was written"
                           : c.kind == Clash::WriteOverRead ? "writes what was read"
                                                            : "writes what was written";
  if (c.op == t.op) {
    const std::string who = c.block == t.block ? "thread " + std::to_string(c.thread) + " of the same block"
                                               : "block " + std::to_string(c.block) + " (in linear order)";
    return "race in global memory" + at + ": " + what + " by " + who + ", with no barrier between";
  }
  const std::string who = t.order ? t.order->name(c.op) : "operation " + std::to_string(c.op);
  return "race between streams" + at + ": " + what + " by " + who + ", which no event orders before this";
}

namespace {

const char *sharedClash(const SharedWord &s, uint8_t bytes, uint32_t thread, uint32_t phase, uint32_t sync, bool write,
    bool atomic, bool same, uint32_t *other, uint32_t *line) {
  const auto apart = [&](uint32_t theirs, uint32_t theirSync) { // not ordered within the phase
    return theirs != thread && !(theirs / lanes == thread / lanes && theirSync < sync);
  };
  *other = s.writeThread;
  *line = s.writeLine;
  if (s.async & bytes && !(write && atomic)) {
    *other = s.asyncThread;
    return write ? "writes where a cp.async will write that was not waited for"
                 : "reads what a cp.async will write that was not waited for";
  }
  if (s.writePhase == phase && s.writeBytes & bytes && apart(s.writeThread, s.writeSync) && !(write && same) &&
      !(atomic && s.atomic))
    return write ? "writes what was written" : "reads what was written";
  if (write && !same && s.readPhase == phase && s.readBytes & bytes) {
    *other = s.readThread;
    *line = s.readLine;
    const bool sameWarp = s.readThread / lanes == thread / lanes;
    if (s.readByWarps || (s.readByWarp ? !(sameWarp && s.readSync < sync) : apart(s.readThread, s.readSync)))
      return "writes what was read";
  }
  if (!write && (s.written & bytes) != bytes) {
    *line = 0;
    return "reads shared memory that nothing has written";
  }
  return nullptr;
}

void recordShared(SharedWord &s, uint8_t bytes, uint32_t thread, uint32_t phase, uint32_t sync, bool write, bool atomic,
    uint32_t line) {
  if (write) {
    if (s.writePhase == phase && s.writeThread == thread && s.writeSync == sync) s.writeBytes |= bytes;
    else s.writeBytes = bytes;
    s.writePhase = phase;
    s.writeThread = (uint16_t)thread;
    s.writeSync = sync;
    s.writeLine = line;
    s.written |= bytes;
    s.atomic = atomic;
    s.readPhase = 0;
    s.readBytes = 0;
    s.readByWarp = s.readByWarps = false;
    return;
  }
  if (s.readPhase != phase) {
    s.readPhase = phase;
    s.readBytes = 0;
    s.readByWarp = s.readByWarps = false;
  } else if (s.readThread / lanes != thread / lanes) {
    s.readByWarps = true;
  } else if (s.readThread != thread) {
    s.readByWarp = true;
  }
  s.readThread = (uint16_t)thread;
  s.readSync = sync;
  s.readLine = line;
  s.readBytes |= bytes;
}

// pieces calls f(word, bytes) for the words that [at, at+n) covers.
template <class F> void pieces(uint64_t at, uint32_t n, F f) {
  for (uint64_t p = at; p < at + n;) {
    const uint64_t word = p & ~3ull, end = std::min(word + 4, at + n);
    f(word, (uint8_t)(((1u << (end - p)) - 1) << (p - word)), (uint32_t)(p - at), (uint32_t)(end - p));
    p = end;
  }
}

[[noreturn]] void sharedFault(Warp &w, const Inst &i, int lane, uint64_t at, const char *what, uint32_t other,
                              uint32_t line) {
  char text[256];
  if (!line)
    snprintf(text, sizeof text, "%s (shared address 0x%llx)", what, (unsigned long long)at);
  else
    snprintf(text, sizeof text, "race in shared memory at 0x%llx: %s by thread %u of the block at PTX line %u, with no "
             "barrier between", (unsigned long long)at, what, other, line);
  fault(w, i, lane, LaunchFailed, text);
}

} // namespace

namespace {

// Some numbers, each once: a warp's access touches 64 at most.
struct Distinct {
  uint64_t seen[lanes * 2];
  uint32_t count = 0;
  void add(uint64_t x) {
    if (count < lanes * 2 && std::find(seen, seen + count, x) == seen + count) seen[count++] = x;
  }
};

// sectorsOf is how many sectors of 32 bytes hold the n bytes at each lane's address.
uint32_t sectorsOf(uint32_t mask, const uint64_t *addresses, uint32_t n) {
  Distinct sectors;
  for (int l = 0; l < lanes; l++)
    if (mask >> l & 1)
      for (uint64_t s = addresses[l] / 32; s <= (addresses[l] + n - 1) / 32; s++) sectors.add(s);
  return sectors.count;
}

// countShared adds how often the 32 banks of shared memory must be gone through for an access, and how often if no two
// words were in one bank. Banks serve 128 bytes a pass: wider accesses go in parts of the warp (halves for 8 bytes a
// lane, quarters for 16), and different words of one bank in turns.
template <class At> void countShared(Tally &t, uint32_t mask, const At *addresses, uint32_t n) {
  const int part = n <= 4 ? lanes : n <= 8 ? lanes / 2 : lanes / 4;
  for (int from = 0; from < lanes; from += part) {
    Distinct words;
    uint32_t turns[32] = {}, most = 0;
    for (int l = from; l < from + part; l++)
      if (mask >> l & 1)
        for (uint64_t word = addresses[l] / 4; word <= ((uint64_t)addresses[l] + n - 1) / 4; word++) words.add(word);
    for (uint32_t k = 0; k < words.count; k++) most = std::max(most, ++turns[words.seen[k] % 32]);
    t.sharedPasses += most;
    t.sharedPassesIdeal += (words.count + 31) / 32;
  }
}

// countAccess adds a load or store to the counts in detail.
void countAccess(Warp &w, const Inst &i, uint32_t mask, const uint64_t *addresses, Space space, bool write) {
  Tally &t = w.block->worker->detail;
  const uint32_t n = (uint32_t)i.bytes * i.count;
  if (space == Space::Generic) {
    const uint64_t window = addresses[__builtin_ctz(mask)] & windowMask;
    space = window == sharedWindow ? Space::Shared : window == localWindow ? Space::Local : Space::Global;
  }
  if (space == Space::Global) (write ? t.sectorsStored : t.sectorsLoaded) += sectorsOf(mask, addresses, n);
  else if (space == Space::Shared) countShared(t, mask, addresses, n);
}

} // namespace

void countAsync(Warp &w, const Inst &i, const PendingCopy &c, const uint64_t *from, const uint32_t *read) {
  const Launch &of = *w.block->worker->launch;
  if (!of.counts || !of.counts->detail) return;
  uint32_t reads = 0, most = 1; // who reads nothing writes zeros
  for (int l = 0; l < lanes; l++)
    if (c.mask >> l & 1 && read[l]) reads |= 1u << l, most = std::max(most, read[l]);
  Tally &t = w.block->worker->detail;
  t.sectorsLoaded += sectorsOf(reads, from, most);
  countShared(t, c.mask, c.shared, i.bytes);
}

void checkAccess(Warp &w, const Inst &i, uint32_t mask, const uint64_t *addresses, Space space, bool write,
                 bool atomic) {
  const Launch &of = *w.block->worker->launch;
  if (of.counts && of.counts->detail) countAccess(w, i, mask, addresses, space, write);
  if (!w.block->checked) return;
  const uint32_t n = (uint32_t)i.bytes * i.count, width = i.mode & 0x7F;
  std::unique_lock<std::mutex> hold; // of the allocation that the lanes before have touched
  for (int l = 0; l < lanes; l++) {
    if (!(mask >> l & 1)) continue;
    // Finding another allocation takes the lock of all of them, under which nobody may hold one of these.
    if (hold && addresses[l] - spanOf(w, i).low >= spanOf(w, i).high - spanOf(w, i).low) hold = {};
    uint8_t *const place = resolve(w, i, l, addresses[l], n, space, write);
    Space s = space;
    uint64_t at = addresses[l];
    if (s == Space::Generic) {
      const uint64_t window = at & windowMask;
      s = window == sharedWindow ? Space::Shared : window == localWindow ? Space::Local : Space::Global;
      if (s != Space::Global) at &= ~windowMask;
    }
    if (s == Space::Param) continue;
    const uint32_t thread = w.index * lanes + (uint32_t)l;
    uint8_t value[16] = {};
    if (write && !atomic)
      for (uint32_t k = 0; k < i.count; k++)
        memcpy(value + k * i.bytes, w.registers + i.vec[k] + (uint32_t)l * width, i.bytes);
    if (s == Space::Local) {
      uint8_t *written = w.localWritten + (place - w.local);
      for (uint32_t b = 0; b < n; b++) {
        if (write) written[b] = 1;
        else if (!written[b]) fault(w, i, l, LaunchFailed, "reads local memory that the thread has not written");
      }
      continue;
    }
    if (s == Space::Shared) {
      pieces(at, n, [&](uint64_t word, uint8_t bytes, uint32_t offset, uint32_t length) {
        SharedWord &x = (*w.block->shadow)[word / 4];
        uint32_t other = 0, line = 0;
        const bool same =
            write && !atomic && !memcmp(place + offset, value + offset, length) && (x.written & bytes) == bytes;
        // An atomic reads too: what it adds to must be there.
        if (atomic && (x.written & bytes) != bytes)
          sharedFault(w, i, l, at, "reads shared memory that nothing has written", 0, 0);
        const char *what = sharedClash(x, bytes, thread, w.block->phase, w.syncs, write, atomic, same, &other, &line);
        if (what) sharedFault(w, i, l, at, what, other, line);
        recordShared(x, bytes, thread, w.block->phase, w.syncs, write, atomic, i.line);
      });
      if (write && !atomic) memcpy(place, value, n); // so that the next lane sees whether it writes the same
      continue;
    }
    const Span &span = spanOf(w, i);
    if (!span.shadow) continue;
    const Launch &launch = *w.block->worker->launch;
    const Toucher t{launch.access.op ? launch.access.op : ~0u, w.block->linear, thread, w.block->phase,
        launch.access.order, span.born};
    if (!hold) hold = std::unique_lock<std::mutex>(*span.shadowLock);
    pieces(at, n, [&](uint64_t word, uint8_t bytes, uint32_t offset, uint32_t length) {
      ShadowWord &x = span.shadow[(word - span.low) / 4];
      Clash c;
      if (atomic && !x.has(bytes, span.born)) c.kind = Clash::Unwritten;
      else {
        const bool same =
            write && !atomic && !memcmp(place + offset, value + offset, length) && x.has(bytes, span.born);
        c = touchWord(x, bytes, t, write, atomic, same);
      }
      if (c.kind) fault(w, i, l, LaunchFailed, clashText(c, t, at));
    });
    if (write && !atomic) memcpy(place, value, n);
  }
}

void checkAsyncIssue(Warp &w, const Inst &i, int lane, uint64_t from, uint32_t shared, uint32_t n) {
  if (!w.block->checked) return;
  const uint32_t thread = w.index * lanes + (uint32_t)lane;
  if (n) {
    uint8_t *const place = resolve(w, i, lane, from, n, Space::Global, false);
    (void)place;
    const Span &span = spanOf(w, i);
    const Launch &launch = *w.block->worker->launch;
    const Toucher t{launch.access.op ? launch.access.op : ~0u, w.block->linear, thread, w.block->phase,
        launch.access.order, span.born};
    if (span.shadow) {
      std::lock_guard<std::mutex> hold(*span.shadowLock);
      pieces(from, n, [&](uint64_t word, uint8_t bytes, uint32_t, uint32_t) {
        const Clash c = touchWord(span.shadow[(word - span.low) / 4], bytes, t, false, false, false);
        if (c.kind) fault(w, i, lane, LaunchFailed, clashText(c, t, from));
      });
    }
  }
  pieces(shared, i.bytes, [&](uint64_t word, uint8_t bytes, uint32_t, uint32_t) {
    SharedWord &x = (*w.block->shadow)[word / 4];
    uint32_t other = 0, line = 0;
    const char *what = sharedClash(x, bytes, thread, w.block->phase, w.syncs, true, false, false, &other, &line);
    if (what) sharedFault(w, i, lane, shared, what, other, line ? line : i.line);
    recordShared(x, bytes, thread, w.block->phase, w.syncs, true, false, i.line);
    x.async |= bytes;
    x.asyncThread = (uint16_t)thread;
  });
}

void checkAsyncDone(Warp &w, const PendingCopy &c, uint32_t done) {
  if (!w.block->checked) return;
  for (int l = 0; l < lanes; l++) {
    if (!(done >> l & 1)) continue;
    const uint32_t thread = w.index * lanes + (uint32_t)l;
    pieces(c.shared[l], c.size, [&](uint64_t word, uint8_t bytes, uint32_t, uint32_t) {
      SharedWord &x = (*w.block->shadow)[word / 4];
      x.async &= (uint8_t)~bytes;
      recordShared(x, bytes, thread, w.block->phase, w.syncs, true, false, c.line);
    });
  }
}

} // namespace emu
