// Lanes: gradients of filters are sums over the images of a batch. The batch is cut into a fixed number of lanes, each
// summed by itself, and the lanes' sums are added by a fixed tree, so that the order of every sum is the same whoever
// computes which lane.
#pragma once
#include <stddef.h>

#include <memory>
#include <stdexcept>
#include <string>

#include "engine.h"

namespace lanes {

struct Freed {
  void operator()(void *p) const { ck_free(p); }
};
using Memory = std::unique_ptr<float, Freed>;

inline Memory allocate(size_t floats) {
  Memory p((float *)ck_alloc(floats * sizeof(float)));
  if (!p)
    throw std::runtime_error("out of memory for " + std::to_string(floats * sizeof(float)) + " bytes of workspace");
  return p;
}

// count is into how many lanes a batch of n images is cut; lane l begins at image start(n, l).
inline int count(int n) { return n < 8 ? n : 8; }
inline int start(int n, int l) { return (int)((long)n * l / count(n)); }

// Tree adds up what lanes yield: `filters` floats of dw and `maps` of db.
class Tree {
public:
  Tree() = default;
  Tree(int n, size_t filters, int maps) : n(n), filters(filters), maps(maps) {
    for (int depth = 0; (1 << depth) < count(n); depth++) partial[depth] = allocate(filters + maps);
  }
  // sum has lane(first image, last image, dw, db) yield each lane's part. db may be null.
  template <class F> void sum(F lane, float *dw, float *db) { sum(lane, dw, db, 0, count(n), 0); }

private:
  // The former half of the lanes goes onto dw and db, the latter beside it, then both are added.
  template <class F> void sum(F lane, float *dw, float *db, int first, int last, int depth) {
    if (last - first == 1) return lane(start(n, first), start(n, last), dw, db);
    const int middle = (first + last + 1) / 2;
    float *other = partial[depth].get();
    sum(lane, dw, db, first, middle, depth + 1);
    sum(lane, other, db ? other + filters : nullptr, middle, last, depth + 1);
    ck_add(filters, dw, other);
    if (db) ck_add(maps, db, other + filters);
  }
  int n = 0;
  size_t filters = 0;
  int maps = 0;
  Memory partial[3]; // for each depth of the tree below the root
};

} // namespace lanes
