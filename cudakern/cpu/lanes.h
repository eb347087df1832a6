// Lanes: gradients of filters are sums over the images of a batch. The batch is cut into a fixed number of lanes, each
// summed by itself by one thread, and the lanes' sums are added by a fixed tree, so that the order of every sum is the
// same whoever computes which lane.
#pragma once
#include <stddef.h>

#include <memory>
#include <stdexcept>
#include <string>

#include "engine.h"
#include "threads.h"

namespace lanes {

struct Freed {
  void operator()(void *p) const { ck_free(p); }
};
using Memory = std::unique_ptr<float, Freed>;

inline Memory allocate(size_t floats) {
  Memory p((float *)ck_alloc((floats ? floats : 1) * sizeof(float)));
  if (!p)
    throw std::runtime_error("out of memory for " + std::to_string(floats * sizeof(float)) + " bytes of workspace");
  return p;
}

constexpr int most = CK_LANES;

// count is into how many lanes a batch of n images is cut; lane l begins at image start(n, l).
inline int count(int n) { return n < most ? n : most; }
inline int start(int n, int l) { return (int)((long)n * l / count(n)); }

// Sum adds up what lanes yield: `filters` floats of dw and `maps` of db.
class Sum {
public:
  Sum(threads::Team *team, int n, size_t filters, int maps)
      : team(team), n(n), filters(filters), maps(maps), size((filters + maps + line - 1) / line * line),
        others(allocate((count(n) - 1) * size)) {}

  // run has lane(first image, last image, dw, db, thread) yield each lane's part. db may be null.
  template <class F> void run(F lane, float *dw, float *db) {
    team->run(count(n), [&](int l, int thread) {
      float *w = l ? other(l) : dw;
      lane(start(n, l), start(n, l + 1), w, l && db ? w + filters : db, thread);
    });
    team->floats(filters, [&](size_t a, size_t b) {
      for (size_t at = a; at < b; at += piece) fold(0, count(n), dw + at, at, b - at < piece ? b - at : piece);
    });
    if (db) fold(0, count(n), db, filters, maps);
  }

private:
  static constexpr size_t line = 16, piece = 2048;
  float *other(int l) const { return others.get() + (l - 1) * size; }
  // The former half of the lanes is summed up, the latter likewise, then both are added. to is lane 0's.
  void fold(int first, int last, float *to, size_t at, size_t floats) const {
    if (last - first == 1) return;
    const int middle = (first + last + 1) / 2;
    fold(first, middle, to, at, floats);
    fold(middle, last, to, at, floats);
    ck_add_alone(floats, first ? other(first) + at : to, other(middle) + at);
  }
  threads::Team *team;
  int n;
  size_t filters;
  int maps;
  size_t size; // of a lane's part
  Memory others; // than the first lane
};

} // namespace lanes
