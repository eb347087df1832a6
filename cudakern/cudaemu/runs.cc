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

bool productOf(const Inst *first, uint32_t loads, const std::vector<uint32_t> &plan, Product *out) {
  Product &p = *out;
  p.rows = plan[0] & 0xFFFF, p.steps = plan[0] >> 16 & 0x7FFF, p.loads = loads;
  const size_t factors = 1 + 2 * p.rows * runColumns, stride = runColumns + p.rows;
  if (plan[0] & runLoose || p.rows % 4 || p.rows > Product::mostRows || p.steps > Product::mostSteps ||
      plan.size() != factors + stride * p.steps + 1)
    return false;
  p.load = first->fn;
  p.sums = plan.data() + 1;
  std::vector<bool> used(loads, false);
  // quad finds the load of four factors, and gives its address its side.
  const auto quad = [&](const uint32_t *slots, bool ofA, std::vector<Product::Quad> *to) {
    for (uint32_t l = 0; l < loads; l++) {
      const Inst &i = first[l];
      if (!std::equal(i.vec, i.vec + 4, slots)) continue;
      uint32_t n = 0;
      while (n < p.addresses.size() && first[p.addresses[n].load].a != i.a) n++;
      if (n == p.addresses.size()) p.addresses.push_back({l, ofA, (uint64_t)i.imm, (uint64_t)i.imm, 0});
      Product::Address &x = p.addresses[n];
      if (x.ofA != ofA || first[x.load].reach != i.reach || i.imm < 0) return false;
      x.load = std::min(x.load, l);
      x.low = std::min(x.low, (uint64_t)i.imm);
      x.high = std::max(x.high, (uint64_t)i.imm);
      x.bits |= (uint64_t)i.imm;
      to->push_back({n, i.imm});
      used[l] = true;
      return true;
    }
    return false;
  };
  for (uint32_t s = 0; s < p.steps; s++) {
    const uint32_t *f = plan.data() + factors + stride * s;
    for (uint32_t k = 0; k < runColumns; k += 4)
      if (!quad(f + k, false, &p.b)) return false;
    for (uint32_t r = 0; r < p.rows; r += 4)
      if (!quad(f + runColumns + r, true, &p.a)) return false;
  }
  if (p.addresses.size() > Product::mostAddresses || std::count(used.begin(), used.end(), false)) return false;
  for (uint32_t k = 0; k < p.rows * runColumns; k++) // what is loaded is no sum
    for (uint32_t l = 0; l < loads; l++)
      if (std::count(first[l].vec, first[l].vec + 4, p.sums[2 * k + 1])) return false;
  for (const Product::Address &x : p.addresses) // each has a reach of its own
    for (const Product::Address &y : p.addresses)
      if (&x != &y && first[x.load].reach == first[y.load].reach) return false;
  return true;
}

// hoistLoads moves loads from shared memory in front of the fmas they follow, so that runs become long. An fma touches
// no memory and cannot fail, so nobody sees a difference, unless the two share a register: then they stay as they are.
void Loader::hoistLoads() {
  constexpr uint32_t most = 4 * Product::mostSteps; // loads before one run
  const uint32_t n = (uint32_t)program->code.size();
  std::vector<size_t> from(n + 1, occurrences.size()); // occurrences of an instruction begin here
  for (size_t o = occurrences.size(); o--;) from[occurrences[o].inst] = o;
  for (uint32_t i = n; i--;) from[i] = std::min(from[i], from[i + 1]);
  struct Use {
    uint32_t reads = 0, writes = 0, here = 0; // here: read by the fmas at hand
  };
  std::vector<Use> uses(regs.size());
  for (const Occurrence &o : occurrences) (o.write ? uses[o.reg].writes : uses[o.reg].reads)++;
  std::vector<uint32_t> order, fmas;
  std::set<uint32_t> used; // registers of fmas
  uint32_t hoisted = 0;
  const auto each = [&](uint32_t i, auto f) {
    for (size_t o = from[i]; o < from[i + 1]; o++) f(occurrences[o]);
  };
  // productsLast moves loads that may be part of a product, since only the fmas at hand use what they load, behind the
  // others in front of these.
  const auto productsLast = [&] {
    const auto first = order.end() - hoisted;
    std::set<uint32_t> loaded;
    for (auto i = first; i != order.end(); ++i) // the first may be none: it stays where it is
      if (program->code[*i].cls == Class::LoadShared)
        each(*i, [&](const Occurrence &o) { if (o.write) loaded.insert(o.reg); });
    const auto count = [&](int by) {
      for (uint32_t i : fmas)
        each(i, [&](const Occurrence &o) { if (!o.write) uses[o.reg].here += (uint32_t)by; });
    };
    count(1);
    std::stable_partition(first, order.end(), [&](uint32_t i) {
      const Inst &x = program->code[i];
      bool part = x.cls == Class::LoadShared && x.flow == Flow::Plain && x.count == 4;
      each(i, [&](const Occurrence &o) {
        const Use &u = uses[o.reg];
        part = part && (o.write ? u.writes == 1 && u.reads == u.here : !loaded.count(o.reg));
      });
      return !part;
    });
    count(-1);
  };
  const auto flush = [&] {
    if (!fmas.empty()) productsLast();
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

// joinRuns makes one instruction of fmas that follow each other, and of the loads in front of them if it can.
void Loader::joinRuns() {
  std::vector<Inst> &code = program->code;
  const Handler load = ops->load(Space::Shared, 4, 4, 4);
  struct Use {
    uint32_t reads = 0, writes = 0, reader = 0, first = noNext; // first and last reader
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
      u.first = std::min(u.first, o.inst);
      u.reader = o.inst;
      u.sum = !o.where && o.field == offsetof(Inst, c);
    }
  }
  for (size_t i = 0; i < code.size();) {
    size_t end = i;
    while (end < code.size() && end - i < UINT16_MAX / 2 && isFma(end)) end++;
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
      // Loads in front of it whose registers nobody else reads.
      size_t first = i;
      const auto forRun = [&](uint32_t k) {
        if (code[k].fn != load || code[k].flow != Flow::Plain) return false;
        auto o = std::lower_bound(occurrences.begin(), occurrences.end(), k,
                                  [](const Occurrence &x, uint32_t inst) { return x.inst < inst; });
        for (; o != occurrences.end() && o->inst == k; ++o) {
          const Use &u = uses[o->reg];
          if (o->write && (u.writes != 1 || u.first < i || u.reader >= end)) return false;
        }
        return true;
      };
      while (first && forRun((uint32_t)first - 1)) first--;
      Product product;
      if (first < i && productOf(&code[first], (uint32_t)(i - first), program->runs.back(), &product)) {
        program->products.push_back(std::move(product));
        code[first].fn = ops->product;
        code[first].run = (uint16_t)(end - first);
        code[first].product = &program->products.back();
      }
    }
    i = std::max(end, i + 1);
  }
}

} // namespace emu
