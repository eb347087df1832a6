// Names and texts of CUresult.
#include "../cuda/include/cuda.h"

namespace {

struct Known {
  CUresult code;
  const char *name, *text;
};

#define KNOWN(name, text) {CUDA_ERROR_##name, "CUDA_ERROR_" #name, text}
const Known table[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
    KNOWN(INVALID_VALUE, "invalid argument"),
    KNOWN(OUT_OF_MEMORY, "out of memory"),
    KNOWN(NOT_INITIALIZED, "initialization error"),
    KNOWN(DEINITIALIZED, "driver shutting down"),
    KNOWN(STUB_LIBRARY, "CUDA driver is a stub library"),
    KNOWN(NO_DEVICE, "no CUDA-capable device is detected"),
    KNOWN(INVALID_DEVICE, "invalid device ordinal"),
    KNOWN(INVALID_IMAGE, "device kernel image is invalid"),
    KNOWN(INVALID_CONTEXT, "invalid device context"),
    KNOWN(MAP_FAILED, "mapping of buffer object failed"),
    KNOWN(UNMAP_FAILED, "unmapping of buffer object failed"),
    KNOWN(NO_BINARY_FOR_GPU, "no kernel image is available for execution on the device"),
    KNOWN(ECC_UNCORRECTABLE, "uncorrectable ECC error encountered"),
    KNOWN(UNSUPPORTED_LIMIT, "limit is not supported on this architecture"),
    KNOWN(CONTEXT_ALREADY_IN_USE, "exclusive-thread device already in use by a different thread"),
    KNOWN(PEER_ACCESS_UNSUPPORTED, "peer access is not supported between these two devices"),
    KNOWN(INVALID_PTX, "a PTX JIT compilation failed"),
    KNOWN(NVLINK_UNCORRECTABLE, "uncorrectable NVLink error detected during the execution"),
    KNOWN(JIT_COMPILER_NOT_FOUND, "PTX JIT compiler library not found"),
    KNOWN(UNSUPPORTED_PTX_VERSION, "the provided PTX was compiled with an unsupported toolchain."),
    KNOWN(INVALID_SOURCE, "device kernel image is invalid"),
    KNOWN(FILE_NOT_FOUND, "file not found"),
    KNOWN(SHARED_OBJECT_SYMBOL_NOT_FOUND, "shared object symbol not found"),
    KNOWN(SHARED_OBJECT_INIT_FAILED, "shared object initialization failed"),
    KNOWN(OPERATING_SYSTEM, "OS call failed or operation not supported on this OS"),
    KNOWN(INVALID_HANDLE, "invalid resource handle"),
    KNOWN(ILLEGAL_STATE, "the operation cannot be performed in the present state"),
    KNOWN(NOT_FOUND, "named symbol not found"),
    KNOWN(NOT_READY, "device not ready"),
    KNOWN(ILLEGAL_ADDRESS, "an illegal memory access was encountered"),
    KNOWN(LAUNCH_OUT_OF_RESOURCES, "too many resources requested for launch"),
    KNOWN(LAUNCH_TIMEOUT, "the launch timed out and was terminated"),
    KNOWN(PEER_ACCESS_ALREADY_ENABLED, "peer access is already enabled"),
    KNOWN(PEER_ACCESS_NOT_ENABLED, "peer access has not been enabled"),
    KNOWN(PRIMARY_CONTEXT_ACTIVE, "cannot set while device is active in this process"),
    KNOWN(CONTEXT_IS_DESTROYED, "context is destroyed"),
    KNOWN(ASSERT, "device-side assert triggered"),
    KNOWN(TOO_MANY_PEERS, "peer mapping resources exhausted"),
    KNOWN(HOST_MEMORY_ALREADY_REGISTERED, "part or all of the requested memory range is already mapped"),
    KNOWN(HOST_MEMORY_NOT_REGISTERED, "pointer does not correspond to a registered memory region"),
    KNOWN(HARDWARE_STACK_ERROR, "hardware stack error"),
    KNOWN(ILLEGAL_INSTRUCTION, "an illegal instruction was encountered"),
    KNOWN(MISALIGNED_ADDRESS, "misaligned address"),
    KNOWN(INVALID_ADDRESS_SPACE, "operation not supported on global/shared address space"),
    KNOWN(INVALID_PC, "invalid program counter"),
    KNOWN(LAUNCH_FAILED, "unspecified launch failure"),
    KNOWN(COOPERATIVE_LAUNCH_TOO_LARGE, "too many blocks in cooperative launch"),
    KNOWN(NOT_PERMITTED, "operation not permitted"),
    KNOWN(NOT_SUPPORTED, "operation not supported"),
    KNOWN(SYSTEM_NOT_READY, "system not yet initialized"),
    KNOWN(SYSTEM_DRIVER_MISMATCH, "system has unsupported display driver / cuda driver combination"),
    KNOWN(COMPAT_NOT_SUPPORTED_ON_DEVICE, "forward compatibility was attempted on non supported HW"),
    KNOWN(STREAM_CAPTURE_UNSUPPORTED, "operation not permitted when stream is capturing"),
    KNOWN(STREAM_CAPTURE_INVALIDATED, "operation failed due to a previous error during capture"),
    KNOWN(TIMEOUT, "wait operation timed out"),
    KNOWN(UNKNOWN, "unknown error"),
};
#undef KNOWN

const Known *find(CUresult code) {
  for (const Known &k : table)
    if (k.code == code) return &k;
  return nullptr;
}

} // namespace

extern "C" {

CUresult cuGetErrorName(CUresult code, const char **name) {
  const Known *k = find(code);
  if (!name) return CUDA_ERROR_INVALID_VALUE;
  *name = k ? k->name : nullptr;
  return k ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGetErrorString(CUresult code, const char **text) {
  const Known *k = find(code);
  if (!text) return CUDA_ERROR_INVALID_VALUE;
  *text = k ? k->text : nullptr;
  return k ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
}
