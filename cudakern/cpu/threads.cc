#include "threads.h"

#include <sched.h>

extern "C" void omp_set_num_threads(int);

namespace threads {

namespace {

inline void rest() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::atomic_signal_fence(std::memory_order_seq_cst);
#endif
}

// A thread waits a moment before it sleeps, since most rounds follow one another: some tens of microseconds, which is
// what waking up takes. Where there are more threads than processors it sleeps at once, others need the time.
constexpr int moment = 1000;

int processors() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

} // namespace

Team::Team(int n, bool fine) : n(n), spins(n <= processors() ? moment : 0), fine(fine) {
  try {
    for (int i = 1; i < n; i++) own.emplace_back(&Team::serve, this, i);
  } catch (...) {
    end();
    throw;
  }
}

Team::~Team() { end(); }

void Team::end() {
  {
    std::lock_guard<std::mutex> hold(mutex);
    closing = true;
  }
  begun.notify_all();
  for (auto &t : own) t.join();
}

void Team::work(int thread) {
  for (int i; (i = next.fetch_add(1, std::memory_order_relaxed)) < pieces;) {
    try {
      call(f, i, thread);
    } catch (...) {
      std::lock_guard<std::mutex> hold(mutex);
      if (!failed) failed = std::current_exception();
    }
  }
}

void Team::share(int count, Call c, void *what) {
  call = c;
  f = what;
  pieces = count;
  failed = nullptr;
  next = 0;
  working = (int)own.size();
  {
    std::lock_guard<std::mutex> hold(mutex);
    round++;
  }
  begun.notify_all();
  work(0);
  for (int i = 0; working > 0 && i < spins; i++) rest();
  if (working > 0) {
    std::unique_lock<std::mutex> hold(mutex);
    done.wait(hold, [&] { return working == 0; });
  }
  if (failed) std::rethrow_exception(failed);
}

void Team::serve(int thread) {
  omp_set_num_threads(1); // of this thread: oneDNN must not make a team of its own
  for (unsigned seen = 0;; seen++) {
    for (int i = 0; round == seen && !closing && i < spins; i++) rest();
    if (round == seen) {
      std::unique_lock<std::mutex> hold(mutex);
      begun.wait(hold, [&] { return round != seen || closing; });
      if (round == seen) return;
    }
    work(thread);
    if (--working == 0) {
      std::lock_guard<std::mutex> hold(mutex);
      done.notify_one();
    }
  }
}

} // namespace threads
