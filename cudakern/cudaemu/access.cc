// What handlers ask of the machine: addresses, and faults with all they are known by.
#include <cstdio>

#include "worker.h"

namespace emu {

void fault(Warp &w, const Inst &i, int lane, int code, const std::string &what) {
  const Worker &k = *w.block->worker;
  const Dim d = k.launch->block;
  const auto triple = [](uint32_t x, uint32_t y, uint32_t z) {
    return "(" + std::to_string(x) + "," + std::to_string(y) + "," + std::to_string(z) + ")";
  };
  std::string text =
      "kernel " + k.program->kernel + ", block " + triple(w.block->id[0], w.block->id[1], w.block->id[2]);
  if (lane >= 0) {
    const uint32_t t = w.index * lanes + (uint32_t)lane;
    text += ", thread " + triple(t % d.x, t / d.x % d.y, t / d.x / d.y);
  } else {
    text += ", warp " + std::to_string(w.index);
  }
  text += ", PTX line " + std::to_string(i.line);
  const size_t index = (size_t)(&i - k.program->code.data());
  if (index < k.program->texts.size() && !k.program->texts[index].empty()) text += " (" + k.program->texts[index] + ")";
  throw Fault{code, text + ": " + what};
}
void faultText(Warp &w, const Inst &i, int lane, int code, const char *what) { fault(w, i, lane, code, what); }

uint64_t clockOf(Warp &w) { return w.block->worker->instructions; }

bool span(Warp &w, const Inst &i, uint64_t address, Span **out) {
  const Worker &k = *w.block->worker;
  const Launch &l = *k.launch;
  const std::optional<Allocation> a = l.memory->find(address);
  if (!a) return false;
  const bool everybody = a->kind != Kind::Device && a->kind != Kind::Imported;
  const uint64_t reach = l.devices | 1ull << (l.device & 63);
  if (!everybody && !(reach >> (a->device & 63) & 1)) return false;
  Span &s = spanOf(w, i);
  s = {a->address, a->address + a->size, a->bytes, a->constant, a->shadow, a->shadowLock, a->born};
  *out = &s;
  return true;
}

uint8_t *resolve(Warp &w, const Inst &i, int lane, uint64_t address, uint32_t n, Space space, bool write) {
  char text[160];
  const auto illegal = [&](const char *what) {
    snprintf(text, sizeof text, "%s of %u bytes at 0x%llx: %s", write ? "write" : "read", n,
             (unsigned long long)address, what);
    fault(w, i, lane, IllegalAddress, text);
  };
  const uint64_t asked = address;
  if (!(n & (n - 1)) && address & (n - 1)) {
    snprintf(text, sizeof text, "%s of %u bytes at 0x%llx, which is not a multiple of %u", write ? "write" : "read", n,
        (unsigned long long)address, n);
    fault(w, i, lane, MisalignedAddress, text);
  }
  if (space == Space::Generic) {
    const uint64_t window = address & windowMask;
    space = window == sharedWindow ? Space::Shared : window == localWindow ? Space::Local : Space::Global;
    if (space != Space::Global) address &= ~windowMask;
  }
  Block &b = *w.block;
  switch (space) {
  case Space::Shared:
    if (address > b.sharedBytes || n > b.sharedBytes - address) {
      snprintf(text, sizeof text, "%s of %u bytes at shared address 0x%llx: the block has %u bytes of shared memory",
          write ? "write" : "read", n, (unsigned long long)address, b.sharedBytes);
      fault(w, i, lane, IllegalAddress, text);
    }
    return b.shared + address;
  case Space::Local:
    if (address > b.localBytes || n > b.localBytes - address) illegal("beyond the thread's local memory");
    return w.local + (size_t)lane * b.localBytes + address;
  case Space::Param:
    if (address > b.paramBytes || n > b.paramBytes - address) illegal("beyond the kernel's parameters");
    return (uint8_t *)b.params + address;
  default: break;
  }
  Span *s = &spanOf(w, i);
  if (address < s->low || address >= s->high) {
    if (!span(w, i, address, &s)) {
      const std::optional<Allocation> a = b.worker->launch->memory->find(asked);
      if (a) illegal(("memory of device " + std::to_string(a->device) + ", to which device " +
                         std::to_string(b.worker->launch->device) + " has no access").c_str());
      illegal(asked ? b.worker->launch->memory->describe(asked).c_str() : "null pointer");
    }
  }
  if (n > s->high - address)
    illegal(("runs over the end of an allocation of " + std::to_string(s->high - s->low) + " bytes").c_str());
  if (write && s->constant) illegal("constant memory");
  return s->bytes + (address - s->low);
}

} // namespace emu
