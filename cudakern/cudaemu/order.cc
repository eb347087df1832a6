#include "order.h"

namespace emu {

void Operations::add(Operation &operation) {
  uint32_t id = ++last;
  if (id >> blockBits >= blocks.size()) throw std::length_error("too many operations for CUDAEMU_CHECK=full");
  std::atomic<Block *> &block = blocks[id >> blockBits];
  if (!block) block = new Block;
  Record &r = record(id);
  r.stream = operation.stream;
  r.tick = operation.tick;
  r.clock = &operation.clock;
  r.label = &*labels.insert(operation.label).first;
  operation.id = id;
}

void Operations::finished(uint32_t id) {
  if (id) record(id).clock = nullptr;
}

bool Operations::before(uint32_t earlier, uint32_t later) const {
  const Record &a = record(earlier), &b = record(later);
  if (a.stream == b.stream) return a.tick <= b.tick;
  const Ticks *clock = b.clock;
  return !clock || covers(*clock, a.stream, a.tick);
}

std::string Operations::name(uint32_t id) const {
  if (!id) return "the host";
  const Record &r = record(id);
  return *r.label + " on stream " + std::to_string(r.stream) + " (operation " + std::to_string(r.tick) + ")";
}

} // namespace emu
