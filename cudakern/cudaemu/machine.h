// The machine that handlers of instructions (ops_*.cc) work on: instructions as decoded, a warp's registers, a block.
//
// Registers are arrays of 32 lanes: 128 bytes for 32-bit registers, 256 for 64-bit ones, 64 for 16-bit ones; a
// predicate is one 32-bit mask. Instructions name them by their byte offset in the warp's register file ("slot").
// Immediates are slots too, filled once a launch: a handler never asks what kind its operand is.
#pragma once
#include <cstdint>
#include <deque>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "counts.h"
#include "memory.h"

namespace emu {

constexpr int lanes = 32;
constexpr uint32_t everyone = ~0u;

struct Inst;
struct Product; // runs.h
struct Warp;
struct Block;

// A handler does one instruction for the lanes of `mask` (never 0). It may throw Fault.
using Handler = void (*)(Warp &, const Inst &, uint32_t mask);

// Flow is what the dispatcher does with an instruction.
enum class Flow : uint8_t {
  Plain,       // call the handler, go on
  Guarded,     // the same for the lanes whose predicate holds
  Next,        // only a place where lanes may join; no instruction
  Branch,      // bra
  BranchTable, // brx.idx
  Exit,        // ret, exit
  Barrier,     // bar.sync, bar.red: wait for the block
  Arrive,      // bar.arrive
  Converge,    // shfl.sync, vote.sync, mma.sync ...: wait for lanes of the warp, then call the handler
  SyncWarp,    // bar.warp.sync
  Trap,        // trap
};

enum class Space : uint8_t { Generic, Global, Shared, Local, Const, Param };

struct Inst {
  Handler fn = nullptr;
  uint32_t d = 0, a = 0, b = 0, c = 0; // slots: destination, sources
  uint32_t e = 0, f = 0;               // second destination (or predicate), fourth source
  int64_t imm = 0;                     // offset of an address, immediate modifier
  int64_t imm2 = 0;                    // offset of the second address (cp.async)
  uint32_t *more = nullptr;            // slots of what needs more (mma.sync; runs of fma), in Program::more or runs
  const Product *product = nullptr;    // the first of a product: what it does, in Program::products
  int32_t pred = -1;                   // slot of the guard, -1: none
  uint32_t line = 0;                   // of the PTX text
  uint32_t target = 0;                 // Branch: index of an instruction; BranchTable: of Program::tables
  uint32_t cache = 0;                  // memory: index into Worker::spans
  uint32_t vec[4] = {};                // elements of a vector operand
  uint16_t run = 1;                    // how many instructions the handler does (fused runs)
  uint16_t reach = 0;                  // memory: index into Warp::reaches
  bool fresh = true;                   // memory: the reach is to be found; else the one found before still holds
  Flow flow = Flow::Plain;
  Class cls = Class::Integer;
  bool negated = false;                // the guard is @!p
  uint8_t count = 1;                   // elements of vec
  uint8_t mode = 0;                    // the handler's own; ld and st: width of the registers, | 0x80: signed
  Space space = Space::Generic;
  uint8_t bytes = 0;                   // memory: of one element; of the whole access is bytes * count
  bool write = false;                  // memory: it writes
};

// Where shared and local memory lie in the generic address space: no host address looks like that.
constexpr uint64_t sharedWindow = 0x00A0ull << 48, localWindow = 0x00B0ull << 48, windowMask = 0xFFFFull << 48;

// Span is the allocation an instruction touched last.
struct Span {
  uint64_t low = 1, high = 0; // device addresses [low, high)
  uint8_t *bytes = nullptr;   // content of low
  bool constant = false;
  ShadowWord *shadow = nullptr;
  std::mutex *shadowLock = nullptr;
  uint8_t born = 0; // see ShadowWord
};

// Reach is what the addresses in a register have in common. Within a basic block it is found once for as long as the
// register keeps its content: unrolled loops load from one register with many offsets.
struct Reach {
  uint64_t low = 0, high = 0, bits = 0; // lowest, highest, all or-ed
  bool groups = false;                  // each 8 lanes have one address
  bool period = false;                  // lane l has the address of lane l+8
  bool rows = false;                    // each 8 lanes have neighbouring words of 4 bytes, in order
};

// Group is lanes of a warp that are at one place.
struct Group {
  uint32_t pc, mask;
};
// Waiting is lanes that arrived at a barrier of the block; pc is of the barrier.
struct Waiting {
  uint32_t pc, mask, barrier;
};

// PendingCopy is a cp.async that some lanes have issued and not waited for.
struct PendingCopy {
  uint32_t mask, group;      // its lanes; number of the commit it belongs to
  uint32_t size, line;       // bytes a lane
  uint32_t shared[lanes];    // where each lane's go
  uint8_t data[lanes * 16];  // lane l's at l * size
  // finish writes what the lanes of `done` have copied.
  void finish(uint8_t *to, uint32_t done) const {
    const auto all = [&](auto width) {
      constexpr uint32_t n = width();
      for (int l = 0; l < lanes; l++)
        if (done == everyone || done >> l & 1) __builtin_memcpy(to + shared[l], data + l * n, n);
    };
    if (size == 4) all(std::integral_constant<uint32_t, 4>());
    else if (size == 8) all(std::integral_constant<uint32_t, 8>());
    else all(std::integral_constant<uint32_t, 16>());
  }
};

// PendingCopies are a warp's, in the order of issue. They are large, so they stay where they are and only their numbers
// move.
class PendingCopies {
public:
  PendingCopy &add() {
    if (unused.empty()) {
      unused.push_back((uint32_t)store.size());
      store.emplace_back();
    }
    order.push_back(unused.back());
    unused.pop_back();
    return store[order.back()];
  }
  // sweep calls done(copy), which says which of the copy's lanes are done with, and forgets copies without lanes.
  template <class F> void sweep(F done) {
    size_t left = 0;
    for (uint32_t at : order) {
      PendingCopy &c = store[at];
      c.mask &= ~done((const PendingCopy &)c);
      if (c.mask) order[left++] = at;
      else unused.push_back(at);
    }
    order.resize(left);
  }
  void clear() {
    sweep([](const PendingCopy &c) { return c.mask; });
  }
  bool empty() const { return order.empty(); }

private:
  std::deque<PendingCopy> store;
  std::vector<uint32_t> order, unused;
};

struct Warp {
  char *registers = nullptr; // 64-byte aligned
  Block *block = nullptr;
  uint32_t index = 0;
  uint32_t alive = 0;                // lanes that exist and have not exited
  uint32_t present = 0;              // lanes that exist
  std::vector<Group> ready, blocked; // blocked: at a Converge or SyncWarp, for lanes not there yet
  std::vector<Waiting> waiting;
  PendingCopies copies;
  uint32_t committed[lanes] = {};    // commits of cp.async groups by lane
  uint32_t syncs = 0;                // bar.warp.syncs passed: for races within the warp
  Span *spans = nullptr;             // the worker's, by Inst::cache
  Reach *reaches = nullptr;          // the worker's, by Inst::reach
  uint8_t *local = nullptr;          // lane l's local memory begins at l * localBytes
  uint8_t *localWritten = nullptr;   // Full: a byte for each byte of it

  template <class T> T *reg(uint32_t slot) { return (T *)(registers + slot); }
  uint32_t &predicate(uint32_t slot) { return *(uint32_t *)(registers + slot); }
};

struct SharedWord; // shadow of shared memory: checks.h
struct Worker;

struct Barrier {
  uint32_t arrived = 0, expected = 0; // threads; expected 0: all of the block
  uint32_t pc = ~0u;                  // of the first that arrived
  uint32_t votes = 0;                 // bar.red: predicates that hold
  bool all = true, any = false;
};

struct Block {
  Worker *worker = nullptr;
  uint32_t id[3] = {}, linear = 0;
  uint32_t threads = 0, exited = 0;
  uint8_t *shared = nullptr;
  uint32_t sharedBytes = 0;
  const uint8_t *params = nullptr;
  uint32_t paramBytes = 0;
  uint32_t localBytes = 0;
  bool watched = false;          // checkAccess is to see every access: checked, or counted in detail
  bool bounds = true;            // not Check::Off
  uint32_t phase = 1;            // barriers of the whole block passed, plus 1
  std::vector<SharedWord> *shadow = nullptr;
  Barrier barriers[16];
  bool checked = false;          // Check::Full
};

// fault throws what is wrong with an instruction: which kernel, block, thread and line are added. lane may be -1.
[[noreturn]] void fault(Warp &, const Inst &, int lane, int code, const std::string &what);
// The same for handlers, which are compiled for several processors and should not drag std::string along.
[[noreturn]] void faultText(Warp &, const Inst &, int lane, int code, const char *what);

// resolve yields where the n bytes at a lane's address are, or throws: unmapped, misaligned, beyond the shared memory.
uint8_t *resolve(Warp &, const Inst &, int lane, uint64_t address, uint32_t n, Space, bool write);
// span makes i's span be that of the allocation at address, if there is one this launch may touch.
bool span(Warp &, const Inst &i, uint64_t address, Span **out);
// The span that the instruction has at hand.
inline Span &spanOf(Warp &w, const Inst &i) { return w.spans[i.cache]; }

// clockOf is what %clock64 reads: instructions done.
uint64_t clockOf(Warp &);

// checkAccess is what Check::Full (and Counts::detail) adds to a load or store of i.bytes * i.count bytes a lane,
// before it is done. Lane l's address is addresses[l]. `atomic`: read and write at once, ordered against other atomics.
void checkAccess(Warp &, const Inst &i, uint32_t mask, const uint64_t *addresses, Space, bool write, bool atomic);
// countAsync is what Counts::detail adds to a cp.async: lane l's read[l] bytes are at from[l].
void countAsync(Warp &, const Inst &i, const PendingCopy &, const uint64_t *from, const uint32_t *read);
void checkAsyncIssue(Warp &, const Inst &i, int lane, uint64_t from, uint32_t shared, uint32_t n);
void checkAsyncDone(Warp &, const PendingCopy &, uint32_t done);

} // namespace emu
