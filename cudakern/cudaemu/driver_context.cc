// Contexts: made and primary ones, the stack of each thread, peer access.
#include "engine.h"
#include "module.h"
#include "uses.h"

#include <algorithm>

using namespace emu;

namespace {

constexpr unsigned knownFlags = 0x1f;

CUctx_st *newContext(Device &device, unsigned flags, bool primary) {
  auto *c = new CUctx_st;
  c->device = &device;
  c->flags = flags;
  c->primary = primary;
  c->legacy.context = c;
  c->limits = {{CU_LIMIT_STACK_SIZE, 1024}, {CU_LIMIT_PRINTF_FIFO_SIZE, 1 << 20}, {CU_LIMIT_MALLOC_HEAP_SIZE, 8 << 20}};
  Engine &e = engine();
  c->legacy.number = e.streamCount++;
  e.contexts.insert(c);
  return c;
}

// destroy runs a context's queues out and takes all that it has. The struct itself stays, since other threads may have
// it on their stacks and must be told that it is gone.
CUresult destroy(CUctx_st *c) {
  Engine &e = engine();
  {
    std::lock_guard<std::mutex> lock(e.mutex);
    if (!e.contexts.count(c) || c->dying) return CUDA_ERROR_INVALID_CONTEXT;
    c->dying = true;
    e.changed.notify_all();
  }
  drained(*c);
  std::vector<CUstream_st *> open;
  {
    std::lock_guard<std::mutex> lock(e.mutex);
    open.assign(c->streams.begin(), c->streams.end());
    c->legacy.closing = true;
    c->legacy.work.notify_one();
  }
  for (CUstream_st *s : open) closeStream(s);
  joinStreams(*c, true);
  if (c->legacy.thread.joinable()) c->legacy.thread.join();
  unloadModules(*c);
  memory().freeAll(c);
  forgetUses(c);
  writeCounts(true);
  std::lock_guard<std::mutex> lock(e.mutex);
  e.contexts.erase(c);
  for (CUctx_st *other : e.contexts) other->peers.erase(c);
  std::vector<CUevent_st *> gone;
  for (CUevent_st *event : e.events)
    if (event->context == c) gone.push_back(event);
  for (CUevent_st *event : gone) forgetEvent(event);
  return CUDA_SUCCESS;
}

} // namespace

extern "C" {

CUresult cuCtxCreate(CUcontext *context, unsigned int flags, CUdevice device) {
  return withDriver(__func__, [&] {
    Device *d = deviceOf(device);
    if (!d) return CUDA_ERROR_INVALID_DEVICE;
    if (!context || flags & ~knownFlags) return CUDA_ERROR_INVALID_VALUE;
    std::lock_guard<std::mutex> lock(engine().mutex);
    if (d->lost) return CUDA_ERROR_UNKNOWN;
    *context = newContext(*d, flags, false);
    contextStack().push_back(*context);
    return CUDA_SUCCESS;
  });
}

CUresult cuCtxDestroy(CUcontext context) {
  return withDriver(__func__, [&] {
    if (!context) return CUDA_ERROR_INVALID_VALUE;
    if (alive(context) && context->primary) return CUDA_ERROR_INVALID_CONTEXT;
    CUresult r = destroy(context);
    if (r == CUDA_SUCCESS && currentContext() == context) contextStack().pop_back();
    return r;
  });
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
  return withDriver(__func__, [&] {
    Device *d = deviceOf(device);
    if (!d) return CUDA_ERROR_INVALID_DEVICE;
    if (!context) return CUDA_ERROR_INVALID_VALUE;
    std::lock_guard<std::mutex> lock(engine().mutex);
    if (d->lost) return CUDA_ERROR_UNKNOWN;
    if (!d->primary) d->primary = newContext(*d, d->primaryFlags, true);
    d->primaryUsers++;
    *context = d->primary;
    return CUDA_SUCCESS;
  });
}

CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
  return withDriver(__func__, [&] {
    Device *d = deviceOf(device);
    if (!d) return CUDA_ERROR_INVALID_DEVICE;
    CUctx_st *last = nullptr;
    {
      std::lock_guard<std::mutex> lock(engine().mutex);
      if (!d->primary) return CUDA_ERROR_INVALID_CONTEXT;
      if (--d->primaryUsers == 0) std::swap(last, d->primary);
    }
    return last ? destroy(last) : CUDA_SUCCESS;
  });
}

CUresult cuDevicePrimaryCtxReset(CUdevice device) {
  return withDriver(__func__, [&] {
    Device *d = deviceOf(device);
    if (!d) return CUDA_ERROR_INVALID_DEVICE;
    CUctx_st *old = nullptr;
    {
      std::lock_guard<std::mutex> lock(engine().mutex);
      std::swap(old, d->primary);
      d->primaryUsers = 0;
    }
    return old ? destroy(old) : CUDA_SUCCESS;
  });
}

CUresult cuDevicePrimaryCtxSetFlags(CUdevice device, unsigned int flags) {
  return withDriver(__func__, [&] {
    Device *d = deviceOf(device);
    if (!d) return CUDA_ERROR_INVALID_DEVICE;
    if (flags & ~knownFlags) return CUDA_ERROR_INVALID_VALUE;
    std::lock_guard<std::mutex> lock(engine().mutex);
    d->primaryFlags = flags;
    if (d->primary) d->primary->flags = flags;
    return CUDA_SUCCESS;
  });
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned int *flags, int *active) {
  return withDriver(__func__, [&] {
    Device *d = deviceOf(device);
    if (!d) return CUDA_ERROR_INVALID_DEVICE;
    if (!flags || !active) return CUDA_ERROR_INVALID_VALUE;
    std::lock_guard<std::mutex> lock(engine().mutex);
    *flags = d->primaryFlags;
    *active = d->primary != nullptr;
    return CUDA_SUCCESS;
  });
}

CUresult cuCtxPushCurrent(CUcontext context) {
  return withDriver(__func__, [&] {
    if (!alive(context)) return CUDA_ERROR_INVALID_CONTEXT;
    contextStack().push_back(context);
    return CUDA_SUCCESS;
  });
}

CUresult cuCtxPopCurrent(CUcontext *context) {
  return withDriver(__func__, [&] {
    if (contextStack().empty()) return CUDA_ERROR_INVALID_CONTEXT;
    if (context) *context = contextStack().back();
    contextStack().pop_back();
    return CUDA_SUCCESS;
  });
}

CUresult cuCtxSetCurrent(CUcontext context) {
  return withDriver(__func__, [&] {
    if (context && !alive(context)) return CUDA_ERROR_INVALID_CONTEXT;
    if (!contextStack().empty()) contextStack().pop_back();
    if (context) contextStack().push_back(context);
    return CUDA_SUCCESS;
  });
}

CUresult cuCtxGetCurrent(CUcontext *context) {
  return withDriver(__func__, [&] {
    if (!context) return CUDA_ERROR_INVALID_VALUE;
    *context = currentContext();
    return CUDA_SUCCESS;
  });
}

CUresult cuCtxGetDevice(CUdevice *device) {
  return withContext(__func__, [&](CUctx_st &c) {
    if (!device) return CUDA_ERROR_INVALID_VALUE;
    *device = c.device->ordinal;
    return CUDA_SUCCESS;
  });
}

CUresult cuCtxGetFlags(unsigned int *flags) {
  return withContext(__func__, [&](CUctx_st &c) {
    if (!flags) return CUDA_ERROR_INVALID_VALUE;
    *flags = c.flags;
    return CUDA_SUCCESS;
  });
}

CUresult cuCtxSynchronize(void) {
  return withContext(__func__, [&](CUctx_st &c) {
    CUresult r = drained(c);
    joinStreams(c, false);
    writeCounts(false);
    return r;
  });
}

CUresult cuCtxSetLimit(CUlimit limit, size_t value) {
  return withContext(__func__, [&](CUctx_st &c) {
    std::lock_guard<std::mutex> lock(engine().mutex);
    auto at = c.limits.find(limit);
    if (at == c.limits.end()) return CUDA_ERROR_UNSUPPORTED_LIMIT;
    at->second = value;
    return CUDA_SUCCESS;
  });
}

CUresult cuCtxGetLimit(size_t *value, CUlimit limit) {
  return withContext(__func__, [&](CUctx_st &c) {
    if (!value) return CUDA_ERROR_INVALID_VALUE;
    std::lock_guard<std::mutex> lock(engine().mutex);
    auto at = c.limits.find(limit);
    if (at == c.limits.end()) return CUDA_ERROR_UNSUPPORTED_LIMIT;
    *value = at->second;
    return CUDA_SUCCESS;
  });
}

// Preferences that an emulator has no use for are taken and given back, as by a GPU that ignores them.
CUresult cuCtxSetCacheConfig(CUfunc_cache) {
  return withContext(__func__, [](CUctx_st &) { return CUDA_SUCCESS; });
}

CUresult cuCtxGetCacheConfig(CUfunc_cache *config) {
  return withContext(__func__, [&](CUctx_st &) {
    if (!config) return CUDA_ERROR_INVALID_VALUE;
    *config = CU_FUNC_CACHE_PREFER_NONE;
    return CUDA_SUCCESS;
  });
}

CUresult cuCtxSetSharedMemConfig(CUsharedconfig) {
  return withContext(__func__, [](CUctx_st &) { return CUDA_SUCCESS; });
}

CUresult cuCtxGetSharedMemConfig(CUsharedconfig *config) {
  return withContext(__func__, [&](CUctx_st &) {
    if (!config) return CUDA_ERROR_INVALID_VALUE;
    *config = CU_SHARED_MEM_CONFIG_FOUR_BYTE_BANK_SIZE;
    return CUDA_SUCCESS;
  });
}

CUresult cuCtxGetApiVersion(CUcontext context, unsigned int *version) {
  return withDriver(__func__, [&] {
    if (!version) return CUDA_ERROR_INVALID_VALUE;
    if (context && !alive(context)) return CUDA_ERROR_INVALID_CONTEXT;
    *version = 3020;
    return CUDA_SUCCESS;
  });
}

CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest) {
  return withContext(__func__, [&](CUctx_st &) {
    if (least) *least = 0;
    if (greatest) *greatest = greatestPriority;
    return CUDA_SUCCESS;
  });
}

CUresult cuCtxEnablePeerAccess(CUcontext peer, unsigned int flags) {
  return withContext(__func__, [&](CUctx_st &c) {
    if (flags) return CUDA_ERROR_INVALID_VALUE;
    if (!alive(peer)) return CUDA_ERROR_INVALID_CONTEXT;
    std::lock_guard<std::mutex> lock(engine().mutex);
    if (peer->device == c.device) return CUDA_ERROR_INVALID_DEVICE;
    if (!engine().settings.peer) return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
    return c.peers.insert(peer).second ? CUDA_SUCCESS : CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED;
  });
}

CUresult cuCtxDisablePeerAccess(CUcontext peer) {
  return withContext(__func__, [&](CUctx_st &c) {
    std::lock_guard<std::mutex> lock(engine().mutex);
    return c.peers.erase(peer) ? CUDA_SUCCESS : CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
  });
}
}
