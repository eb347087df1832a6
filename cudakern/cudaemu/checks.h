// What Check::Full compares every access with. See checks.cc for the rules.
#pragma once
#include "machine.h"

namespace emu {

// Who touches global memory.
struct Toucher {
  uint32_t op = 0, block = 0;    // block: linear index; copies have none (~0)
  uint32_t thread = 0, phase = 0; // in the block; barriers passed
  const Order *order = nullptr;
  uint8_t born = 0; // of the memory: see ShadowWord
};

struct Clash {
  enum Kind : uint8_t { None, Unwritten, ReadOfWrite, WriteOverRead, WriteOverWrite } kind = None;
  uint32_t op = 0, block = 0, thread = 0; // the other side
};

// touchWord compares an access of some bytes (mask of 4) of a word with its shadow and records it. `same`: a write
// would not change the content (then two writes do not clash).
Clash touchWord(ShadowWord &, uint8_t bytes, const Toucher &, bool write, bool atomic, bool same);

// clashText says what a clash is, for an address.
std::string clashText(const Clash &, const Toucher &, uint64_t address);

// Shadow of an aligned word of shared memory; emptied for each block.
struct SharedWord {
  uint32_t writePhase = 0, readPhase = 0; // 0: not yet
  uint32_t writeSync = 0, readSync = 0;   // bar.warp.syncs their warps had passed
  uint32_t writeLine = 0, readLine = 0;
  uint16_t writeThread = 0, readThread = 0;
  uint8_t written = 0, writeBytes = 0, readBytes = 0;
  bool readByWarp = false, readByWarps = false; // several lanes of one warp, several warps
  bool atomic = false;                          // the last write was
  uint8_t async = 0;                            // bytes that a cp.async not waited for will write
  uint16_t asyncThread = 0;
};

} // namespace emu
