// The dispatcher: blocks of a launch, warps of a block, groups of lanes of a warp.
//
// A warp runs the group of lanes that is at the lowest instruction, until it branches apart or reaches where others
// are: so lanes that went different ways meet again at the first place both come by. Lanes that wait (for the block at
// a barrier, for lanes of the warp at a shfl.sync) are set aside. A group that keeps the others waiting for long gives
// way to them for a while, and a warp that runs for long to the next warp, so that lanes may wait for each other in
// loops, as on GPUs from sm_70 on. When nobody can go on, who waits for whom is reported.
#include "interp.h"

#include <algorithm>
#include <atomic>
#include <numeric>
#include <stdexcept>
#include <thread>

#include "worker.h"

namespace emu {

namespace {

constexpr uint64_t defaultLimit = 1ull << 36;
constexpr uint32_t patience = 1 << 14; // basic blocks a group may keep others waiting
constexpr uint32_t quantum = 1 << 18;  // basic blocks a warp may keep other warps waiting

uint32_t guard(Warp &w, const Inst &i, uint32_t mask) {
  if (i.pred < 0) return mask;
  const uint32_t p = w.predicate((uint32_t)i.pred);
  return mask & (i.negated ? ~p : p);
}

uint32_t lanesIn(uint32_t mask) { return mask == everyone ? lanes : (uint32_t)__builtin_popcount(mask); }

std::string lanesText(uint32_t mask) {
  std::string out;
  for (int l = 0; l < lanes; l++)
    if (mask >> l & 1) {
      if (out.size() > 40) return out + ", ...";
      out += (out.empty() ? "" : ", ") + std::to_string(l);
    }
  return out;
}

// ---- barriers of the block

void release(Warp &by, const Inst &at, uint32_t id);

void arrive(Warp &w, const Inst &i, uint32_t pc, uint32_t mask, bool waits) {
  Block &block = *w.block;
  const int first = __builtin_ctz(mask);
  const uint32_t id = w.reg<uint32_t>(i.a)[first], count = w.reg<uint32_t>(i.b)[first];
  for (int l = 0; l < lanes; l++)
    if (mask >> l & 1 && (w.reg<uint32_t>(i.a)[l] != id || w.reg<uint32_t>(i.b)[l] != count))
      fault(w, i, l, LaunchFailed, "lanes of a warp are at different barriers at once");
  if (id >= 16) fault(w, i, first, LaunchFailed, "barrier " + std::to_string(id) + ": there are 16, 0 to 15");
  if (count % lanes) fault(w, i, first, LaunchFailed, "a barrier for " + std::to_string(count) +
                               " threads: the number must be a multiple of 32");
  Barrier &b = block.barriers[id];
  if (!b.arrived) {
    b.expected = count;
    b.pc = pc;
    b.votes = 0;
    b.all = true;
    b.any = false;
  } else if (b.expected != count) {
    fault(w, i, first, LaunchFailed,
          "threads arrive at barrier " + std::to_string(id) + " with different numbers of threads");
  } else if (block.checked && b.pc != pc && !count) {
    fault(w, i, first, LaunchFailed, "divergent barrier: other threads of the block wait at PTX line " +
                               std::to_string(block.worker->program->code[b.pc].line));
  }
  b.arrived += (uint32_t)__builtin_popcount(mask);
  if (i.mode) {
    const uint32_t votes = w.predicate(i.c) & mask;
    b.votes += (uint32_t)__builtin_popcount(votes);
    b.all = b.all && votes == mask;
    b.any = b.any || votes;
  }
  if (waits) w.waiting.push_back({pc, mask, id});
  release(w, i, id);
}

// release lets go who waits at a barrier, if all are there that it is for.
void release(Warp &by, const Inst &at, uint32_t id) {
  Block &block = *by.block;
  Barrier &b = block.barriers[id];
  if (!b.arrived) return;
  const uint32_t needed = b.expected ? b.expected : block.threads - block.exited;
  if (b.arrived < needed) return;
  if (b.arrived > needed)
    fault(by, at, -1, LaunchFailed, "more threads arrive at barrier " + std::to_string(id) + " than it is for (" +
                                std::to_string(needed) + ")");
  if (block.checked && !b.expected && block.exited)
    fault(by, at, -1, LaunchFailed, "divergent barrier: " + std::to_string(block.exited) +
                                " threads of the block have ended without arriving at it");
  for (Warp &w : block.worker->warps) {
    size_t kept = 0;
    for (const Waiting &g : w.waiting) {
      if (g.barrier != id) {
        w.waiting[kept++] = g;
        continue;
      }
      w.ready.push_back({g.pc + 1, g.mask});
      const Inst &i = block.worker->program->code[g.pc];
      if (i.mode == 1) {
        uint32_t *d = w.reg<uint32_t>(i.d);
        for (int l = 0; l < lanes; l++)
          if (g.mask >> l & 1) d[l] = b.votes;
      } else if (i.mode) {
        uint32_t &p = w.predicate(i.d);
        p = (p & ~g.mask) | ((i.mode == 2 ? b.all : b.any) ? g.mask : 0);
      }
    }
    w.waiting.resize(kept);
  }
  b = Barrier{};
  block.phase++;
}

// ---- lanes of a warp that wait for each other

// converge handles lanes at a Converge or SyncWarp: those whose member mask is complete do it and are ready behind it,
// the others are set aside.
void converge(Warp &w, const Inst &i, uint32_t pc, uint32_t mask) {
  size_t kept = 0;
  for (const Group &g : w.blocked) { // who waited here already
    if (g.pc == pc) mask |= g.mask;
    else w.blocked[kept++] = g;
  }
  w.blocked.resize(kept);
  const uint32_t *members = w.reg<uint32_t>(i.f);
  while (mask) {
    const int first = __builtin_ctz(mask);
    const uint32_t named = members[first];
    uint32_t here = 0;
    for (int l = 0; l < lanes; l++) here |= (uint32_t)(mask >> l & 1 && members[l] == named) << l;
    mask &= ~here;
    if (here & ~named)
      fault(w, i, __builtin_ctz(here & ~named), LaunchFailed, "the lane is not in its own member mask");
    const uint32_t needed = named & w.alive;
    if (i.flow == Flow::SyncWarp) { // any bar.warp.sync with the same members will do
      uint32_t others = 0;
      for (const Group &g : w.blocked) {
        const Inst &theirs = w.block->worker->program->code[g.pc];
        if (theirs.flow == Flow::SyncWarp && w.reg<uint32_t>(theirs.f)[__builtin_ctz(g.mask)] == named)
          others |= g.mask;
      }
      if (needed & ~(here | others)) {
        w.blocked.push_back({pc, here});
        continue;
      }
      w.ready.push_back({pc + 1, here});
      size_t left = 0;
      for (const Group &g : w.blocked) {
        if (others & g.mask) w.ready.push_back({g.pc + 1, g.mask});
        else w.blocked[left++] = g;
      }
      w.blocked.resize(left);
      w.syncs++;
    } else if (needed & ~here) {
      w.blocked.push_back({pc, here});
    } else {
      i.fn(w, i, here);
      w.ready.push_back({pc + 1, here});
    }
  }
}

// ---- a warp

class Runner {
public:
  Runner(Worker &k, Warp &w) : k(k), w(w), code(k.program->code.data()) {}

  // run goes on until all lanes wait or have ended, or the warp has had its turn.
  void run() {
    if (!pick()) return;
    for (uint32_t left = quantum;;) {
      const Inst *i = code + pc;
      for (;;) {
        if (__builtin_expect(i->flow == Flow::Plain, 1)) {
          i->fn(w, *i, mask);
          i += i->run;
        } else if (i->flow == Flow::Guarded) {
          const uint32_t m = guard(w, *i, mask);
          k.guardLanes[i->target] += lanesIn(m);
          if (m) i->fn(w, *i, m);
          i++;
        } else if (i->flow == Flow::Branch) {
          const uint32_t m = guard(w, *i, mask);
          if (m && m != mask) break; // lanes go apart
          i = m ? code + i->target : i + 1;
        } else {
          break;
        }
      }
      pc = (uint32_t)(i - code);
      if (i->flow == Flow::Next) {
        if (pc >= nextPc || (favoured && !--favoured)) {
          yield();
          if (code[pc].flow != Flow::Next) continue;
          i = code + pc;
        }
        if (!w.ready.empty() && ++kept > patience) {
          giveWay();
          continue;
        }
        if (!--left) {
          w.ready.push_back({pc, mask});
          break;
        }
        k.blockRuns[i->target]++;
        k.blockLanes[i->target] += lanesIn(mask);
        k.instructions += (uint64_t)i->imm;
        pc++;
        continue;
      }
      if (!step(*i) && !pick()) break;
    }
    const uint64_t limit = k.launch->limit ? k.launch->limit : defaultLimit;
    if (k.instructions > limit)
      fault(w, code[pc], -1, LaunchTimeout, "the block has not ended after " + std::to_string(limit) + " instructions");
  }

private:
  // pick takes the lanes at the lowest instruction.
  bool pick() {
    if (w.ready.empty()) return false;
    uint32_t lowest = ~0u;
    for (const Group &g : w.ready) lowest = std::min(lowest, g.pc);
    take(lowest);
    return true;
  }
  void take(uint32_t at) {
    mask = 0;
    nextPc = ~0u;
    size_t left = 0;
    for (const Group &g : w.ready) {
      if (g.pc == at) {
        mask |= g.mask;
      } else {
        nextPc = std::min(nextPc, g.pc);
        w.ready[left++] = g;
      }
    }
    w.ready.resize(left);
    pc = at;
    favoured = 0;
    if (w.ready.empty()) kept = 0;
  }
  void yield() {
    w.ready.push_back({pc, mask});
    pick();
  }
  // giveWay lets another group run for a while, though it is further on.
  void giveWay() {
    kept = 0;
    w.ready.push_back({pc, mask});
    take(w.ready.front().pc); // who has waited longest
    favoured = patience;
    nextPc = ~0u;
  }

  // step does what is no plain instruction; false: no lane is left here.
  bool step(const Inst &i) {
    const uint32_t m = guard(w, i, mask), rest = mask & ~m;
    switch (i.flow) {
    case Flow::Branch:
      if (!rest) {
        pc = i.target;
      } else if (!m) {
        pc++;
      } else {
        w.ready.push_back({i.target, m});
        w.ready.push_back({pc + 1, rest});
        pick();
      }
      return true;
    case Flow::BranchTable: {
      const std::vector<uint32_t> &targets = k.program->tables[i.target];
      const uint32_t *index = w.reg<uint32_t>(i.a);
      for (int l = 0; l < lanes; l++) {
        if (!(m >> l & 1)) continue;
        if (index[l] >= targets.size()) fault(w, i, l, LaunchFailed, "brx.idx beyond its table");
        w.ready.push_back({targets[index[l]], 1u << l});
      }
      if (rest) w.ready.push_back({pc + 1, rest});
      return false;
    }
    case Flow::Exit:
      leave(i, m);
      break;
    case Flow::Barrier:
      if (rest) w.ready.push_back({pc + 1, rest});
      if (m) arrive(w, i, pc, m, true);
      return false;
    case Flow::Arrive:
      if (m) arrive(w, i, pc, m, false);
      pc++;
      return true;
    case Flow::Converge:
    case Flow::SyncWarp:
      if (rest) w.ready.push_back({pc + 1, rest});
      if (m) converge(w, i, pc, m);
      return false;
    case Flow::Trap:
      if (m) fault(w, i, __builtin_ctz(m), LaunchFailed, "trap");
      pc++;
      return true;
    default: throw std::logic_error("an instruction of no kind");
    }
    if (!rest) return false;
    mask = rest;
    pc++;
    return true;
  }

  void leave(const Inst &i, uint32_t m) {
    if (!m) return;
    w.alive &= ~m;
    w.block->exited += (uint32_t)__builtin_popcount(m);
    w.copies.sweep([&](const PendingCopy &c) {
      c.finish(w.block->shared, c.mask & m);
      return c.mask & m;
    });
    for (const Group &g : w.blocked) w.ready.push_back(g); // they may have waited for these lanes
    w.blocked.clear();
    for (uint32_t id = 0; id < 16; id++)
      if (w.block->barriers[id].arrived && !w.block->barriers[id].expected) release(w, i, id);
  }
  Worker &k;
  Warp &w;
  const Inst *const code;
  uint32_t pc = 0, mask = 0, nextPc = ~0u;
  uint32_t kept = 0, favoured = 0;
};

// ---- a block

[[noreturn]] void deadlock(Worker &k) {
  for (Warp &w : k.warps)
    for (const Group &g : w.blocked) {
      const Inst &i = k.program->code[g.pc];
      const uint32_t named = w.reg<uint32_t>(i.f)[__builtin_ctz(g.mask)];
      fault(w, i, __builtin_ctz(g.mask), LaunchFailed, "waits for lanes " + lanesText(named & w.alive & ~g.mask) +
                                                           " of its warp, which never come here");
    }
  for (Warp &w : k.warps)
    for (const Waiting &g : w.waiting) {
      const Inst &i = k.program->code[g.pc];
      const Barrier &b = k.block.barriers[g.barrier];
      const uint32_t needed = b.expected ? b.expected : k.block.threads - k.block.exited;
      fault(w, i, __builtin_ctz(g.mask), LaunchFailed, "waits at barrier " + std::to_string(g.barrier) + ": of " +
                std::to_string(needed) + " threads " + std::to_string(needed - b.arrived) + " never arrive");
    }
  throw Fault{LaunchFailed, k.program->kernel + ": no warp can go on"};
}

uint64_t specialValue(const Worker &k, Special s, uint32_t warp, uint32_t lane) {
  const Launch &l = *k.launch;
  const uint32_t t = warp * lanes + lane;
  switch (s) {
  case Special::TidX: return t % l.block.x;
  case Special::TidY: return t / l.block.x % l.block.y;
  case Special::TidZ: return t / l.block.x / l.block.y;
  case Special::NtidX: return l.block.x;
  case Special::NtidY: return l.block.y;
  case Special::NtidZ: return l.block.z;
  case Special::CtaidX: return k.block.id[0];
  case Special::CtaidY: return k.block.id[1];
  case Special::CtaidZ: return k.block.id[2];
  case Special::NctaidX: return l.grid.x;
  case Special::NctaidY: return l.grid.y;
  case Special::NctaidZ: return l.grid.z;
  case Special::Lane: return lane;
  case Special::Warp: return warp;
  case Special::Warps: return (k.block.threads + lanes - 1) / lanes;
  case Special::Sm: return 0;
  case Special::Sms: return 1;
  case Special::Grid: return l.access.op;
  case Special::LanesEq: return 1u << lane;
  case Special::LanesLt: return (1u << lane) - 1;
  case Special::LanesLe: return (2ull << lane) - 1;
  case Special::LanesGt: return ~((2ull << lane) - 1) & ~0u;
  case Special::LanesGe: return ~((1u << lane) - 1) & ~0u;
  case Special::DynamicShared: return l.dynamicShared;
  case Special::TotalShared: return k.block.sharedBytes;
  default: return 0;
  }
}

void fill(Worker &k, Warp &w, const Pool &p) {
  for (uint32_t l = 0; l < (uint32_t)lanes; l++) {
    const uint64_t v = p.kind == Pool::OfLaunch ? specialValue(k, p.special, w.index, l) : p.value;
    switch (p.width) {
    case 0: w.predicate(p.slot) = v ? ~0u : 0; break;
    case 2: w.reg<uint16_t>(p.slot)[l] = (uint16_t)v; break;
    case 4: w.reg<uint32_t>(p.slot)[l] = (uint32_t)v; break;
    default: w.reg<uint64_t>(p.slot)[l] = v;
    }
  }
}
bool ofBlock(const Pool &p) { // differs from block to block
  return p.kind == Pool::OfLaunch &&
         (p.special == Special::CtaidX || p.special == Special::CtaidY || p.special == Special::CtaidZ);
}

// prepare makes a worker ready for a launch.
void prepare(Worker &k, const Launch &l) {
  k.launch = &l;
  k.program = l.kernel->program.get();
  Block &b = k.block;
  b = Block{};
  b.worker = &k;
  b.threads = l.block.x * l.block.y * l.block.z;
  b.params = l.params;
  b.paramBytes = l.kernel->paramBytes;
  b.localBytes = l.kernel->localBytes;
  b.checked = l.checks == Check::Full;
  b.watched = b.checked || (l.counts && l.counts->detail);
  b.sharedBytes = l.dynamicShared ? k.program->dynamicBase + l.dynamicShared : l.kernel->staticShared;
  const uint32_t warps = (b.threads + lanes - 1) / lanes;
  k.warps.resize(warps);
  const size_t stride = k.program->registerBytes + 64;
  if (k.registerFile.size() < stride * warps + 64) k.registerFile.assign(stride * warps + 64, (char)0xFF);
  char *const base = (char *)(((uintptr_t)k.registerFile.data() + 63) & ~(uintptr_t)63);
  if (k.sharedFile.size() < b.sharedBytes + 64u) k.sharedFile.resize(b.sharedBytes + 64);
  b.shared = (uint8_t *)(((uintptr_t)k.sharedFile.data() + 63) & ~(uintptr_t)63);
  const size_t local = (size_t)b.localBytes * lanes * warps;
  if (k.localFile.size() < local + 16) k.localFile.resize(local + 16);
  if (b.checked) k.localWritten.resize(local + 16);
  k.spans.assign(k.program->spans, Span{});
  k.reaches.assign(k.program->reaches, Reach{});
  k.blockRuns.assign(k.program->blocks.size(), 0);
  k.blockLanes.assign(k.program->blocks.size(), 0);
  k.guardLanes.assign(k.program->guards.size(), 0);
  k.instructions = 0;
  k.detail = Tally{};
  k.order.resize(warps);
  std::iota(k.order.begin(), k.order.end(), 0u);
  for (uint32_t i = 0; i < warps; i++) {
    Warp &w = k.warps[i];
    w.registers = base + stride * i;
    w.block = &b;
    w.index = i;
    w.present = b.threads - i * lanes >= (uint32_t)lanes ? everyone : (1u << (b.threads - i * lanes)) - 1;
    w.spans = k.spans.data();
    w.reaches = k.reaches.data();
    w.local = k.localFile.data() + (size_t)b.localBytes * lanes * i;
    w.localWritten = b.checked ? k.localWritten.data() + (size_t)b.localBytes * lanes * i : nullptr;
    for (const Pool &p : k.program->pool)
      if (!ofBlock(p)) fill(k, w, p);
  }
}

void runBlock(Worker &k, uint64_t linear) {
  const Launch &l = *k.launch;
  Block &b = k.block;
  b.id[0] = (uint32_t)(linear % l.grid.x);
  b.id[1] = (uint32_t)(linear / l.grid.x % l.grid.y);
  b.id[2] = (uint32_t)(linear / l.grid.x / l.grid.y);
  b.linear = (uint32_t)linear;
  b.exited = 0;
  b.phase = 1;
  k.instructions = 0;
  for (Barrier &x : b.barriers) x = Barrier{};
  std::fill(b.shared, b.shared + b.sharedBytes, (uint8_t)0xCD); // what nobody wrote is garbage
  if (b.checked) {
    k.sharedShadow.assign((b.sharedBytes + 3) / 4, SharedWord{});
    b.shadow = &k.sharedShadow;
    std::fill(k.localWritten.begin(), k.localWritten.end(), (uint8_t)0);
  }
  for (Warp &w : k.warps) {
    w.alive = w.present;
    w.blocked.clear();
    w.waiting.clear();
    w.copies.clear();
    w.syncs = 0;
    w.ready.assign(1, {0, w.present});
    for (uint32_t &c : w.committed) c = 0;
    for (const Pool &p : k.program->pool)
      if (ofBlock(p)) fill(k, w, p);
  }
  while (b.exited < b.threads) {
    if (l.seed) std::shuffle(k.order.begin(), k.order.end(), k.random);
    bool progress = false;
    for (uint32_t i : k.order) {
      if (k.warps[i].ready.empty()) continue;
      Runner(k, k.warps[i]).run();
      progress = true;
    }
    if (!progress) deadlock(k);
  }
}

// Order of blocks: 0, 1, 2 ... or a fixed permutation of them, made by the seed.
class Permutation {
public:
  Permutation(uint64_t n, uint64_t seed) : n(n) {
    if (!seed || n < 2) return;
    std::mt19937_64 random(seed);
    offset = random() % n;
    do stride = random() % n;
    while (std::gcd(stride, n) != 1);
  }
  uint64_t operator()(uint64_t i) const { return (uint64_t)(((unsigned __int128)i * stride + offset) % n); }

private:
  uint64_t n, stride = 1, offset = 0;
};

Tally tally(const Worker &k) {
  Tally t = k.detail;
  for (size_t b = 0; b < k.blockRuns.size(); b++)
    for (int c = 0; c < classes; c++) {
      const BasicBlock &block = k.program->blocks[b];
      t.warp[c] += k.blockRuns[b] * block.warp[c];
      t.thread[c] += k.blockLanes[b] * block.thread[c];
      t.bytes[c] += k.blockLanes[b] * block.bytes[c];
    }
  for (size_t g = 0; g < k.guardLanes.size(); g++) {
    t.thread[(int)k.program->guards[g].cls] += k.guardLanes[g];
    t.bytes[(int)k.program->guards[g].cls] += k.guardLanes[g] * k.program->guards[g].bytes;
  }
  return t;
}

std::string dims(Dim d) { return std::to_string(d.x) + "," + std::to_string(d.y) + "," + std::to_string(d.z); }

} // namespace

Fault validate(const Kernel &k, Dim grid, Dim block, uint32_t dynamicShared, const Limits &limits) {
  const auto refuse = [&](int code, const std::string &what) {
    return Fault{code, "kernel " + k.name + ", grid " + dims(grid) + ", block " + dims(block) + ": " + what};
  };
  const uint32_t g[3] = {grid.x, grid.y, grid.z}, b[3] = {block.x, block.y, block.z};
  uint64_t threads = 1;
  for (int d = 0; d < 3; d++) {
    const std::string axis(1, "xyz"[d]);
    if (!g[d] || !b[d]) return refuse(InvalidValue, "dimension " + axis + " is zero");
    if (g[d] > limits.maxGrid[d])
      return refuse(InvalidValue,
                    "the grid has more than " + std::to_string(limits.maxGrid[d]) + " blocks along " + axis);
    if (b[d] > limits.maxBlock[d])
      return refuse(InvalidValue,
                    "the block has more than " + std::to_string(limits.maxBlock[d]) + " threads along " + axis);
    threads *= b[d];
    if (k.requiredDims[0] && k.requiredDims[d] != b[d])
      return refuse(InvalidValue, "the kernel requires another block (.reqntid)");
  }
  if (threads > limits.maxThreads)
    return refuse(InvalidValue, std::to_string(threads) + " threads a block are too many");
  if (threads > k.maxThreads)
    return refuse(InvalidValue, std::to_string(threads) + " threads a block, but the kernel was compiled for at most " +
                                    std::to_string(k.maxThreads) + " (__launch_bounds__)");
  const uint64_t shared = (uint64_t)k.staticShared + dynamicShared;
  if (shared > limits.maxShared)
    return refuse(InvalidValue, std::to_string(shared) + " bytes of shared memory, but " +
                                    std::to_string(limits.maxShared) + " are allowed (static " +
                                    std::to_string(k.staticShared) + ")");
  return {};
}

Fault run(const Launch &l) {
  const uint64_t blocks = (uint64_t)l.grid.x * l.grid.y * l.grid.z;
  const Permutation order(blocks, l.seed);
  std::atomic<uint64_t> next{0};
  std::atomic<bool> stop{false};
  std::mutex lock;
  Fault first;
  Tally total;
  const auto work = [&] {
    static thread_local Worker worker; // kept: register files are worth reusing
    Fault f;
    try {
      prepare(worker, l);
      for (uint64_t i; (i = next++) < blocks && !stop;) {
        const uint64_t linear = order(i);
        if (l.seed) worker.random.seed(l.seed * 0x9E3779B97F4A7C15ull + linear);
        runBlock(worker, linear);
      }
    } catch (const Fault &g) {
      f = g;
      stop = true;
    } catch (const std::exception &e) {
      f = {LaunchFailed, "kernel " + l.kernel->name + ": " + e.what()};
      stop = true;
    }
    std::lock_guard<std::mutex> hold(lock);
    if (f && !first) first = f;
    total.add(tally(worker));
  };
  std::vector<std::thread> others;
  for (int t = 1; t < l.threads && (uint64_t)t < blocks; t++) others.emplace_back(work);
  work();
  for (std::thread &t : others) t.join();
  if (l.counts) {
    total.launches = 1;
    total.blocks = blocks;
    total.threads = blocks * l.block.x * l.block.y * l.block.z;
    l.counts->add(l.kernel->name, "grid " + dims(l.grid) + " block " + dims(l.block) + " shared " +
                                      std::to_string(l.dynamicShared), total);
  }
  return first;
}

} // namespace emu
