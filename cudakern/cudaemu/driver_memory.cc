// Allocation: device memory, pinned and registered host memory, memory of other processes, on streams.
#include "engine.h"
#include "hostguard.h"
#include "uses.h"

#include <cstring>
#include <unistd.h>

using namespace emu;

namespace {

CUresult allocate(CUctx_st &c, size_t bytes, Kind kind, uint64_t *address) {
  if (!bytes) return CUDA_ERROR_INVALID_VALUE;
  Fault fault = memory().allocate(bytes, c.device->ordinal, kind, &c, address);
  if (!fault && kind != Kind::Device) memory().bornWritten(*address); // the host writes it unseen
  return CUresult(fault.code);
}

CUresult allocatePinned(CUctx_st &c, void **memory, size_t bytes) {
  if (!memory) return CUDA_ERROR_INVALID_VALUE;
  uint64_t address = 0;
  CUresult r = allocate(c, bytes, Kind::Pinned, &address);
  if (r == CUDA_SUCCESS) *memory = reinterpret_cast<void *>(address);
  return r;
}

// startsAt gives the live allocation that begins at an address and is of one of the kinds.
std::optional<Allocation> startsAt(uint64_t address, std::initializer_list<Kind> kinds) {
  std::optional<Allocation> a = memory().find(address);
  if (!a || a->address != address) return std::nullopt;
  for (Kind k : kinds)
    if (a->kind == k) return a;
  return std::nullopt;
}

// waitForDevice is the wait that freeing has in it: nothing on the device may still use the memory.
void waitForDevice(Device *device) {
  std::vector<CUctx_st *> contexts;
  {
    std::lock_guard<std::mutex> lock(engine().mutex);
    for (CUctx_st *c : engine().contexts)
      if (c->device == device && !c->dying) contexts.push_back(c);
  }
  for (CUctx_st *c : contexts) drained(*c);
}

// release frees an allocation of the kinds, wherever it was made, once the device is done with it.
CUresult release(const char *call, CUctx_st &c, uint64_t address, std::initializer_list<Kind> kinds) {
  std::optional<Allocation> a = startsAt(address, kinds);
  if (!a) {
    std::optional<Allocation> other = memory().find(address);
    bool start = other && other->address == address;
    report(text("%s: 0x%llx is %s", call, (unsigned long long)address,
                start ? "not what this call frees" : memory().describe(address).c_str()));
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (Fault fault = stillUsed(call, *a)) {
    std::lock_guard<std::mutex> lock(engine().mutex);
    breakContext(c, fault.code, fault.text);
    return stickyOf(c);
  }
  waitForDevice(deviceOf(a->device));
  forgetGuards(address, a->size);
  memory().free(address);
  return stickyOf(c);
}

} // namespace

extern "C" {

CUresult cuMemGetInfo(size_t *free, size_t *total) {
  return withContext(__func__, [&](CUctx_st &c) {
    if (!free || !total) return CUDA_ERROR_INVALID_VALUE;
    *total = memory().limit(c.device->ordinal);
    *free = *total - memory().used(c.device->ordinal);
    return CUDA_SUCCESS;
  });
}

CUresult cuMemAlloc(CUdeviceptr *address, size_t bytes) {
  return withContext(__func__, [&](CUctx_st &c) {
    if (!address) return CUDA_ERROR_INVALID_VALUE;
    uint64_t at = 0;
    CUresult r = allocate(c, bytes, Kind::Device, &at);
    if (r == CUDA_SUCCESS) *address = at;
    return r;
  });
}

CUresult cuMemAllocPitch(CUdeviceptr *address, size_t *pitch, size_t width, size_t height, unsigned int element) {
  return withContext(__func__, [&](CUctx_st &c) {
    if (!address || !pitch || (element != 4 && element != 8 && element != 16)) return CUDA_ERROR_INVALID_VALUE;
    size_t wide = (width + 511) / 512 * 512;
    uint64_t at = 0;
    CUresult r = allocate(c, wide * height, Kind::Device, &at);
    if (r != CUDA_SUCCESS) return r;
    *address = at;
    *pitch = wide;
    return r;
  });
}

CUresult cuMemAllocManaged(CUdeviceptr *address, size_t bytes, unsigned int flags) {
  return withContext(__func__, [&](CUctx_st &c) {
    if (!address || (flags != CU_MEM_ATTACH_GLOBAL && flags != CU_MEM_ATTACH_HOST)) return CUDA_ERROR_INVALID_VALUE;
    uint64_t at = 0;
    CUresult r = allocate(c, bytes, Kind::Managed, &at);
    if (r == CUDA_SUCCESS) *address = at;
    return r;
  });
}

CUresult cuMemFree(CUdeviceptr address) {
  return withContext(__func__, [&](CUctx_st &c) {
    if (!address) return CUDA_SUCCESS;
    return release("cuMemFree", c, address, {Kind::Device, Kind::Managed});
  });
}

CUresult cuMemAllocAsync(CUdeviceptr *address, size_t bytes, CUstream stream) {
  return withContext(__func__, [&](CUctx_st &c) {
    if (!address) return CUDA_ERROR_INVALID_VALUE;
    if (!usable(c, stream)) return CUDA_ERROR_INVALID_HANDLE;
    uint64_t at = 0;
    if (CUresult r = allocate(c, bytes, Kind::Device, &at)) return r;
    Operation op;
    op.label = "cuMemAllocAsync";
    op.run = [] { return Fault{}; };
    noteBorn(at, submit(c, orLegacy(stream), std::move(op)));
    *address = at;
    return CUDA_SUCCESS;
  });
}

CUresult cuMemFreeAsync(CUdeviceptr address, CUstream stream) {
  return withContext(__func__, [&](CUctx_st &c) {
    if (!usable(c, stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (!address) return CUDA_SUCCESS;
    std::optional<Allocation> a = startsAt(address, {Kind::Device});
    if (!a) {
      report(text("cuMemFreeAsync: 0x%llx is %s", (unsigned long long)address, memory().describe(address).c_str()));
      return CUDA_ERROR_INVALID_VALUE;
    }
    Operation op;
    op.label = "cuMemFreeAsync";
    op.run = [at = *a] {
      if (Fault unordered = usedBeside(at)) return unordered; // and who uses it may be running: it stays
      Fault fault = memory().free(at.address);
      forgetUse(at);
      return fault;
    };
    noteFreed(*a, submit(c, orLegacy(stream), std::move(op)));
    return CUDA_SUCCESS;
  });
}

CUresult cuMemGetAddressRange(CUdeviceptr *base, size_t *bytes, CUdeviceptr address) {
  return withContext(__func__, [&](CUctx_st &) {
    std::optional<Allocation> a = memory().find(address);
    if (!a) return CUDA_ERROR_NOT_FOUND;
    if (base) *base = a->address;
    if (bytes) *bytes = a->size;
    return CUDA_SUCCESS;
  });
}

CUresult cuMemAllocHost(void **memory, size_t bytes) {
  return withContext(__func__, [&](CUctx_st &c) { return allocatePinned(c, memory, bytes); });
}

CUresult cuMemHostAlloc(void **memory, size_t bytes, unsigned int flags) {
  return withContext(__func__, [&](CUctx_st &c) {
    constexpr unsigned all =
        CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_WRITECOMBINED;
    return flags & ~all ? CUDA_ERROR_INVALID_VALUE : allocatePinned(c, memory, bytes);
  });
}

CUresult cuMemFreeHost(void *memory) {
  return withContext(__func__, [&](CUctx_st &c) {
    return release("cuMemFreeHost", c, reinterpret_cast<uint64_t>(memory), {Kind::Pinned});
  });
}

CUresult cuMemHostRegister(void *host, size_t bytes, unsigned int flags) {
  return withContext(__func__, [&](CUctx_st &c) {
    constexpr unsigned all = 0xf;
    if (!host || !bytes || flags & ~all) return CUDA_ERROR_INVALID_VALUE;
    auto address = reinterpret_cast<uint64_t>(host);
    if (memory().find(address) || memory().find(address + bytes - 1))
      return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    Fault fault = memory().registerHost(host, bytes, c.device->ordinal, &c);
    if (!fault) memory().bornWritten(address);
    return CUresult(fault.code);
  });
}

CUresult cuMemHostUnregister(void *host) {
  return withContext(__func__, [&](CUctx_st &c) {
    auto address = reinterpret_cast<uint64_t>(host);
    if (!startsAt(address, {Kind::Registered})) return CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
    return release("cuMemHostUnregister", c, address, {Kind::Registered});
  });
}

CUresult cuMemHostGetDevicePointer(CUdeviceptr *address, void *host, unsigned int flags) {
  return withContext(__func__, [&](CUctx_st &) {
    if (!address || flags) return CUDA_ERROR_INVALID_VALUE;
    std::optional<Allocation> a = memory().find(reinterpret_cast<uint64_t>(host));
    if (!a || (a->kind != Kind::Pinned && a->kind != Kind::Registered)) return CUDA_ERROR_INVALID_VALUE;
    *address = reinterpret_cast<uint64_t>(host);
    return CUDA_SUCCESS;
  });
}

CUresult cuMemAdvise(CUdeviceptr address, size_t bytes, CUmem_advise, CUdevice) {
  return withContext(__func__, [&](CUctx_st &) {
    std::optional<Allocation> a = memory().find(address);
    bool fits = a && a->kind == Kind::Managed && memory().contains(address, bytes);
    return fits ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}

CUresult cuMemPrefetchAsync(CUdeviceptr address, size_t bytes, CUdevice, CUstream stream) {
  return withContext(__func__, [&](CUctx_st &c) {
    if (!usable(c, stream)) return CUDA_ERROR_INVALID_HANDLE;
    std::optional<Allocation> a = memory().find(address);
    bool fits = a && a->kind == Kind::Managed && memory().contains(address, bytes);
    return fits ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
  });
}

CUresult cuPointerGetAttribute(void *value, CUpointer_attribute attribute, CUdeviceptr address) {
  return withDriver(__func__, [&] {
    if (!value) return CUDA_ERROR_INVALID_VALUE;
    std::optional<Allocation> a = memory().find(address);
    if (!a) return CUDA_ERROR_INVALID_VALUE;
    bool host = a->kind == Kind::Pinned || a->kind == Kind::Registered;
    bool ofHost = host || a->kind == Kind::Managed;
    switch (int(attribute)) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
      *static_cast<CUcontext *>(value) = static_cast<CUcontext>(const_cast<void *>(a->owner));
      break;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      *static_cast<unsigned *>(value) = host ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
      break;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: *static_cast<CUdeviceptr *>(value) = address; break;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
      if (!ofHost) return CUDA_ERROR_INVALID_VALUE;
      *static_cast<void **>(value) = reinterpret_cast<void *>(address);
      break;
    case CU_POINTER_ATTRIBUTE_BUFFER_ID: *static_cast<unsigned long long *>(value) = a->serial; break;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED: *static_cast<unsigned *>(value) = a->kind == Kind::Managed; break;
    case 9: *static_cast<int *>(value) = a->device; break; // CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    default: return CUDA_ERROR_NOT_SUPPORTED;
    }
    return CUDA_SUCCESS;
  });
}

CUresult cuIpcGetMemHandle(CUipcMemHandle *handle, CUdeviceptr address) {
  return withContext(__func__, [&](CUctx_st &) {
    if (!handle) return CUDA_ERROR_INVALID_VALUE;
    std::optional<Allocation> a = memory().find(address);
    if (!a || a->kind != Kind::Device || bornOnStream(a->address)) return CUDA_ERROR_INVALID_VALUE;
    Share share;
    if (Fault fault = memory().share(a->address, &share)) return CUresult(fault.code);
    share.device = uint32_t(engine().devices[size_t(a->device)].board);
    memset(handle->reserved, 0, sizeof handle->reserved);
    memcpy(handle->reserved, &share, sizeof share);
    return CUDA_SUCCESS;
  });
}

CUresult cuIpcOpenMemHandle(CUdeviceptr *address, CUipcMemHandle handle, unsigned int flags) {
  return withContext(__func__, [&](CUctx_st &c) {
    if (!address || flags & ~unsigned(CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS)) return CUDA_ERROR_INVALID_VALUE;
    Share share;
    memcpy(&share, handle.reserved, sizeof share);
    if (share.pid == getpid()) return CUDA_ERROR_INVALID_CONTEXT; // as real drivers: not where it was made
    if (int(share.device) != c.device->board && !engine().settings.peer) return CUDA_ERROR_PEER_ACCESS_UNSUPPORTED;
    uint64_t at = 0;
    if (Fault fault = memory().import(share, c.device->ordinal, &c, &at)) {
      report("cuIpcOpenMemHandle: " + fault.text);
      return CUresult(fault.code);
    }
    *address = at;
    return CUDA_SUCCESS;
  });
}

CUresult cuIpcCloseMemHandle(CUdeviceptr address) {
  return withContext(__func__, [&](CUctx_st &c) {
    return release("cuIpcCloseMemHandle", c, address, {Kind::Imported});
  });
}
}
