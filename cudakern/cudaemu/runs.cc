#include "runs.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <set>

#include "loader.h"

namespace emu {

namespace {

// rowsAt is how many rows of a step begin at the first of n fmas.
uint32_t rowsAt(const Inst *f, uint32_t n) {
  uint32_t rows = 0;
  for (; (rows + 1) * runColumns <= n && rows < 64; rows++) {
    const Inst *row = f + rows * runColumns;
    for (uint32_t k = 0; k < runColumns; k++)
      if (row[k].a != row[0].a || row[k].b != f[k].b) return rows;
  }
  return rows;
}

// stepsAt is how many steps of so many rows begin there: each adds to what only it takes from the one before.
uint32_t stepsAt(const Inst *f, uint32_t n, uint32_t rows, const uint32_t *next, uint32_t index) {
  const uint32_t all = rows * runColumns;
  uint32_t steps = 1;
  for (; (steps + 1) * all <= n && steps < 64; steps++) {
    if (rowsAt(f + steps * all, all) < rows) break;
    bool chained = true;
    for (uint32_t k = 0; k < all && chained; k++) chained = next[(steps - 1) * all + k] == index + steps * all + k;
    if (!chained) break;
  }
  return steps;
}

// clear: results may be written as they are done, though other sums of the part are not, and intermediate ones never.
bool clear(const Inst *f, uint32_t rows, uint32_t steps) {
  const uint32_t all = rows * runColumns;
  std::map<uint32_t, uint32_t> results; // slot -> which
  for (uint32_t k = 0; k < all; k++)
    if (!results.emplace(f[(steps - 1) * all + k].d, k).second) return false;
  for (uint32_t k = 0; k < all; k++) {
    const auto it = results.find(f[k].c);
    if (it != results.end() && it->second != k) return false;
  }
  std::set<uint32_t> sums; // on the way
  for (uint32_t k = 0; k < steps * all; k++) {
    for (uint32_t factor : {f[k].a, f[k].b})
      if (results.count(factor) || sums.count(factor)) return false;
    sums.insert(f[k].d);
  }
  return true;
}

struct Part {
  uint32_t rows = 0, steps = 0;
};
Part partAt(const Inst *f, uint32_t n, const uint32_t *next, uint32_t index) {
  Part p;
  p.rows = rowsAt(f, n) & ~1u; // two at a time
  if (!p.rows) return {};
  p.steps = stepsAt(f, n, p.rows, next, index);
  while (p.steps && !clear(f, p.rows, p.steps)) p.steps--;
  return p.steps ? p : Part{};
}

} // namespace

std::vector<uint32_t> planOf(const Inst *f, uint32_t n, const std::vector<uint32_t> &next) {
  std::vector<uint32_t> plan;
  size_t loose = 0; // where their number is, 0: the last part is none of loose ones
  for (uint32_t i = 0; i < n;) {
    const Part p = partAt(f + i, n - i, next.data() + i, i);
    if (p.steps) {
      const uint32_t all = p.rows * runColumns;
      plan.push_back(p.rows | p.steps << 16);
      for (uint32_t k = 0; k < all; k++) {
        plan.push_back(f[i + (p.steps - 1) * all + k].d);
        plan.push_back(f[i + k].c);
      }
      for (uint32_t s = 0; s < p.steps; s++, i += all) {
        for (uint32_t k = 0; k < runColumns; k++) plan.push_back(f[i + k].b);
        for (uint32_t r = 0; r < p.rows; r++) plan.push_back(f[i + r * runColumns].a);
      }
      loose = 0;
      continue;
    }
    if (!loose) {
      plan.push_back(runLoose);
      loose = plan.size();
    }
    plan[loose - 1]++;
    for (uint32_t slot : {f[i].d, f[i].a, f[i].b, f[i].c}) plan.push_back(slot);
    i++;
  }
  plan.push_back(0);
  return plan;
}

// hoistLoads moves loads from shared memory in front of the fmas they follow, so that runs become long. An fma touches
// no memory and cannot fail, so nobody sees a difference, unless the two share a register: then they stay as they are.
void Loader::hoistLoads() {
  constexpr uint32_t most = 16; // loads before one run: what they load should stay in the first cache
  const uint32_t n = (uint32_t)program->code.size();
  std::vector<size_t> from(n + 1, occurrences.size()); // occurrences of an instruction begin here
  for (size_t o = occurrences.size(); o--;) from[occurrences[o].inst] = o;
  for (uint32_t i = n; i--;) from[i] = std::min(from[i], from[i + 1]);
  std::vector<uint32_t> order, fmas;
  std::set<uint32_t> used; // registers of fmas
  uint32_t hoisted = 0;
  const auto flush = [&] {
    order.insert(order.end(), fmas.begin(), fmas.end());
    fmas.clear();
    used.clear();
    hoisted = 0;
  };
  for (uint32_t i = 0; i < n; i++) {
    const Inst &x = program->code[i];
    if (isFma(i)) {
      fmas.push_back(i);
      for (size_t o = from[i]; o < from[i + 1]; o++) used.insert(occurrences[o].reg);
      continue;
    }
    bool free = x.flow == Flow::Plain && x.cls == Class::LoadShared && !x.write && hoisted < most;
    for (size_t o = from[i]; o < from[i + 1] && free; o++) free = !used.count(occurrences[o].reg);
    if (!free) flush();
    order.push_back(i);
    hoisted++;
  }
  flush();
  std::vector<Inst> code;
  std::vector<std::string> texts;
  std::vector<Occurrence> moving;
  for (uint32_t i : order) {
    for (size_t o = from[i]; o < from[i + 1]; o++) {
      moving.push_back(occurrences[o]);
      moving.back().inst = (uint32_t)code.size();
    }
    code.push_back(program->code[i]);
    texts.push_back(std::move(program->texts[i]));
  }
  program->code = std::move(code);
  program->texts = std::move(texts);
  occurrences = std::move(moving);
}

// isFma: the i-th instruction may be one of a run.
bool Loader::isFma(size_t i) const {
  return program->code[i].flow == Flow::Plain && program->code[i].fn == ops->fma;
}

// joinRuns makes one instruction of fmas that follow each other.
void Loader::joinRuns() {
  std::vector<Inst> &code = program->code;
  struct Use {
    uint32_t reads = 0, writes = 0, reader = 0;
    bool sum = false; // it is read as c
  };
  std::vector<Use> uses(regs.size());
  std::vector<uint32_t> result(code.size(), 0); // register
  for (const Occurrence &o : occurrences) {
    Use &u = uses[o.reg];
    if (o.write) {
      u.writes++;
      result[o.inst] = o.reg;
    } else {
      u.reads++;
      u.reader = o.inst;
      u.sum = !o.where && o.field == offsetof(Inst, c);
    }
  }
  for (size_t i = 0; i < code.size();) {
    size_t end = i;
    while (end < code.size() && end - i < UINT16_MAX && isFma(end)) end++;
    if (end - i > 1) {
      std::vector<uint32_t> next(end - i, noNext);
      for (size_t k = i; k < end; k++) {
        const Use &u = uses[result[k]];
        if (u.writes == 1 && u.reads == 1 && u.sum && u.reader > k && u.reader < end)
          next[k - i] = (uint32_t)(u.reader - i);
      }
      program->runs.push_back(planOf(&code[i], (uint32_t)(end - i), next));
      for (size_t k = i; k < end; k++) code[k].more = nullptr;
      code[i].fn = ops->fmaRun;
      code[i].run = (uint16_t)(end - i);
      code[i].more = program->runs.back().data();
    }
    i = std::max(end, i + 1);
  }
}

} // namespace emu
