// Counts of what kernels execute, by class of instruction. From them comes the bound on a real GPU's time.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace emu {

// Class of an instruction, as the pipes of a GPU tell them apart.
enum class Class : uint8_t {
  Ffma,      // fma.f32
  Float,     // other arithmetic in f32
  Double,    // arithmetic in f64
  Special,   // ex2, lg2, rcp, rsqrt, sqrt, sin, cos, tanh, div
  Integer,   // integer and logic
  Convert,   // cvt
  Move,      // mov, selp, cvta, ld.param
  Compare,   // setp, set
  LoadGlobal,
  StoreGlobal,
  LoadShared,
  StoreShared,
  Local,     // ld and st of local memory
  Constant,  // ld.const
  Atomic,    // atom, red
  AsyncCopy, // cp.async (bytes: from global to shared)
  Mma,       // mma.sync
  Shuffle,   // shfl, vote, match, redux
  Sync,      // bar, membar, fence, cp.async.wait
  Control,   // bra, ret, call
  Count_,
};
constexpr int classes = (int)Class::Count_;
const char *className(Class); // "ffma", "ld.global", ...

// Tally is what one shape of launch of one kernel has executed, summed over `launches`.
struct Tally {
  uint64_t launches = 0, blocks = 0, threads = 0;
  std::array<uint64_t, classes> warp{};   // instructions issued: one for a warp, however many lanes take part
  std::array<uint64_t, classes> thread{}; // lanes that take part
  std::array<uint64_t, classes> bytes{};  // asked for by those lanes; 0 for classes that touch no memory
  // Only with Counts::detail: 32-byte sectors of global memory touched by each instruction, and passes through the
  // banks of shared memory (1 a conflict-free 128 bytes).
  uint64_t sectorsLoaded = 0, sectorsStored = 0, sharedPasses = 0, sharedPassesIdeal = 0;
  void add(const Tally &);
};

// Counts gathers tallies by kernel and shape ("grid 8,8,1 block 256,1,1 shared 0"). Thread-safe.
class Counts {
public:
  bool detail = false; // sectors and bank passes too; costs some speed
  void add(const std::string &kernel, const std::string &shape, const Tally &);
  std::map<std::string, std::map<std::string, Tally>> all() const;
  std::string json() const; // {"kernel": {"shape": {"launches": 1, "warp": {"ffma": 2, ...}, ...}}}
  bool write(const std::string &path) const;

private:
  mutable std::mutex lock;
  std::map<std::string, std::map<std::string, Tally>> tallies;
};

} // namespace emu
