// Threads that a device's ops are cut among. What a piece yields depends on the piece alone, and where pieces are sums
// they are the same however many threads there are: threads never reach the bits.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace threads {

// Team is n threads: n-1 of its own, and whoever calls. It outlives the ops that use it.
class Team {
public:
  // fine cuts ops into the smallest pieces there can be: for tests.
  explicit Team(int n, bool fine = false);
  ~Team(); // ends and joins them
  Team(const Team &) = delete;
  int size() const { return n; }
  // enough is how much work is worth a piece of its own, where that much would do.
  size_t enough(size_t much) const { return fine ? 1 : much; }

  // run calls f(piece, thread) once for every piece in [0, pieces), several at a time, and returns when all are done.
  // No two pieces have the same thread in [0, size()) at once. The first exception is thrown to the caller, behind the
  // last piece. A second caller at the same time (an op of another stream) does its pieces alone, as thread 0: memory
  // belongs to ops, and an op is one stream's.
  template <class F> void run(int pieces, F f) {
    if (pieces < 2 || n < 2 || !busy.try_lock()) {
      for (int i = 0; i < pieces; i++) f(i, 0);
      return;
    }
    std::lock_guard<std::mutex> hold(busy, std::adopt_lock);
    share(pieces, [](void *f, int piece, int thread) { (*(F *)f)(piece, thread); }, &f);
  }

  // ranges cuts [0, all) into equal ranges, each beginning at a multiple of `unit` and no shorter than `least`, and
  // calls f(first, last). It is for what comes out the same however it is cut.
  template <class F> void ranges(size_t all, size_t unit, size_t least, F f) {
    const size_t units = (all + unit - 1) / unit, most = all / least, want = 4 * n;
    const size_t pieces = n < 2 ? 1 : most < want ? most : want;
    if (pieces < 2) return f((size_t)0, all);
    const auto edge = [&](size_t i) { return i == pieces ? all : units * i / pieces * unit; };
    run((int)pieces, [&](int i, int) {
      if (edge(i) < edge(i + 1)) f(edge(i), edge(i + 1));
    });
  }

  static constexpr size_t worth = 1 << 14; // floats
  // floats cuts n floats; images cuts the d.n images of an op, of so many floats each, and calls f(op for some of them,
  // the first of those).
  template <class F> void floats(size_t n, F f) { ranges(n, enough(16), enough(worth), f); }
  template <class D, class F> void images(const D &d, size_t floats, F f) {
    ranges(d.n, 1, enough(worth / floats + 1), [&](size_t first, size_t last) {
      D part = d;
      part.n = (int)(last - first);
      f(part, first);
    });
  }

private:
  using Call = void (*)(void *f, int piece, int thread);
  void share(int pieces, Call call, void *f);
  void work(int thread);
  void serve(int thread);
  void end();

  const int n, spins;
  const bool fine;
  std::mutex busy; // held while pieces are done
  std::vector<std::thread> own;

  // The pieces at hand; written only while no thread is at work.
  Call call = nullptr;
  void *f = nullptr;
  int pieces = 0;
  std::atomic<int> next{0};
  std::exception_ptr failed; // under mutex

  std::mutex mutex;
  std::condition_variable begun, done;
  std::atomic<unsigned> round{0};
  std::atomic<int> working{0}; // own threads that have not finished the round
  std::atomic<bool> closing{false};
};

} // namespace threads

// What C knows it as.
struct ck_team : threads::Team {
  using Team::Team;
};
