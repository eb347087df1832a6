// cuInit and what the driver says of its devices.
#include "engine.h"
#include "hostguard.h"

#include <cstring>

using namespace emu;

extern "C" {

CUresult cuInit(unsigned int flags) {
  Engine &e = engine();
  std::lock_guard<std::mutex> lock(e.mutex);
  if (flags) return CUDA_ERROR_INVALID_VALUE;
  if (e.started) return CUDA_SUCCESS;
  try {
    Settings s;
    std::string wrong = readSettings(s);
    if (!wrong.empty()) {
      report("cuInit: " + wrong);
      return CUDA_ERROR_SYSTEM_NOT_READY;
    }
    if (s.visible.empty()) return CUDA_ERROR_NO_DEVICE;
    start(e, s);
  } catch (const std::exception &x) {
    report(std::string("cuInit: ") + x.what());
    return CUDA_ERROR_OPERATING_SYSTEM;
  }
  return CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int *version) {
  if (!version) return CUDA_ERROR_INVALID_VALUE;
  Engine &e = engine();
  std::lock_guard<std::mutex> lock(e.mutex);
  Settings s;
  if (!e.started) readSettings(s); // it may be asked before cuInit
  *version = e.started ? e.settings.driver : s.driver;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int *count) {
  return withDriver(__func__, [&] {
    if (!count) return CUDA_ERROR_INVALID_VALUE;
    *count = int(engine().devices.size());
    return CUDA_SUCCESS;
  });
}

CUresult cuDeviceGet(CUdevice *device, int ordinal) {
  return withDriver(__func__, [&] {
    if (!device) return CUDA_ERROR_INVALID_VALUE;
    if (!deviceOf(ordinal)) return CUDA_ERROR_INVALID_DEVICE;
    *device = ordinal;
    return CUDA_SUCCESS;
  });
}

CUresult cuDeviceGetName(char *name, int room, CUdevice device) {
  return withDriver(__func__, [&] {
    Device *d = deviceOf(device);
    if (!d) return CUDA_ERROR_INVALID_DEVICE;
    if (!name || room <= 0) return CUDA_ERROR_INVALID_VALUE;
    snprintf(name, size_t(room), "%s", boardName(engine().settings, d->board).c_str());
    return CUDA_SUCCESS;
  });
}

CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device) {
  return withDriver(__func__, [&] {
    Device *d = deviceOf(device);
    if (!d) return CUDA_ERROR_INVALID_DEVICE;
    if (!uuid) return CUDA_ERROR_INVALID_VALUE;
    unsigned char bytes[16];
    uuidOf(d->board, bytes);
    memcpy(uuid->bytes, bytes, 16);
    return CUDA_SUCCESS;
  });
}

CUresult cuDeviceGetPCIBusId(char *id, int room, CUdevice device) {
  return withDriver(__func__, [&] {
    Device *d = deviceOf(device);
    if (!d) return CUDA_ERROR_INVALID_DEVICE;
    if (!id || room <= 0) return CUDA_ERROR_INVALID_VALUE;
    snprintf(id, size_t(room), "%s", busId(d->board).c_str());
    return CUDA_SUCCESS;
  });
}

CUresult cuDeviceGetByPCIBusId(CUdevice *device, const char *id) {
  return withDriver(__func__, [&] {
    if (!device || !id) return CUDA_ERROR_INVALID_VALUE;
    for (Device &d : engine().devices) {
      std::string full = busId(d.board);
      if (full != id && full.substr(5) != id) continue;
      *device = d.ordinal;
      return CUDA_SUCCESS;
    }
    return CUDA_ERROR_INVALID_DEVICE;
  });
}

CUresult cuDeviceTotalMem(size_t *bytes, CUdevice device) {
  return withDriver(__func__, [&] {
    Device *d = deviceOf(device);
    if (!d) return CUDA_ERROR_INVALID_DEVICE;
    if (!bytes) return CUDA_ERROR_INVALID_VALUE;
    *bytes = engine().settings.memory;
    return CUDA_SUCCESS;
  });
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  return withDriver(__func__, [&] {
    Device *d = deviceOf(device);
    if (!d) return CUDA_ERROR_INVALID_DEVICE;
    if (!value || int(attribute) <= 0) return CUDA_ERROR_INVALID_VALUE;
    *value = attributeOf(*d, attribute);
    return CUDA_SUCCESS;
  });
}

CUresult cuDeviceCanAccessPeer(int *can, CUdevice device, CUdevice peer) {
  return withDriver(__func__, [&] {
    if (!deviceOf(device) || !deviceOf(peer)) return CUDA_ERROR_INVALID_DEVICE;
    if (!can) return CUDA_ERROR_INVALID_VALUE;
    *can = device != peer && engine().settings.peer;
    return CUDA_SUCCESS;
  });
}

CUresult cuDeviceGetP2PAttribute(int *value, CUdevice_P2PAttribute attribute, CUdevice device, CUdevice peer) {
  return withDriver(__func__, [&] {
    if (!deviceOf(device) || !deviceOf(peer) || device == peer) return CUDA_ERROR_INVALID_DEVICE;
    if (!value) return CUDA_ERROR_INVALID_VALUE;
    *value = attribute != CU_DEVICE_P2P_ATTRIBUTE_PERFORMANCE_RANK && engine().settings.peer;
    return CUDA_SUCCESS;
  });
}
}

namespace emu {

void start(Engine &e, const Settings &settings) {
  e.settings = settings;
  e.memory = std::make_unique<Memory>(settings.checks);
  e.devices.resize(settings.visible.size());
  for (size_t i = 0; i < e.devices.size(); i++) {
    Device &d = e.devices[i];
    d.ordinal = int(i);
    d.board = settings.visible[i];
    d.capability = settings.capabilityOf(d.board);
    e.memory->setLimit(d.ordinal, settings.memory);
  }
  if (settings.shuffled) e.turns.start(settings.seed);
  if (settings.checks != Check::Off) watchHost();
  e.started = true;
}

int attributeOf(const Device &d, CUdevice_attribute attribute) {
  switch (int(attribute)) {
  case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
  case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X:
  case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y: return 1024;
  case CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z: return 64;
  case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X: return 2147483647;
  case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y:
  case CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z: return 65535;
  case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: return 48 << 10;
  case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: return d.sharedPerBlock();
  case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR: return d.sharedPerMultiprocessor();
  case CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY: return 64 << 10;
  case CU_DEVICE_ATTRIBUTE_WARP_SIZE: return 32;
  case CU_DEVICE_ATTRIBUTE_MAX_PITCH: return 2147483647;
  case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK:
  case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR: return 65536;
  case CU_DEVICE_ATTRIBUTE_CLOCK_RATE: return d.clockKilohertz();
  case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE: return 1215000;
  case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH: return 5120;
  case CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE: return 40 << 20;
  case CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT:
  case CU_DEVICE_ATTRIBUTE_SURFACE_ALIGNMENT: return 512;
  case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: return d.multiprocessors();
  case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR: return d.threadsPerMultiprocessor();
  case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT: return 2;
  case CU_DEVICE_ATTRIBUTE_GPU_OVERLAP:
  case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
  case CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS:
  case CU_DEVICE_ATTRIBUTE_ECC_ENABLED:
  case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
  case CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED:
  case CU_DEVICE_ATTRIBUTE_GLOBAL_L1_CACHE_SUPPORTED:
  case CU_DEVICE_ATTRIBUTE_LOCAL_L1_CACHE_SUPPORTED:
  case CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY:
  case CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM:
  case 115: return 1; // CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED
  case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID: return busOf(d.board);
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: return d.capability / 10;
  case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: return d.capability % 10;
  case CU_DEVICE_ATTRIBUTE_SINGLE_TO_DOUBLE_PRECISION_PERF_RATIO: return 2;
  }
  return 0; // among them what a board lacks: display timeout, integrated, PCI domain and device
}

} // namespace emu
