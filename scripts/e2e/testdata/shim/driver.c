/* A driver that has four functions, to see that the shim passes every kind of argument on, and what it does where one
 * is missing. */
#include "cuda.h"

CUresult cuInit(unsigned int flags) { return flags == 0 ? CUDA_ERROR_SYSTEM_NOT_READY : CUDA_ERROR_INVALID_VALUE; }

/* Six integers in registers, five on the stack. */
CUresult cuLaunchKernel(CUfunction function, unsigned int gridX, unsigned int gridY, unsigned int gridZ,
                        unsigned int blockX, unsigned int blockY, unsigned int blockZ, unsigned int sharedBytes,
                        CUstream stream, void **parameters, void **extra) {
  unsigned long long digits = (unsigned long long)function;
  digits = digits * 10 + gridX, digits = digits * 10 + gridY, digits = digits * 10 + gridZ;
  digits = digits * 10 + blockX, digits = digits * 10 + blockY, digits = digits * 10 + blockZ;
  digits = digits * 10 + sharedBytes, digits = digits * 10 + (unsigned long long)stream;
  digits = digits * 10 + (unsigned long long)parameters;
  *(unsigned long long *)extra = digits;
  return CUDA_SUCCESS;
}

/* Floats in registers of their own. */
CUresult cuTexRefSetMipmapLevelClamp(CUtexref reference, float least, float most) {
  *(float *)reference = 10 * least + most;
  return CUDA_SUCCESS;
}

/* A structure of 64 bytes, by value on the stack (by reference on aarch64). */
CUresult cuIpcOpenMemHandle(CUdeviceptr *address, CUipcMemHandle handle, unsigned int flags) {
  *address = (unsigned long long)handle.reserved[0] * 10000 + handle.reserved[63] * 100 + flags;
  return CUDA_SUCCESS;
}
