#include "uses.h"
#include "engine.h"

#include <algorithm>

namespace emu {

namespace {

// What is known of an allocation, by its serial number, which is never used twice.
struct Known {
  std::vector<OperationRef> users; // newest of each stream
  OperationRef born, freed;
  const void *owner = nullptr; // context
};

std::mutex &mutex() {
  static std::mutex &m = *new std::mutex;
  return m;
}

std::unordered_map<uint64_t, Known> &table() {
  static auto &t = *new std::unordered_map<uint64_t, Known>;
  return t;
}

// Ends are the last allocations that were freed on a stream: who uses them is told by what they were freed.
struct End {
  uint64_t address, size, serial;
  OperationRef freed;
};

std::deque<End> &ends() {
  static auto &e = *new std::deque<End>;
  return e;
}

const End *endOf(uint64_t address) {
  for (const End &e : ends())
    if (address >= e.address && address - e.address < e.size) return &e;
  return nullptr;
}

bool ended(uint64_t serial) {
  return std::any_of(ends().begin(), ends().end(), [=](const End &e) { return e.serial == serial; });
}

bool comesBefore(const OperationRef &earlier, const Ticks &clock) {
  return covers(clock, earlier->stream, earlier->tick);
}

std::string named(const OperationRef &op) { return op->label + text(" on stream %u", op->stream); }

std::string range(const Allocation &a) {
  return text("%llu bytes at 0x%llx", (unsigned long long)a.size, (unsigned long long)a.address);
}

} // namespace

Fault noteUse(uint64_t address, const OperationRef &op) {
  if (!full()) return {};
  std::optional<Allocation> a = memory().find(address);
  std::lock_guard<std::mutex> lock(mutex());
  // The stream may have carried out the free since the allocation was looked up, and the table forgotten it.
  if (!a || ended(a->serial)) {
    const End *end = endOf(address);
    if (!end) return {};
    return {CUDA_ERROR_ILLEGAL_ADDRESS, named(op) + " uses memory after " + named(end->freed) + " freed it"};
  }
  Known &k = table()[a->serial];
  k.owner = a->owner;
  if (k.freed)
    return {CUDA_ERROR_ILLEGAL_ADDRESS, named(op) + " uses " + range(*a) + " after " + named(k.freed) + " freed it"};
  if (k.born && !comesBefore(k.born, op->clock))
    return {CUDA_ERROR_LAUNCH_FAILED,
            named(op) + " uses " + range(*a) + ", which " + named(k.born) +
                " allocates, and nothing orders the two: wait for an event recorded after it"};
  for (OperationRef &user : k.users)
    if (user->stream == op->stream) {
      user = op;
      return {};
    }
  k.users.push_back(op);
  return {};
}

void noteBorn(uint64_t address, const OperationRef &op) {
  std::optional<Allocation> a = memory().find(address);
  if (!a) return;
  std::lock_guard<std::mutex> lock(mutex());
  Known &k = table()[a->serial];
  k.born = op;
  k.owner = a->owner;
}

void noteFreed(const Allocation &a, const OperationRef &op) {
  if (!full()) return;
  std::lock_guard<std::mutex> lock(mutex());
  Known &k = table()[a.serial];
  k.freed = op;
  k.owner = a.owner;
  ends().push_front({a.address, a.size, a.serial, op});
  if (ends().size() > 256) ends().pop_back();
}

bool freedOnStream(uint64_t address) {
  std::lock_guard<std::mutex> lock(mutex());
  return endOf(address);
}

bool bornOnStream(uint64_t address) {
  std::optional<Allocation> a = memory().find(address);
  if (!a) return false;
  std::lock_guard<std::mutex> lock(mutex());
  auto at = table().find(a->serial);
  return at != table().end() && at->second.born;
}

Fault stillUsed(const char *call, const Allocation &a) {
  if (!full()) return {};
  std::vector<OperationRef> users;
  {
    std::lock_guard<std::mutex> lock(mutex());
    auto at = table().find(a.serial);
    if (at == table().end()) return {};
    users = at->second.users;
    table().erase(at);
  }
  std::lock_guard<std::mutex> lock(engine().mutex);
  for (const OperationRef &user : users)
    if (!comesBefore(user, engine().host))
      return {CUDA_ERROR_LAUNCH_FAILED, std::string(call) + " frees " + range(a) + " that " + named(user) +
                                            " uses, and the host has not waited for it: synchronise first"};
  return {};
}

void forgetUse(const Allocation &a) {
  std::lock_guard<std::mutex> lock(mutex());
  table().erase(a.serial);
}

void forgetUses(const CUctx_st *context) {
  std::lock_guard<std::mutex> lock(mutex());
  std::erase_if(table(), [=](const auto &entry) { return entry.second.owner == context; });
}

Fault usedBeside(const Allocation &a) {
  if (!full()) return {};
  std::lock_guard<std::mutex> lock(mutex());
  auto at = table().find(a.serial);
  if (at == table().end() || !at->second.freed) return {};
  const OperationRef &freed = at->second.freed;
  for (const OperationRef &user : at->second.users)
    if (!comesBefore(user, freed->clock))
      return {CUDA_ERROR_LAUNCH_FAILED, named(freed) + " frees " + range(a) + " that " + named(user) +
                                            " uses, and nothing orders the two: wait for an event recorded after it"};
  return {};
}

} // namespace emu
