// What Memory asks about operations: which comes before which, and what they are called. Kept with checks = full only.
#pragma once

#include "memory.h"
#include "stream.h"

#include <array>
#include <atomic>
#include <set>

namespace emu {

// Operations gives ids and remembers stream and place of each. `before` and `name` are called by many threads and take
// no lock: records lie in blocks that stay where they are, and an id is not known to anybody before its record is.
class Operations : public Order {
public:
  // add gives an operation its id; its clock must outlive it being run. Needs the engine's mutex.
  void add(Operation &operation);
  // finished says that the operation will never again be the later one.
  void finished(uint32_t id);
  bool before(uint32_t earlier, uint32_t later) const override;
  std::string name(uint32_t id) const override;

private:
  struct Record {
    uint32_t stream = 0, tick = 0;
    std::atomic<const Ticks *> clock{nullptr};
    const std::string *label = nullptr;
  };
  static constexpr uint32_t blockBits = 14;
  using Block = std::array<Record, 1 << blockBits>;
  const Record &record(uint32_t id) const { return (*blocks[id >> blockBits])[id & ((1 << blockBits) - 1)]; }
  Record &record(uint32_t id) { return (*blocks[id >> blockBits])[id & ((1 << blockBits) - 1)]; }

  std::array<std::atomic<Block *>, 1 << 16> blocks{}; // 2^30 operations
  uint32_t last = 0;
  std::set<std::string> labels;
};

} // namespace emu
