// The interpreter: runs a kernel of a module, block by block, 32 lanes an instruction.
#pragma once
#include <cstdint>
#include <memory>

#include "counts.h"
#include "memory.h"
#include "ptx.h"

namespace emu {

struct Dim {
  uint32_t x = 1, y = 1, z = 1;
};

// Launch is one cuLaunchKernel. Everything it points to must outlive run().
struct Launch {
  const Kernel *kernel = nullptr;
  Dim grid, block;
  uint32_t dynamicShared = 0;        // bytes
  const uint8_t *params = nullptr;   // kernel->paramBytes bytes, captured when the launch was enqueued
  Memory *memory = nullptr;
  int device = 0;                    // whose memory kernels reach,
  uint64_t devices = 1;              // bit d: memory of device d too (peer access); the bit of `device` is implied
  Check checks = Check::Bounds;      // Full only if memory->checks() is Full too
  uint64_t seed = 0;                 // 0: blocks and warps in ascending order; else shuffled by it
  int threads = 1;                   // host threads to run blocks on; results do not depend on it
  Access access;                     // this operation's id and order, for races between streams
  Counts *counts = nullptr;          // may be null
  uint64_t limit = 0;                // warp instructions a block may take before LaunchTimeout; 0: 2^36
};

// Limits of a launch, as a GPU has them.
struct Limits {
  uint32_t maxThreads = 1024, maxBlock[3] = {1024, 1024, 64}, maxGrid[3] = {2147483647u, 65535, 65535};
  uint32_t maxShared = 48 << 10; // static + dynamic, unless the function's attribute allows more
};
// validate checks shape and resources before anything is enqueued: InvalidValue or OutOfResources with a reason.
Fault validate(const Kernel &, Dim grid, Dim block, uint32_t dynamicShared, const Limits &);

// run executes the launch and returns when all blocks are done, or at the first fault. It may be called from several
// threads at once.
Fault run(const Launch &);

// SimdName is which build of the handlers this machine uses: "avx2" or "portable".
const char *simdName();

} // namespace emu
