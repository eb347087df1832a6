// Errors: sticky ones, injected ones, lost devices.
#include "harness.h"

#include <fstream>

CASE(sticky) {
  Gpu g;
  CUdeviceptr x = g.words(64, 0);
  OK(g.fill(x, 65, 1)); // one word too far
  WANT(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxSynchronize());
  CUdeviceptr y;
  CUstream s;
  uint32_t word;
  WANT(CUDA_ERROR_ILLEGAL_ADDRESS, cuMemAlloc(&y, 4));
  WANT(CUDA_ERROR_ILLEGAL_ADDRESS, cuMemFree(x));
  WANT(CUDA_ERROR_ILLEGAL_ADDRESS, cuStreamCreate(&s, 0));
  WANT(CUDA_ERROR_ILLEGAL_ADDRESS, cuMemcpyDtoH(&word, x, 4));
  WANT(CUDA_ERROR_ILLEGAL_ADDRESS, cuStreamQuery(nullptr));
  Gpu other(1); // the other device is whole
  CUdeviceptr z = other.words(64, 0);
  OK(other.fill(z, 64, 1));
  OK(cuCtxSynchronize());
  OK(cuCtxDestroy(g.context)); // and so is the first, with another context
  Gpu again(0);
  z = again.words(64, 0);
  OK(again.fill(z, 64, 1));
  EQUAL(again.read(z, 64)[63], 1u);
}

CASE(misaligned) {
  Gpu g;
  CUdeviceptr x = g.words(64, 0);
  OK(g.fill(x + 2, 8, 1));
  WANT(CUDA_ERROR_MISALIGNED_ADDRESS, cuCtxSynchronize());
}

// What is enqueued behind a fault does not run, and does not hang either.
CASE(behindAFault) {
  Gpu g;
  CUstream s = stream(), t = stream();
  CUevent e = event();
  uint32_t *pinned;
  OK(cuMemHostAlloc(reinterpret_cast<void **>(&pinned), 4096, 0));
  CUdeviceptr x = g.words(64, 1);
  pinned[0] = 123;
  g.fill(x, 1000, 2, s);
  cuEventRecord(e, s);
  cuStreamWaitEvent(t, e, 0);
  cuMemcpyDtoHAsync(pinned, x, 4, t);
  WANT(CUDA_ERROR_ILLEGAL_ADDRESS, cuStreamSynchronize(t));
  EQUAL(pinned[0], 123u);
}

// CUDAEMU_FAIL=cuMemAlloc:3:2,cuStreamSynchronize:2+:999
CASE(injected) {
  Gpu g;
  CUdeviceptr x;
  OK(cuMemAlloc(&x, 4));
  OK(cuMemAlloc(&x, 4));
  WANT(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc(&x, 4));
  OK(cuMemAlloc(&x, 4));
  OK(cuStreamSynchronize(nullptr));
  WANT(CUDA_ERROR_UNKNOWN, cuStreamSynchronize(nullptr));
  WANT(CUDA_ERROR_UNKNOWN, cuMemAlloc(&x, 4)); // such an error stays
}

// CUDAEMU_LOST=1:3
CASE(lostAtLaunch) {
  Gpu a(0), b(1);
  CUdeviceptr x = b.words(64, 0);
  OK(b.fill(x, 64, 1));
  OK(b.fill(x, 64, 2));
  WANT(CUDA_ERROR_UNKNOWN, b.fill(x, 64, 3));
  WANT(CUDA_ERROR_UNKNOWN, cuCtxSynchronize());
  CUcontext c;
  WANT(CUDA_ERROR_UNKNOWN, cuDevicePrimaryCtxRetain(&c, 1)); // it does not come back
  a.current();
  x = a.words(64, 0);
  OK(a.fill(x, 64, 1));
  OK(cuCtxSynchronize());
}

// CUDAEMU_CONTROL: the file says that board 0 is gone, while a stream works on it.
CASE(lostByControl) {
  Gpu g;
  CUdeviceptr x = g.words(64, 0);
  OK(g.fill(x, 64, 1));
  OK(cuCtxSynchronize());
  std::ofstream(getenv("CUDAEMU_CONTROL")) << "0 lost 1\n";
  CUresult r = CUDA_SUCCESS;
  while (r == CUDA_SUCCESS) r = cuCtxSynchronize();
  EQUAL(r, CUDA_ERROR_UNKNOWN);
}

// CUDA_VISIBLE_DEVICES=1: what is left is counted from 0, and is the second board.
CASE(visible) {
  OK(cuInit(0));
  int count = 0;
  OK(cuDeviceGetCount(&count));
  EQUAL(count, 1);
  CUuuid uuid;
  OK(cuDeviceGetUuid(&uuid, 0));
  EQUAL(int(uuid.bytes[15]), 1);
  char bus[32];
  OK(cuDeviceGetPCIBusId(bus, sizeof bus, 0));
  EQUAL(std::string(bus) == "0000:11:00.0", true);
}

// CUDAEMU_DEVICES=0, or settings that say nothing.
CASE(noDevice) { WANT(CUDA_ERROR_NO_DEVICE, cuInit(0)); }
CASE(senseless) { WANT(CUDA_ERROR_SYSTEM_NOT_READY, cuInit(0)); }

// Every error of the header has a name and a text.
CASE(errorNames) {
  const char *s = nullptr;
  for (int code : {0, 1, 2, 3, 100, 101, 200, 201, 209, 214, 217, 218, 222, 400, 500, 600, 700, 701, 702, 704, 709, 716,
                   719, 801, 999}) {
    OK(cuGetErrorName(CUresult(code), &s));
    TRUE(s && s[0] == 'C');
    OK(cuGetErrorString(CUresult(code), &s));
    TRUE(s && s[0]);
  }
  WANT(CUDA_ERROR_INVALID_VALUE, cuGetErrorName(CUresult(12345), &s));
  TRUE(!s);
}
