#include "runs.h"

#include <set>

namespace emu {

namespace {

// rowsAt is how many rows of a block begin at the first of n fmas. A block reads its b before its first row and the
// row's a before the row, so a row that reads one of them after it was written belongs to no block, or to the next.
uint32_t rowsAt(const Inst *f, uint32_t n) {
  std::set<uint32_t> written; // by the block so far
  uint32_t rows = 0;
  for (; (rows + 1) * runColumns <= n; rows++) {
    const Inst *row = f + rows * runColumns;
    for (uint32_t k = 0; k < runColumns; k++) {
      if (row[k].a != row[0].a || row[k].b != f[k].b || written.count(row[k].b)) return rows;
      for (uint32_t before = 0; before < k; before++)
        if (row[before].d == row[0].a) return rows;
      written.insert(row[k].d);
    }
  }
  return rows;
}

} // namespace

std::vector<uint32_t> planOf(const Inst *f, uint32_t n) {
  std::vector<uint32_t> plan;
  for (uint32_t i = 0; i < n;) {
    if (const uint32_t rows = rowsAt(f + i, n - i)) {
      plan.push_back(rows);
      for (uint32_t k = 0; k < runColumns; k++) plan.push_back(f[i + k].b);
      for (uint32_t r = 0; r < rows; r++)
        for (uint32_t k = 0; k < runColumns; k++, i++) {
          if (k == 0) plan.push_back(f[i].a);
          plan.push_back(f[i].d);
          plan.push_back(f[i].c);
        }
      continue;
    }
    const size_t count = plan.size();
    plan.push_back(runLoose);
    do {
      plan[count]++;
      for (uint32_t slot : {f[i].d, f[i].a, f[i].b, f[i].c}) plan.push_back(slot);
      i++;
    } while (i < n && !rowsAt(f + i, n - i));
  }
  plan.push_back(0);
  return plan;
}

} // namespace emu
