// Memory of the emulated devices. A device address lies in a reservation nobody may touch (PROT_NONE): a host that
// dereferences one gets SIGSEGV, as it does with a real driver. The bytes are elsewhere, in a file without a name, so
// that another process can map them (cuIpcGetMemHandle). Pinned host memory has one address for both sides; with
// checks = Full its bytes are mapped twice, so that the driver may protect the program's side while a copy is pending.
//
// With checks = Full every word carries a shadow: which bytes were ever written, which operation wrote it last and
// which ones read it since. From these come reads of what nobody wrote, races between blocks and between streams.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <vector>

namespace emu {

enum class Check : uint8_t { Off, Bounds, Full };

// Codes of CUresult that the interpreter itself yields (numbers are those of cuda.h, which it does not include).
enum Code : int {
  Success = 0,
  InvalidValue = 1,
  OutOfMemory = 2,
  InvalidImage = 200,
  NoBinaryForGpu = 209,
  InvalidPtx = 218,
  IllegalAddress = 700,
  OutOfResources = 701,
  LaunchTimeout = 702,
  MisalignedAddress = 716,
  LaunchFailed = 719,
};

// Fault is what went wrong: code 0 is nothing. text is one line: kernel, block, thread, PTX line, what.
struct Fault {
  int code = Success;
  std::string text;
  explicit operator bool() const { return code != Success; }
};

// Order says which operations of streams come before which (the driver's vector clocks). An operation is whatever
// touches memory at one place of a stream: a launch, a copy, a memset, a copy of the host's. Its id is the driver's,
// above 0 and never used twice. Methods are called from several threads at once.
class Order {
public:
  virtual ~Order() = default;
  // before: `earlier` is done, and its effects are seen, whenever `later` begins. Both are ids given before.
  virtual bool before(uint32_t earlier, uint32_t later) const = 0;
  // name for messages: "launch of lrn_forward on stream 3".
  virtual std::string name(uint32_t op) const = 0;
};

// Access is on whose behalf memory is touched. order may be null: then nothing is compared between operations.
struct Access {
  uint32_t op = 0;
  const Order *order = nullptr;
  std::string what; // for messages where order has no name: "cuMemcpyDtoH_v2"
};

enum class Kind : uint8_t {
  Device,     // cuMemAlloc: in the reservation
  Imported,   // another process's Device memory, opened by its handle: in the reservation
  Pinned,     // cuMemHostAlloc: the emulator's own, host address = device address
  Registered, // cuMemHostRegister: the program's own, host address = device address
  Managed,    // cuMemAllocManaged: like Pinned, but counted as the device's
};

// Shadow of one aligned 4-byte word of global memory. "where" packs thread of the block, barriers passed, so that
// accesses of one block are told apart too.
struct ShadowWord {
  uint32_t writeOp = 0, writeBlock = 0, writeWhere = 0;
  uint32_t readOp = 0, readBlock = 0, readWhere = 0;
  uint32_t otherReadOp = 0; // a reader of another stream that is not ordered against readOp
  uint8_t written = 0;      // bit b: byte b was ever written; where memory was born written: was made unwritten
  uint8_t writeBytes = 0;   // bytes that the last write covers
  uint8_t readBytes = 0;    // bytes that the recorded reads cover
  uint8_t readMany = 0;     // bit 0: several threads of readBlock read; bit 1: several blocks did
  // born is the allocation's: 0xF if its bytes count as written from the start, else 0.
  bool has(uint8_t bytes, uint8_t born) const { return ((written ^ born) & bytes) == bytes; }
  void give(uint8_t bytes, uint8_t born) { written = (uint8_t)(born ? written & ~bytes : written | bytes); }
  void take(uint8_t bytes, uint8_t born) { written = (uint8_t)(born ? written | bytes : written & ~bytes); }
};

struct Allocation {
  uint64_t address = 0, size = 0;
  uint8_t *bytes = nullptr; // content; for Device and Imported (and Pinned, if checks are Full) not at `address`
  int device = 0;           // ordinal of the driver's
  Kind kind = Kind::Device;
  bool constant = false;          // kernels may not write it (.const variables)
  const void *owner = nullptr;    // the driver's: context
  uint64_t serial = 0;            // of allocation, never used twice
  ShadowWord *shadow = nullptr;   // null unless checks are Full; word i is of bytes [address+4i, address+4i+4)
  std::mutex *shadowLock = nullptr;
  uint8_t born = 0; // see ShadowWord: so a large allocation's shadow needs no page before it is touched
};

// Share is what another process needs to map an allocation: 64 bytes fit a CUipcMemHandle.
struct Share {
  int32_t pid = 0, fd = -1;     // the file is /proc/<pid>/fd/<fd>
  uint64_t offset = 0, size = 0; // of the whole allocation in that file
  uint64_t address = 0;          // in the exporting process: to name it in messages
  uint64_t serial = 0;           // of the allocation there
  uint32_t device = 0, magic = 0;
  uint64_t inode = 0;
};
static_assert(sizeof(Share) <= 64, "a CUipcMemHandle has 64 bytes");

// Memory is all memory of all emulated devices of this process; its methods may be called from several threads.
class Memory {
public:
  explicit Memory(Check checks = Check::Bounds);
  ~Memory();
  Memory(const Memory &) = delete;
  Memory &operator=(const Memory &) = delete;
  Check checks() const { return level; }

  // setLimit is how many bytes a device has; used counts Device and Managed allocations, rounded up to 512 bytes.
  void setLimit(int device, uint64_t bytes);
  uint64_t limit(int device) const;
  uint64_t used(int device) const;

  // allocate yields memory full of 0xFF (as floats: NaN). align is a power of two; 0 means 512. Code: OutOfMemory,
  // InvalidValue (size 0). `constant` memory is for .const variables.
  Fault allocate(uint64_t size, int device, Kind kind, const void *owner, uint64_t *address, uint64_t align = 0,
      bool constant = false);
  // registerHost makes the program's own memory known; it stays the program's.
  Fault registerHost(void *host, uint64_t size, int device, const void *owner);
  // share and import are the two ends of an IPC handle. An imported allocation is freed like any other; the bytes live
  // until both sides have freed them.
  Fault share(uint64_t address, Share *out) const;
  Fault import(const Share &from, int device, const void *owner, uint64_t *address);
  // free forgets an allocation (any kind; Registered memory is only forgotten). address must be its first byte.
  // The range is not given out again soon: who uses it later is told that it was freed.
  Fault free(uint64_t address);
  // freeAll frees what a context owns.
  void freeAll(const void *owner);

  std::optional<Allocation> find(uint64_t address) const; // the live allocation that holds this byte
  // contains: [address, address+n) lies in one live allocation.
  bool contains(uint64_t address, uint64_t n) const;
  // bytes is where the content of [address, address+n) is; null if it does not lie in one live allocation. No checks,
  // no marks: read, write, set and copy are what operations use.
  uint8_t *bytes(uint64_t address, uint64_t n) const;
  // describe says what an address is, for messages: "16 bytes behind an allocation of 4096 bytes", "in an allocation
  // of 64 bytes that was freed", "in no allocation".
  std::string describe(uint64_t address) const;
  // tryDescribe is for handlers of signals: it gives up where a thread holds the lock.
  bool tryDescribe(uint64_t address, std::string *out) const;
  // inReservation: the address can only be a device's.
  bool inReservation(uint64_t address) const { return address - base < extent; }

  // What copies and memsets do. All look up the ranges, move the bytes and, with checks = Full, compare with and
  // record in the shadow. The host's side of read and write is a plain pointer. read reports bytes nobody wrote,
  // copy carries over which bytes were written. Code: IllegalAddress or LaunchFailed (uninitialised, races).
  Fault read(const Access &, uint64_t address, uint64_t n, void *to);
  Fault write(const Access &, uint64_t address, uint64_t n, const void *from);
  Fault set(const Access &, uint64_t address, uint64_t count, uint32_t value, int width); // width 1, 2 or 4 bytes
  Fault copy(const Access &, uint64_t to, uint64_t from, uint64_t n);
  // touch only checks and records: the host reads or writes pinned memory itself (a copy's host side, host functions).
  Fault touch(const Access &, uint64_t address, uint64_t n, bool write);
  // bornWritten says that all of a new allocation counts as written, by nobody in particular: initial content of
  // variables, and what the host writes unseen.
  void bornWritten(uint64_t address);

private:
  struct Freed {
    uint64_t address, size;
  };
  using Live = std::map<uint64_t, Allocation>; // by address
  Live::const_iterator locate(uint64_t address) const; // under lock
  std::string describeLocked(uint64_t address) const;
  bool place(uint64_t size, uint64_t align, uint64_t *address);
  void giveShadow(Allocation &);
  void release(const Allocation &);
  bool range(uint64_t address, uint64_t n, Allocation *, Fault *) const;
  Fault sweep(const Access &, const Allocation &, uint64_t address, uint64_t n, bool write);
  bool counted(const Allocation &a) const { return a.kind == Kind::Device || a.kind == Kind::Managed; }

  const Check level;
  mutable std::shared_mutex lock;
  Live live;
  std::map<int, uint64_t> limits, inUse;
  std::deque<Freed> freed; // the last ones, for messages
  uint64_t serials = 0;
  // The reservation: addresses [base, base+extent), nobody may touch them. Its content is the file, mapped at alias.
  uint64_t base = 0, extent = 0, cursor = 0;
  uint8_t *alias = nullptr;
  int file = -1;
};

} // namespace emu
