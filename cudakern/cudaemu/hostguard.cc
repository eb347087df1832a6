#include "hostguard.h"
#include "engine.h"

#include <algorithm>
#include <csignal>
#include <cstring>
#include <sys/mman.h>
#include <ucontext.h>

namespace emu {

namespace {

struct Guard {
  uint64_t from, to;         // the range, exactly
  uint64_t pages, pagesEnd;  // whole pages in it
  bool write;                // the device writes it
  CUctx_st *context;
  OperationRef operation;
};

// A lock that a signal handler may take: nobody who holds it touches guarded memory or waits for anything.
class Guards {
public:
  std::mutex mutex;
  std::vector<Guard> all;
};

Guards &guards() {
  static Guards &g = *new Guards;
  return g;
}

constexpr uint64_t page = 4096;
struct sigaction previous;

// protect gives the pages of a range the strictest protection that the guards ask for.
void protect(uint64_t from, uint64_t to) {
  auto wanted = [](uint64_t at) {
    int protection = PROT_READ | PROT_WRITE;
    for (const Guard &g : guards().all)
      if (at >= g.pages && at < g.pagesEnd) protection = g.write ? PROT_NONE : std::min(protection, PROT_READ);
    return protection;
  };
  static_assert(PROT_NONE < PROT_READ && PROT_READ < (PROT_READ | PROT_WRITE));
  for (uint64_t at = from; at < to;) {
    int protection = wanted(at);
    uint64_t end = at + page;
    while (end < to && wanted(end) == protection) end += page;
    mprotect(reinterpret_cast<void *>(at), end - at, protection);
    at = end;
  }
}

template <class Which> void drop(Which which) {
  std::lock_guard<std::mutex> lock(guards().mutex);
  std::vector<Guard> gone;
  auto &all = guards().all;
  auto keep = std::stable_partition(all.begin(), all.end(), [&](const Guard &g) { return !which(g); });
  gone.assign(keep, all.end());
  all.erase(keep, all.end());
  for (const Guard &g : gone) protect(g.pages, g.pagesEnd);
}

// ordered says whether the running host function (if any) comes before or after an operation.
bool ordered(const Operation &op) {
  const Operation *here = currentOperation();
  return here && (covers(op.clock, here->stream, here->tick) || covers(here->clock, op.stream, op.tick));
}

// trespass handles an access to guarded memory: true if the host may go on.
bool trespass(uint64_t address, bool write) {
  std::vector<Guard> hit;
  {
    std::lock_guard<std::mutex> lock(guards().mutex);
    for (const Guard &g : guards().all)
      if (address >= g.pages && address < g.pagesEnd) hit.push_back(g);
  }
  if (hit.empty()) return false;
  for (const Guard &g : hit) {
    if ((!write && !g.write) || ordered(*g.operation)) continue;
    std::string why = text("the host %s pinned memory at 0x%llx that %s on stream %u (operation %u) %s, and has not "
                           "waited for it: synchronise with an event recorded after it first",
                           write ? "writes" : "reads", (unsigned long long)address, g.operation->label.c_str(),
                           g.operation->stream, g.operation->tick, g.write ? "writes" : "reads");
    std::lock_guard<std::mutex> lock(engine().mutex);
    breakContext(*g.context, CUDA_ERROR_LAUNCH_FAILED, why);
  }
  drop([&](const Guard &g) { return address >= g.pages && address < g.pagesEnd; });
  return true;
}

void onFault(int signal, siginfo_t *info, void *where) {
  auto address = reinterpret_cast<uint64_t>(info->si_addr);
#if defined(__x86_64__)
  bool write = static_cast<ucontext_t *>(where)->uc_mcontext.gregs[REG_ERR] & 2;
#else
  bool write = true;
#endif
  if (info->si_code == SEGV_ACCERR) {
    if (trespass(address, write)) return;
    std::optional<Allocation> a = memory().find(address);
    if (a && a->bytes != reinterpret_cast<uint8_t *>(a->address))
      report(text("the host %s device memory at 0x%llx (allocation of %llu bytes on device %d): copy it instead",
                  write ? "writes" : "reads", (unsigned long long)address, (unsigned long long)a->size, a->device));
  }
  // Not ours: whoever was there before decides.
  if (previous.sa_flags & SA_SIGINFO) {
    previous.sa_sigaction(signal, info, where);
  } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
    previous.sa_handler(signal);
  } else {
    sigaction(SIGSEGV, &previous, nullptr); // the access is made again, and ends the process
  }
}

uint64_t digest(const uint8_t *bytes, size_t n) {
  uint64_t h = 0x9e3779b97f4a7c15ull ^ n, word;
  for (; n >= 8; n -= 8, bytes += 8) {
    memcpy(&word, bytes, 8);
    h = (h ^ word) * 0xff51afd7ed558ccdull;
    h ^= h >> 32;
  }
  for (; n; n--) h = (h ^ *bytes++) * 0xff51afd7ed558ccdull;
  return h ^ (h >> 29);
}

// busy says whether something enqueued may rightfully change host memory before a copy of it is made, or (readers
// too) look at it.
bool busy(uint64_t from, uint64_t to, bool readers) {
  if (engine().hostFunctions > 0 || engine().launchesOnHostMemory > 0) return true;
  std::lock_guard<std::mutex> lock(guards().mutex);
  for (const Guard &g : guards().all)
    if ((g.write || readers) && g.from < to && from < g.to) return true;
  return false;
}

} // namespace

void watchHost() {
  static std::once_flag once;
  std::call_once(once, [] {
    struct sigaction mine = {};
    mine.sa_sigaction = onFault;
    mine.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART; // on the stack for signals that Go gives its threads
    sigfillset(&mine.sa_mask);
    sigaction(SIGSEGV, &mine, &previous);
  });
}

std::function<Fault()> watchSource(uint64_t address, size_t bytes) {
  uint8_t *content = full() ? memory().bytes(address, bytes) : nullptr;
  if (!content || busy(address, address + bytes, false)) return nullptr;
  uint64_t before = digest(content, bytes);
  return [=]() -> Fault {
    uint8_t *now = memory().bytes(address, bytes);
    if (!now || digest(now, bytes) == before) return {};
    return {CUDA_ERROR_LAUNCH_FAILED,
            text("%s on stream %u reads %zu bytes of host memory at 0x%llx that the host changed after it was "
                 "enqueued: wait for it before using them again",
                 currentOperation()->label.c_str(), currentOperation()->stream, bytes, (unsigned long long)address)};
  };
}

void spoilTarget(uint64_t address, size_t bytes) {
  std::optional<Allocation> a = full() ? memory().find(address) : std::nullopt;
  if (!a || a->kind != Kind::Pinned || bytes >= 2 * page || busy(address, address + bytes, true)) return;
  if (uint8_t *content = memory().bytes(address, bytes)) memset(content, 0xFF, bytes);
}

void guardHost(CUctx_st &context, const OperationRef &operation, uint64_t address, size_t bytes, bool write) {
  if (!full()) return;
  std::optional<Allocation> a = memory().find(address);
  if (!a || a->kind != Kind::Pinned) return;
  uint64_t end = address + bytes;
  if (end == a->address + a->size) end = (end + page - 1) & ~(page - 1); // nothing else lies on the last page
  Guard g{address, address + bytes, (address + page - 1) & ~(page - 1), end & ~(page - 1), write, &context, operation};
  // Memory with one mapping cannot be kept from the host alone.
  if (g.pagesEnd < g.pages || a->bytes == reinterpret_cast<uint8_t *>(a->address)) g.pagesEnd = g.pages;
  std::lock_guard<std::mutex> lock(guards().mutex);
  guards().all.push_back(g);
  protect(g.pages, g.pagesEnd);
}

void settleGuards(const Ticks &clock) {
  drop([&](const Guard &g) { return covers(clock, g.operation->stream, g.operation->tick); });
}

void forgetGuards(uint64_t address, size_t bytes) {
  drop([&](const Guard &g) { return g.from < address + bytes && address < g.to; });
}

} // namespace emu
