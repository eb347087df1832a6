#include "memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <stdexcept>

#include "checks.h"

namespace emu {

namespace {

constexpr uint64_t page = 4096, granule = 512;
constexpr size_t remembered = 4096; // freed allocations that messages may name
constexpr uint32_t shareMagic = 0xC010AADE;

uint64_t up(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

std::string system(const std::string &what) { return what + ": " + strerror(errno); }

std::string hex(uint64_t a) {
  char text[32];
  snprintf(text, sizeof text, "0x%llx", (unsigned long long)a);
  return text;
}

} // namespace

Memory::Memory(Check checks) : level(checks) {
  file = memfd_create("cudaemu", MFD_CLOEXEC);
  if (file < 0) throw std::runtime_error(system("cudaemu: memfd_create"));
  for (extent = 1ull << 40; extent >= 1ull << 32; extent >>= 1) { // as much as limits of address space allow
    void *reserved = mmap(nullptr, extent, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED) continue;
    void *content = MAP_FAILED;
    if (!ftruncate(file, (off_t)extent))
      content = mmap(nullptr, extent, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
    if (content != MAP_FAILED) {
      madvise(content, extent, MADV_DONTDUMP);
      base = (uint64_t)reserved;
      alias = (uint8_t *)content;
      cursor = base + granule;
      return;
    }
    munmap(reserved, extent);
  }
  close(file);
  throw std::runtime_error(system("cudaemu: no 4 GiB of address space for the devices' memory"));
}

Memory::~Memory() {
  while (!live.empty()) {
    release(live.begin()->second);
    live.erase(live.begin());
  }
  munmap((void *)base, extent);
  munmap(alias, extent);
  close(file);
}

void Memory::setLimit(int device, uint64_t bytes) {
  std::unique_lock<std::shared_mutex> hold(lock);
  limits[device] = bytes;
}
uint64_t Memory::limit(int device) const {
  std::shared_lock<std::shared_mutex> hold(lock);
  const auto it = limits.find(device);
  return it == limits.end() ? 0 : it->second;
}
uint64_t Memory::used(int device) const {
  std::shared_lock<std::shared_mutex> hold(lock);
  const auto it = inUse.find(device);
  return it == inUse.end() ? 0 : it->second;
}

// place finds addresses that were not in use for as long as can be: after the last ones, and from the start again when
// the reservation has been gone through. A gap follows each allocation, so that who runs over its end meets nothing.
bool Memory::place(uint64_t size, uint64_t align, uint64_t *address) {
  const uint64_t end = base + extent;
  for (int round = 0; round < 2; round++) {
    while (cursor < end) {
      const uint64_t at = up(cursor, align), last = at + up(size, granule) + granule;
      if (last > end) break;
      auto it = live.lower_bound(at);
      if (it != live.begin() && std::prev(it)->second.address + std::prev(it)->second.size > at) --it;
      if (it == live.end() || it->first >= last) {
        cursor = last;
        *address = at;
        return true;
      }
      cursor = up(it->second.address + it->second.size, granule) + granule;
    }
    cursor = base + granule;
  }
  return false;
}

void Memory::giveShadow(Allocation &a) {
  if (level != Check::Full) return;
  const uint64_t bytes = up((a.size + 3) / 4 * sizeof(ShadowWord), page);
  void *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  a.shadow = (ShadowWord *)p; // zeros are what a ShadowWord begins with
  a.shadowLock = new std::mutex;
}

Fault Memory::allocate(uint64_t size, int device, Kind kind, const void *owner, uint64_t *address, uint64_t align,
    bool constant) {
  if (!size || !address) return {InvalidValue, "an allocation of 0 bytes"};
  if (kind == Kind::Imported || kind == Kind::Registered) return {InvalidValue, "memory of this kind is not allocated"};
  std::unique_lock<std::shared_mutex> hold(lock);
  Allocation a;
  a.size = size;
  a.device = device;
  a.kind = kind;
  a.owner = owner;
  a.constant = constant;
  a.serial = ++serials;
  const uint64_t charge = up(size, granule);
  if (size > extent || (counted(a) && limits.count(device) && inUse[device] + charge > limits[device]))
    return {OutOfMemory, std::to_string(size) + " bytes on device " + std::to_string(device) + ": " +
                             std::to_string(inUse[device]) + " of " + std::to_string(limits[device]) + " are in use"};
  if (kind == Kind::Device) {
    if (!place(size, std::max(align, granule), &a.address))
      return {OutOfMemory, "the address space of devices is full"};
    a.bytes = alias + (a.address - base);
  } else {
    const uint64_t length = up(size, page);
    const bool twice = level == Check::Full;
    const int fd = twice ? memfd_create("cudaemu-pinned", MFD_CLOEXEC) : -1;
    void *first = MAP_FAILED, *second = MAP_FAILED;
    if (!twice) first = second = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    else if (fd >= 0 && !ftruncate(fd, (off_t)length)) {
      first = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
      second = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    if (fd >= 0) close(fd);
    if (first == MAP_FAILED || second == MAP_FAILED) return {OutOfMemory, system("pinned memory")};
    a.address = (uint64_t)first;
    a.bytes = (uint8_t *)second;
  }
  try {
    giveShadow(a);
  } catch (const std::bad_alloc &) {
    release(a);
    return {OutOfMemory, "no memory for the shadow of " + std::to_string(size) + " bytes"};
  }
  memset(a.bytes, 0xFF, size);
  if (counted(a)) inUse[device] += charge;
  live[a.address] = a;
  *address = a.address;
  return {};
}

Fault Memory::registerHost(void *host, uint64_t size, int device, const void *owner) {
  if (!host || !size) return {InvalidValue, "registering no memory"};
  std::unique_lock<std::shared_mutex> hold(lock);
  const uint64_t at = (uint64_t)host;
  auto it = live.lower_bound(at);
  if (it != live.begin() && std::prev(it)->second.address + std::prev(it)->second.size > at) --it;
  if (it != live.end() && it->first < at + size)
    return {InvalidValue, "memory at " + hex(at) + " is registered or pinned already"};
  Allocation a;
  a.address = at;
  a.size = size;
  a.bytes = (uint8_t *)host;
  a.device = device;
  a.kind = Kind::Registered;
  a.owner = owner;
  a.serial = ++serials;
  giveShadow(a);
  live[at] = a;
  return {};
}

Fault Memory::share(uint64_t address, Share *out) const {
  std::shared_lock<std::shared_mutex> hold(lock);
  const auto it = locate(address);
  if (it == live.end()) return {InvalidValue, hex(address) + " is " + describeLocked(address)};
  const Allocation &a = it->second;
  if (a.kind != Kind::Device) return {InvalidValue, "only memory of cuMemAlloc can be shared between processes"};
  struct stat st;
  if (fstat(file, &st)) return {InvalidValue, system("memory of the devices")};
  *out = Share{};
  out->magic = shareMagic;
  out->pid = (int32_t)getpid();
  out->fd = file;
  out->inode = st.st_ino;
  out->offset = a.address - base;
  out->size = a.size;
  out->address = a.address;
  out->serial = a.serial;
  out->device = (uint32_t)a.device;
  return {};
}

Fault Memory::import(const Share &from, int device, const void *owner, uint64_t *address) {
  if (from.magic != shareMagic || !from.size || from.size > extent)
    return {InvalidValue, "this is no handle of shared memory"};
  const std::string path = "/proc/" + std::to_string(from.pid) + "/fd/" + std::to_string(from.fd);
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return {InvalidValue, system("memory of process " + std::to_string(from.pid) + " (" + path + ")")};
  struct stat st;
  const bool right = !fstat(fd, &st) && st.st_ino == from.inode;
  const uint64_t first = from.offset / page * page, length = up(from.offset + from.size, page) - first;
  void *p = right ? mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)first) : MAP_FAILED;
  close(fd);
  if (!right) return {InvalidValue, "the process that shared this memory has ended"};
  if (p == MAP_FAILED) return {OutOfMemory, system("mapping shared memory")};
  std::unique_lock<std::shared_mutex> hold(lock);
  Allocation a;
  a.size = from.size;
  a.bytes = (uint8_t *)p + (from.offset - first);
  a.device = device;
  a.kind = Kind::Imported;
  a.owner = owner;
  a.serial = ++serials;
  if (!place(from.size, granule, &a.address)) {
    munmap(p, length);
    return {OutOfMemory, "the address space of devices is full"};
  }
  giveShadow(a);
  a.born = 0xF; // who wrote it is not known here
  live[a.address] = a;
  *address = a.address;
  return {};
}

// release gives back what an allocation is made of.
void Memory::release(const Allocation &a) {
  if (a.shadow) {
    munmap(a.shadow, up((a.size + 3) / 4 * sizeof(ShadowWord), page));
    delete a.shadowLock;
  }
  switch (a.kind) {
  case Kind::Device: {
    const uint64_t first = up(a.address - base, page), last = (a.address - base + a.size) / page * page;
    if (last > first) fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)first, (off_t)(last - first));
    break;
  }
  case Kind::Imported: {
    uint8_t *const first = (uint8_t *)((uint64_t)a.bytes / page * page);
    munmap(first, up((uint64_t)(a.bytes - first) + a.size, page));
    break;
  }
  case Kind::Pinned:
  case Kind::Managed:
    munmap((void *)a.address, up(a.size, page));
    if (a.bytes != (uint8_t *)a.address) munmap(a.bytes, up(a.size, page));
    break;
  case Kind::Registered: break;
  }
}

Fault Memory::free(uint64_t address) {
  std::unique_lock<std::shared_mutex> hold(lock);
  const auto it = live.find(address);
  if (it == live.end()) return {InvalidValue, hex(address) + " is " + describeLocked(address)};
  const Allocation a = it->second;
  live.erase(it);
  if (counted(a)) inUse[a.device] -= up(a.size, granule);
  freed.push_back({a.address, a.size});
  if (freed.size() > remembered) freed.pop_front();
  release(a);
  return {};
}

void Memory::freeAll(const void *owner) {
  std::vector<uint64_t> all;
  {
    std::shared_lock<std::shared_mutex> hold(lock);
    for (const auto &[address, a] : live)
      if (a.owner == owner) all.push_back(address);
  }
  for (uint64_t address : all) free(address);
}

Memory::Live::const_iterator Memory::locate(uint64_t address) const {
  auto it = live.upper_bound(address);
  if (it == live.begin()) return live.end();
  --it;
  return address - it->first < it->second.size ? it : live.end();
}

std::optional<Allocation> Memory::find(uint64_t address) const {
  std::shared_lock<std::shared_mutex> hold(lock);
  const auto it = locate(address);
  if (it == live.end()) return std::nullopt;
  return it->second;
}

bool Memory::contains(uint64_t address, uint64_t n) const { return bytes(address, n) != nullptr; }

uint8_t *Memory::bytes(uint64_t address, uint64_t n) const {
  Allocation a;
  return range(address, n, &a, nullptr) ? a.bytes + (address - a.address) : nullptr;
}

bool Memory::range(uint64_t address, uint64_t n, Allocation *out, Fault *f) const {
  std::shared_lock<std::shared_mutex> hold(lock);
  const auto it = locate(address);
  if (it != live.end() && n <= it->second.size - (address - it->first)) {
    *out = it->second;
    return true;
  }
  if (f && it != live.end())
    *f = {IllegalAddress, std::to_string(n) + " bytes at " + hex(address) + " run over the end of an allocation of " +
                              std::to_string(it->second.size) + " bytes"};
  else if (f)
    *f = {IllegalAddress, std::to_string(n) + " bytes at " + hex(address) + ": " + describeLocked(address)};
  return false;
}

std::string Memory::describe(uint64_t address) const {
  std::shared_lock<std::shared_mutex> hold(lock);
  return describeLocked(address);
}

bool Memory::tryDescribe(uint64_t address, std::string *out) const {
  if (!lock.try_lock_shared()) return false;
  *out = describeLocked(address);
  lock.unlock_shared();
  return true;
}

std::string Memory::describeLocked(uint64_t address) const {
  auto it = live.upper_bound(address);
  if (it != live.begin()) {
    const Allocation &a = std::prev(it)->second;
    const uint64_t offset = address - a.address;
    const std::string size = std::to_string(a.size) + " bytes";
    if (offset < a.size) return std::to_string(offset) + " bytes into an allocation of " + size;
  }
  for (auto f = freed.rbegin(); f != freed.rend(); ++f)
    if (address - f->address < f->size)
      return "in an allocation of " + std::to_string(f->size) + " bytes that was freed";
  if (it != live.begin()) {
    const Allocation &a = std::prev(it)->second;
    const uint64_t behind = address - a.address - a.size;
    if (behind < 1 << 20)
      return std::to_string(behind) + " bytes behind an allocation of " + std::to_string(a.size) + " bytes";
  }
  if (it != live.end() && it->second.address - address < 1 << 20)
    return std::to_string(it->second.address - address) + " bytes before an allocation of " +
           std::to_string(it->second.size) + " bytes";
  return "in no allocation";
}

// sweep compares an access of the driver's with the shadow, and records it.
Fault Memory::sweep(const Access &by, const Allocation &a, uint64_t address, uint64_t n, bool write) {
  if (!a.shadow || !n) return {};
  const Toucher t{by.op, ~0u, 0, 0, by.op ? by.order : nullptr, a.born};
  std::lock_guard<std::mutex> hold(*a.shadowLock);
  for (uint64_t at = address, end = address + n; at < end;) {
    const uint64_t offset = at - a.address, word = offset / 4;
    const uint64_t stop = std::min(a.address + 4 * word + 4, end);
    const uint8_t bytes = (uint8_t)(((1u << (stop - at)) - 1) << (offset & 3));
    const Clash c = touchWord(a.shadow[word], bytes, t, write, false, false);
    if (c.kind) {
      const std::string who = by.order && by.op ? by.order->name(by.op) : by.what;
      return {LaunchFailed, (who.empty() ? "" : who + ": ") + clashText(c, t, at)};
    }
    at = stop;
  }
  return {};
}

Fault Memory::read(const Access &by, uint64_t address, uint64_t n, void *to) {
  if (!n) return {};
  Allocation a;
  Fault f;
  if (!range(address, n, &a, &f)) return f;
  f = sweep(by, a, address, n, false);
  if (!f) memcpy(to, a.bytes + (address - a.address), n);
  return f;
}

Fault Memory::write(const Access &by, uint64_t address, uint64_t n, const void *from) {
  if (!n) return {};
  Allocation a;
  Fault f;
  if (!range(address, n, &a, &f)) return f;
  f = sweep(by, a, address, n, true);
  if (!f) memcpy(a.bytes + (address - a.address), from, n);
  return f;
}

Fault Memory::set(const Access &by, uint64_t address, uint64_t count, uint32_t value, int width) {
  if (!count) return {};
  if (width != 1 && width != 2 && width != 4) return {InvalidValue, "memset of a width that is none"};
  Allocation a;
  Fault f;
  if (count > extent || !range(address, count * (uint64_t)width, &a, &f))
    return f ? f : Fault{InvalidValue, "memset of too much"};
  f = sweep(by, a, address, count * (uint64_t)width, true);
  if (f) return f;
  uint8_t *p = a.bytes + (address - a.address);
  if (width == 1 || !value) memset(p, (int)(value & 0xFF), count * (uint64_t)width);
  else
    for (uint64_t i = 0; i < count; i++) memcpy(p + i * (uint64_t)width, &value, (size_t)width);
  return {};
}

Fault Memory::copy(const Access &by, uint64_t to, uint64_t from, uint64_t n) {
  if (!n) return {};
  Allocation a, b;
  Fault f;
  if (!range(from, n, &a, &f) || !range(to, n, &b, &f)) return f;
  // What nobody wrote may be copied: it stays what nobody wrote.
  std::vector<bool> missing;
  if (a.shadow) {
    std::lock_guard<std::mutex> hold(*a.shadowLock);
    for (uint64_t i = 0; i < n; i++) {
      const uint64_t offset = from + i - a.address;
      ShadowWord &w = a.shadow[offset / 4];
      const uint8_t byte = (uint8_t)(1 << (offset & 3));
      if (w.has(byte, a.born)) continue;
      if (missing.empty()) missing.resize(n);
      missing[i] = true;
      w.give(byte, a.born);
    }
  }
  f = sweep(by, a, from, n, false);
  if (!f) f = sweep(by, b, to, n, true);
  for (uint64_t i = 0; i < missing.size(); i++) {
    if (!missing[i]) continue;
    const auto forget = [&](const Allocation &x, uint64_t address) {
      if (!x.shadow) return;
      std::lock_guard<std::mutex> hold(*x.shadowLock);
      const uint64_t offset = address + i - x.address;
      x.shadow[offset / 4].take((uint8_t)(1 << (offset & 3)), x.born);
    };
    forget(a, from);
    if (!f) forget(b, to);
  }
  if (!f) memmove(b.bytes + (to - b.address), a.bytes + (from - a.address), n);
  return f;
}

Fault Memory::touch(const Access &by, uint64_t address, uint64_t n, bool write) {
  if (!n) return {};
  Allocation a;
  Fault f;
  if (!range(address, n, &a, &f)) return f;
  return sweep(by, a, address, n, write);
}

void Memory::bornWritten(uint64_t address) {
  std::unique_lock<std::shared_mutex> hold(lock);
  const auto it = live.find(address);
  if (it != live.end()) it->second.born = 0xF;
}

} // namespace emu
