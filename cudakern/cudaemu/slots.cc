// Where registers live. A warp's register file should stay in the first cache, so registers that are not alive at the
// same time share a slot: liveness by data flow over basic blocks, then one pass over the intervals. Liveness of one
// thread is enough, also where lanes diverge, because a write touches only the lanes that do it.
#include <algorithm>
#include <cstddef>
#include <cstring>

#include "loader.h"

namespace emu {

void Loader::finish(Kernel *k) {
  join();
  Inst end;
  end.flow = Flow::Exit;
  end.cls = Class::Control;
  end.line = peek().line;
  pending.clear();
  emit(end, "ret");
  const auto place = [&](const std::string &label) {
    const auto it = labels.find(label);
    if (it == labels.end()) fail("label \"" + label + "\" of kernel " + k->name + " is not there");
    return it->second.at;
  };
  for (const auto &[inst, label] : branches) program->code[inst].target = place(label);
  for (const auto &[table, targets] : switches)
    for (const std::string &t : targets) program->tables[table].push_back(place(t));
  k->staticShared = (uint32_t)sharedUsed;
  k->localBytes = (uint32_t)((localUsed + 15) / 16 * 16);
  program->dynamicBase = (uint32_t)((sharedUsed + sharedAlign - 1) / sharedAlign * sharedAlign);
  for (Pool &p : program->pool)
    if (p.kind == Pool::DynamicBase) p = {Pool::Immediate, p.width, p.special, p.value + program->dynamicBase, 0};
  assignSlots(k, false);
  bool runs = false;
  for (size_t i = 1; i < program->code.size() && !runs; i++) runs = isFma(i - 1) && isFma(i);
  if (runs) {
    const uint32_t registers = k->registers; // of the kernel as it is written
    hoistLoads();
    assignSlots(k, true);
    k->registers = registers;
  }
  summarize();
}

namespace {

using Bits = std::vector<uint64_t>;
bool get(const Bits &b, uint32_t i) { return b[i >> 6] >> (i & 63) & 1; }
void set(Bits &b, uint32_t i) { b[i >> 6] |= 1ull << (i & 63); }

struct Extent { // first and last position at which a register holds something: 2i reads of instruction i, 2i+1 writes
  uint32_t low = ~0u, high = 0;
  void hold(uint32_t p) {
    low = std::min(low, p);
    high = std::max(high, p);
  }
};

} // namespace

// forRuns: sums of runs of fma stay where they are, and apart from the run's factors, as its plan wants it (runs.h).
void Loader::assignSlots(Kernel *k, bool forRuns) {
  std::vector<Inst> &code = program->code;
  const uint32_t n = (uint32_t)code.size(), count = (uint32_t)regs.size();
  const size_t words = (count + 63) / 64;

  struct Part { // a basic block
    uint32_t first, end;
    size_t from, to; // of occurrences
    Bits needs, makes, in, out;
    std::vector<uint32_t> next;
  };
  std::vector<Part> parts;
  std::vector<uint32_t> partOf(n);
  for (uint32_t i = 0; i < n; i++) {
    if (code[i].flow == Flow::Next)
      parts.push_back({i, n, 0, 0, Bits(words), Bits(words), Bits(words), Bits(words), {}});
    partOf[i] = (uint32_t)parts.size() - 1;
    parts.back().end = i + 1;
  }
  size_t o = 0;
  for (Part &p : parts) {
    p.from = o;
    while (o < occurrences.size() && occurrences[o].inst < p.end) {
      size_t last = o;
      while (last < occurrences.size() && occurrences[last].inst == occurrences[o].inst) last++;
      for (size_t q = o; q < last; q++)
        if (!occurrences[q].write && !get(p.makes, occurrences[q].reg)) set(p.needs, occurrences[q].reg);
      bool guarded = false;
      for (size_t q = o; q < last; q++)
        guarded = guarded || (!occurrences[q].where && occurrences[q].field == offsetof(Inst, pred));
      for (size_t q = o; q < last; q++)
        if (occurrences[q].write && !guarded) set(p.makes, occurrences[q].reg);
      o = last;
    }
    p.to = o;
    const Inst &i = code[p.end - 1];
    const bool guarded =
        std::any_of(occurrences.begin() + p.from, occurrences.begin() + p.to, [&](const Occurrence &c) {
          return c.inst == p.end - 1 && !c.where && c.field == offsetof(Inst, pred);
        });
    if (i.flow == Flow::Branch) p.next.push_back(partOf[i.target]);
    if (i.flow == Flow::BranchTable)
      for (uint32_t t : program->tables[i.target]) p.next.push_back(partOf[t]);
    const bool leaves =
        i.flow == Flow::Branch || i.flow == Flow::BranchTable || i.flow == Flow::Exit || i.flow == Flow::Trap;
    if ((!leaves || guarded) && p.end < n) p.next.push_back(partOf[p.end]);
  }
  for (bool changed = true; changed;) {
    changed = false;
    for (size_t b = parts.size(); b--;) {
      Part &p = parts[b];
      for (size_t w = 0; w < words; w++) {
        uint64_t out = 0;
        for (uint32_t s : p.next) out |= parts[s].in[w];
        const uint64_t in = p.needs[w] | (out & ~p.makes[w]);
        changed = changed || in != p.in[w];
        p.in[w] = in;
        p.out[w] = out;
      }
    }
  }
  std::vector<Extent> spans(count);
  for (const Part &p : parts)
    for (uint32_t r = 1; r < count; r++) {
      if (get(p.in, r)) spans[r].hold(2 * p.first);
      if (get(p.out, r)) spans[r].hold(2 * p.end - 1);
    }
  for (const Occurrence &c : occurrences) spans[c.reg].hold(2 * c.inst + c.write);
  std::vector<uint32_t> adds(count, 0); // to what an fma adds whose result the register is
  if (forRuns) {
    std::vector<uint32_t> ends(n + 1, 0), sum(n, 0); // of the run; what the fma adds to
    for (uint32_t i = n; i--;)
      if (isFma(i)) ends[i] = ends[i + 1] ? ends[i + 1] : i + 1;
    for (const Occurrence &c : occurrences) {
      if (!ends[c.inst] || c.write) continue;
      if (c.field == offsetof(Inst, c)) sum[c.inst] = c.reg;
      else spans[c.reg].hold(2 * ends[c.inst] - 1);
    }
    for (const Occurrence &c : occurrences)
      if (ends[c.inst] && c.write) adds[c.reg] = sum[c.inst];
  }

  // Slots by width: 64-bit registers first, then 32, 16, predicates; each kind's pool (filled at launch) behind it.
  std::vector<uint32_t> order;
  for (uint32_t r = 1; r < count; r++)
    if (regs[r].pool < 0 && spans[r].low != ~0u) order.push_back(r);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return spans[a].low < spans[b].low; });
  uint32_t bottom = 256; // slot 0: for results nobody wants
  uint32_t words32 = 0;
  for (uint8_t width : {8, 4, 2, 0}) {
    const uint32_t bytes = width ? width * lanes : 4;
    std::vector<uint32_t> unused;
    std::multimap<uint32_t, uint32_t> busy; // by the last position
    uint32_t most = 0;
    for (uint32_t r : order) {
      if (regs[r].width != width) continue;
      while (!busy.empty() && busy.begin()->first < spans[r].low) {
        unused.push_back(busy.begin()->second);
        busy.erase(busy.begin());
      }
      if (unused.empty()) unused.push_back(most++);
      if (adds[r]) {
        const auto same = std::find(unused.begin(), unused.end(), (regs[adds[r]].slot - bottom) / bytes);
        if (same != unused.end()) std::swap(*same, unused.back());
      }
      busy.emplace(spans[r].high, unused.back());
      regs[r].slot = bottom + unused.back() * bytes;
      unused.pop_back();
    }
    words32 += most * (width == 8 ? 2 : width ? 1 : 0);
    bottom += most * bytes;
    for (uint32_t r = 1; r < count; r++)
      if (regs[r].pool >= 0 && regs[r].width == width) {
        regs[r].slot = bottom;
        program->pool[regs[r].pool].slot = bottom;
        bottom += bytes;
      }
  }
  k->registers = words32;
  program->registerBytes = (bottom + 63) / 64 * 64;
  for (const Occurrence &c : occurrences) {
    if (c.where) *c.where = regs[c.reg].slot;
    else memcpy((char *)&code[c.inst] + c.field, &regs[c.reg].slot, 4);
  }
}

// findReaches says which loads and stores may use what an earlier one of the basic block found out about the addresses
// in their register. A guarded one may not have run, so it leaves nothing for others.
void Loader::findReaches() {
  std::map<uint32_t, uint16_t> known; // slot of addresses -> reach
  size_t o = 0;
  for (uint32_t n = 0; n < program->code.size(); n++) {
    Inst &i = program->code[n];
    if (i.flow == Flow::Next) known.clear();
    const bool memory = i.cls >= Class::LoadGlobal && i.cls <= Class::Constant && i.bytes;
    if (memory) {
      const auto it = known.find(i.a);
      i.fresh = it == known.end();
      if (!i.fresh) {
        i.reach = it->second;
      } else {
        i.reach = (uint16_t)std::min<uint32_t>(program->reaches, UINT16_MAX);
        if (program->reaches < UINT16_MAX) {
          program->reaches++;
          if (i.flow == Flow::Plain) known[i.a] = i.reach;
        }
      }
    }
    for (; o < occurrences.size() && occurrences[o].inst == n; o++)
      if (occurrences[o].write) known.erase(regs[occurrences[o].reg].slot);
  }
  program->reaches++; // the last is everyone's who found no place
}

// summarize counts what each basic block holds, and joins runs of fma.
void Loader::summarize() {
  std::vector<Inst> &code = program->code;
  BasicBlock *block = nullptr;
  Inst *next = nullptr; // where it begins: its imm is how many instructions there are
  for (Inst &i : code) {
    if (i.flow == Flow::Next) {
      i.target = (uint32_t)program->blocks.size();
      program->blocks.emplace_back();
      next = &i;
      block = &program->blocks.back();
      continue;
    }
    next->imm++;
    const size_t c = (size_t)i.cls;
    const bool memory = i.cls >= Class::LoadGlobal && i.cls <= Class::AsyncCopy;
    const uint32_t bytes = memory ? (uint32_t)i.bytes * i.count : 0;
    if (block->warp[c] < UINT16_MAX) block->warp[c]++;
    if (i.flow == Flow::Guarded) {
      i.target = (uint32_t)program->guards.size();
      program->guards.push_back({i.cls, bytes});
    } else {
      if (block->thread[c] < UINT16_MAX) block->thread[c]++;
      block->bytes[c] += bytes;
    }
  }
  findReaches();
  joinRuns();
}

} // namespace emu
