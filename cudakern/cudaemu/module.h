// Modules and functions, as handles of the driver.
#pragma once

#include "counts.h"
#include "engine.h"
#include "ptx.h"

#include <memory>

struct CUfunc_st {
  CUmod_st *module = nullptr;
  const emu::Kernel *kernel = nullptr;
  int dynamicLimit = 0; // bytes of dynamic shared memory that a launch may ask for
};

struct CUmod_st {
  CUctx_st *context = nullptr;
  std::shared_ptr<emu::Module> module; // launches that are enqueued keep it
  std::map<std::string, std::unique_ptr<CUfunc_st>> functions;
};

namespace emu {

// unloadModules forgets what a context has loaded.
void unloadModules(CUctx_st &context);
// knownFunction says whether a handle is a function of a loaded module.
bool knownFunction(CUfunction function);
// registersOf gives what a thread of a kernel is taken to need: an estimate, within what ptxas gives out.
int registersOf(const Kernel &kernel);
// oldestDriver gives the first driver version that takes PTX of a version (63 for 6.3).
int oldestDriver(int ptxVersion);

// theCounts are of the whole process, null unless CUDAEMU_COUNTS asks for them.
Counts *theCounts();
// writeCounts writes them where the environment says. A Go program ends without destructors, so it is done whenever the
// host has waited for the device: at most every 200 ms, unless it must be now.
void writeCounts(bool now);

} // namespace emu
