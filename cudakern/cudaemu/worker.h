// Worker: what one host thread needs to run blocks of a launch.
#pragma once
#include <vector>

#include "checks.h"
#include "decode.h"
#include "interp.h"
#include "machine.h"

namespace emu {

struct Worker {
  const Launch *launch = nullptr;
  const Program *program = nullptr;
  Block block;
  std::vector<Warp> warps;
  std::vector<char> registerFile, sharedFile;
  std::vector<uint8_t> localFile, localWritten;
  std::vector<SharedWord> sharedShadow;
  std::vector<Span> spans;                                // by Inst::cache
  std::vector<Reach> reaches;                             // by Inst::reach
  std::vector<uint64_t> blockRuns, blockLanes, guardLanes; // by basic block, by guard
  std::vector<uint32_t> order;
  uint64_t instructions = 0;                              // of the block at hand
  std::mt19937_64 random;
  Tally detail;                                           // sectors and passes
};

} // namespace emu
