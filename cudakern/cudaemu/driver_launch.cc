// Launches: limits, capture of arguments, occupancy, counts.
#include "interp.h"
#include "module.h"
#include "uses.h"

#include <algorithm>
#include <cstring>
#include <unistd.h>

using namespace emu;

namespace {

// capture copies the arguments, as the driver does: they may be overwritten when the call returns.
CUresult capture(const Kernel &k, void **params, void **extra, std::vector<uint8_t> &out) {
  out.assign(k.paramBytes, 0);
  if (params && extra) return CUDA_ERROR_INVALID_VALUE;
  if (params) {
    for (size_t i = 0; i < k.params.size(); i++) {
      if (!params[i]) return CUDA_ERROR_INVALID_VALUE;
      memcpy(out.data() + k.params[i].offset, params[i], k.params[i].size);
    }
    return CUDA_SUCCESS;
  }
  const void *buffer = nullptr;
  size_t bytes = 0;
  for (void **at = extra; at && *at != CU_LAUNCH_PARAM_END; at += 2) {
    if (*at == CU_LAUNCH_PARAM_BUFFER_POINTER) buffer = at[1];
    else if (*at == CU_LAUNCH_PARAM_BUFFER_SIZE) bytes = *static_cast<size_t *>(at[1]);
    else return CUDA_ERROR_INVALID_VALUE;
  }
  if ((!buffer && !k.params.empty()) || bytes < (k.params.empty() ? 0 : k.paramBytes)) return CUDA_ERROR_INVALID_VALUE;
  if (buffer) memcpy(out.data(), buffer, std::min(bytes, out.size()));
  return CUDA_SUCCESS;
}

// addresses gives the arguments that are addresses in live allocations, or were in ones that are freed on a stream.
std::vector<uint64_t> addresses(const Kernel &k, const std::vector<uint8_t> &arguments) {
  std::vector<uint64_t> found;
  for (const Param &p : k.params) {
    uint64_t value = 0;
    if (p.size != 8) continue;
    memcpy(&value, arguments.data() + p.offset, 8);
    if (value && (memory().find(value) || freedOnStream(value))) found.push_back(value);
  }
  return found;
}

bool onHost(const std::vector<uint64_t> &pointers) {
  return std::any_of(pointers.begin(), pointers.end(), [](uint64_t p) {
    std::optional<Allocation> a = memory().find(p);
    return a && (a->kind == Kind::Pinned || a->kind == Kind::Registered);
  });
}

// lost says whether this launch is the one at which the environment takes a device away.
bool lost(Device &d) {
  std::lock_guard<std::mutex> lock(engine().mutex);
  d.launches++;
  for (const Loss &loss : engine().settings.losses)
    if (loss.device == d.board && d.launches >= loss.launch) {
      loseDevice(d, text("fell off the bus at launch %ld (Xid 79)", loss.launch));
      return true;
    }
  return false;
}

uint64_t reachable(CUctx_st &c) {
  uint64_t devices = uint64_t(1) << c.device->ordinal;
  std::lock_guard<std::mutex> lock(engine().mutex);
  for (CUctx_st *peer : c.peers) devices |= uint64_t(1) << peer->device->ordinal;
  return devices;
}

uint64_t seedOf(const Operation &op) {
  const Settings &s = engine().settings;
  if (!s.shuffled) return 0;
  uint64_t h = (s.seed + 1) * 0x9e3779b97f4a7c15ull ^ (uint64_t(op.stream) << 32 | op.tick);
  h = (h ^ (h >> 30)) * 0xbf58476d1ce4e5b9ull;
  h = (h ^ (h >> 27)) * 0x94d049bb133111ebull;
  return (h ^ (h >> 31)) | 1;
}

Limits limitsOf(const CUfunc_st &f) {
  Limits l;
  l.maxShared = f.kernel->staticShared + uint32_t(f.dynamicLimit);
  return l;
}

// refused reports a launch that the driver does not take. It breaks nothing: the program is told at once.
CUresult refused(const Kernel &k, CUresult code, const std::string &why) {
  report("cuLaunchKernel: " + k.name + ": " + why);
  return code;
}

CUresult launch(CUctx_st &c, CUfunction f, Dim grid, Dim block, unsigned shared, CUstream stream, void **params,
                void **extra) {
  if (!knownFunction(f) || f->module->context != &c || !usable(c, stream)) return CUDA_ERROR_INVALID_HANDLE;
  const Kernel &k = *f->kernel;
  if (Fault fault = validate(k, grid, block, shared, limitsOf(*f)))
    return refused(k, CUresult(fault.code), fault.text);
  uint64_t threads = uint64_t(block.x) * block.y * block.z;
  if (threads * unsigned(registersOf(k)) > 65536)
    return refused(k, CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
                   text("%llu threads of about %d registers want more than 65536", (unsigned long long)threads,
                        registersOf(k)));
  auto arguments = std::make_shared<std::vector<uint8_t>>();
  if (CUresult r = capture(k, params, extra, *arguments)) return refused(k, r, "arguments are missing");
  if (lost(*c.device)) return stickyOf(c);
  std::vector<uint64_t> pointers = full() ? addresses(k, *arguments) : std::vector<uint64_t>();
  std::shared_ptr<Pending> pending;
  if (onHost(pointers)) pending = std::make_shared<Pending>(engine().launchesOnHostMemory);
  Operation op;
  op.label = "launch of " + k.name;
  std::shared_ptr<Module> module = f->module->module;
  uint64_t devices = reachable(c);
  op.run = [=, &c, kernel = &k, module = std::move(module), pending = std::move(pending)] {
    const Operation &me = *currentOperation();
    Launch l;
    l.kernel = kernel;
    l.grid = grid;
    l.block = block;
    l.dynamicShared = shared;
    l.params = arguments->data();
    l.memory = &memory();
    l.device = c.device->ordinal;
    l.devices = devices;
    l.checks = engine().settings.checks;
    l.seed = seedOf(me);
    l.threads = engine().settings.threads;
    l.access = {me.id, full() ? &engine().operations : nullptr, me.label};
    l.counts = theCounts();
    Fault fault = run(l);
    if (fault) fault.text += text(" [stream %u, operation %u]", me.stream, me.tick);
    return fault;
  };
  OperationRef made = submit(c, orLegacy(stream), std::move(op));
  for (uint64_t pointer : pointers)
    if (Fault fault = noteUse(pointer, made)) {
      std::lock_guard<std::mutex> lock(engine().mutex);
      breakContext(c, fault.code, fault.text);
      return CUDA_SUCCESS; // a GPU would tell at the next call
    }
  return CUDA_SUCCESS;
}

// occupancy is how many blocks of a kernel one multiprocessor holds.
int occupancy(const CUfunc_st &f, int block, size_t dynamic) {
  const Device &d = *f.module->context->device;
  if (block > int(f.kernel->maxThreads) || block > 1024 || dynamic > size_t(f.dynamicLimit)) return 0;
  int warps = (block + 31) / 32;
  int blocks = d.threadsPerMultiprocessor() >= 2048 ? 32 : 16;
  blocks = std::min(blocks, d.threadsPerMultiprocessor() / (warps * 32));
  blocks = std::min(blocks, 65536 / (registersOf(*f.kernel) * warps * 32));
  size_t shared = f.kernel->staticShared + dynamic;
  if (d.capability >= 80) shared += 1024; // the driver's own, per block
  if (shared) blocks = std::min(blocks, int(size_t(d.sharedPerMultiprocessor()) / shared));
  return blocks;
}

} // namespace

namespace emu {

int registersOf(const Kernel &k) {
  // ptxas makes do with fewer where the kernel says how large its blocks are; where it does not, the launch may fail.
  bool bounded = k.maxThreadsDims[0] || k.requiredDims[0];
  int most = bounded ? int(65536 / std::max(k.maxThreads, 32u)) : 255;
  return std::clamp(int(k.registers), 16, std::min(255, std::max(most, 16)));
}

Counts *theCounts() {
  static Counts *counts = [] {
    auto *c = new Counts;
    c->detail = engine().settings.countsDetail;
    return c;
  }();
  return engine().settings.counts.empty() ? nullptr : counts;
}

void writeCounts(bool now) {
  if (!theCounts()) return;
  static std::mutex mutex;
  static double last = -1e9;
  std::lock_guard<std::mutex> lock(mutex);
  double t = milliseconds();
  if (!now && t - last < 200) return;
  last = t;
  std::string path = engine().settings.counts;
  if (size_t at = path.find("%p"); at != std::string::npos) path.replace(at, 2, std::to_string(getpid()));
  if (!theCounts()->write(path)) report("cannot write the counts to " + path);
}

} // namespace emu

extern "C" {

CUresult cuLaunchKernel(CUfunction f, unsigned int gridX, unsigned int gridY, unsigned int gridZ, unsigned int blockX,
                        unsigned int blockY, unsigned int blockZ, unsigned int shared, CUstream stream, void **params,
                        void **extra) {
  return withContext(__func__, [&](CUctx_st &c) {
    return launch(c, f, {gridX, gridY, gridZ}, {blockX, blockY, blockZ}, shared, stream, params, extra);
  });
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, CUfunction f, int block, size_t dynamic,
                                                              unsigned int flags) {
  return withContext(__func__, [&](CUctx_st &) {
    if (!blocks || block <= 0 || flags & ~1u) return CUDA_ERROR_INVALID_VALUE;
    if (!knownFunction(f)) return CUDA_ERROR_INVALID_HANDLE;
    *blocks = occupancy(*f, block, dynamic);
    return CUDA_SUCCESS;
  });
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, CUfunction f, int block, size_t dynamic) {
  return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, f, block, dynamic, 0);
}
}
