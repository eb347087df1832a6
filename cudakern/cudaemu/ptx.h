// A module of PTX text: what it declares, ready to run. Reading is in ptx_parse.cc (text to statements), decoding in
// decode.cc and the ops_*.cc (statements to handlers).
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "memory.h"

namespace emu {

struct Program; // decoded instructions: decode.h

struct Param {
  std::string name;
  uint32_t offset, size, align; // bytes, in the block of parameters a launch has
};

struct Kernel {
  std::string name;
  std::vector<Param> params;
  uint32_t paramBytes = 0;
  uint32_t staticShared = 0; // bytes of .shared variables
  uint32_t localBytes = 0;   // bytes of .local variables a thread
  uint32_t maxThreads = 1024; // .maxntid's or .reqntid's product
  uint32_t maxThreadsDims[3] = {0, 0, 0}, requiredDims[3] = {0, 0, 0}; // zero: not given
  uint32_t minBlocks = 0;     // .minnctapersm
  uint32_t registers = 0;     // 32-bit registers alive at once: an estimate of what ptxas would need
  bool dynamicShared = false; // it names an extern .shared array
  std::shared_ptr<const Program> program;
};

// Global is a variable of the module (.global or .const).
struct Global {
  std::string name;
  uint64_t size = 0, align = 1, address = 0;
  std::vector<uint8_t> initial; // as long as size where it has an initialiser, else empty: the content is zeros
  bool constant = false;
};

class Module {
public:
  // load reads PTX text. place gives a variable its device address (and fills in its content); it may be null where
  // the module has none. On failure the fault names the PTX line: InvalidPtx, or InvalidImage if this is no PTX.
  static Fault load(std::string_view text, const std::function<Fault(Global &)> &place, std::unique_ptr<Module> *out);

  // placeIn is the usual `place`: memory of a device, owned by a context.
  static std::function<Fault(Global &)> placeIn(Memory &, int device, const void *owner);

  const Kernel *kernel(const std::string &name) const; // null if there is none; lives as long as the module
  const Global *global(const std::string &name) const;
  const std::map<std::string, Kernel> &kernels() const { return kernelsByName; }
  const std::map<std::string, Global> &globals() const { return globalsByName; }
  int version() const { return ptxVersion; } // 63 for .version 6.3
  int target() const { return smTarget; }    // 70 for sm_70

private:
  friend class Loader;
  std::map<std::string, Kernel> kernelsByName;
  std::map<std::string, Global> globalsByName;
  int ptxVersion = 0, smTarget = 0;
};

} // namespace emu
