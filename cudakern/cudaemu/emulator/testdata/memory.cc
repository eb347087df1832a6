// Memory limits, kinds of memory, contexts, modules, launch limits, counts.
#include "harness.h"

#include <cstring>
#include <thread>

// CUDAEMU_MEMORY=1048576
CASE(memoryLimit) {
  Gpu g;
  size_t total = 0, free = 0;
  CUdeviceptr a, b, none = 7;
  OK(cuDeviceTotalMem(&total, 0));
  EQUAL(total, size_t(1) << 20);
  OK(cuMemGetInfo(&free, &total));
  OK(cuMemAlloc(&a, free - 4096));
  WANT(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc(&none, 8192));
  EQUAL(none, CUdeviceptr(7));
  OK(cuMemAlloc(&b, 2048));
  size_t left = 0;
  OK(cuMemGetInfo(&left, &total));
  TRUE(left <= 2048);
  OK(cuMemFree(a));
  OK(cuMemAlloc(&a, free / 2));
  void *pinned; // not the device's
  OK(cuMemHostAlloc(&pinned, 4 << 20, 0));
  OK(cuMemFreeHost(pinned));
  Gpu other(1); // each device has its own
  OK(cuMemAlloc(&b, 900000));
  g.current();
  OK(cuCtxDestroy(g.context)); // and gives all back with its contexts
  Gpu again(0);
  OK(cuMemGetInfo(&left, &total));
  EQUAL(left, free);
  WANT(CUDA_ERROR_OUT_OF_MEMORY, cuMemAlloc(&a, size_t(1) << 50));
  WANT(CUDA_ERROR_INVALID_VALUE, cuMemAlloc(&a, 0));
}

CASE(kindsOfMemory) {
  Gpu g;
  CUdeviceptr x = g.words(100, 0);
  WANT(CUDA_ERROR_INVALID_VALUE, cuMemFree(x + 4));
  unsigned type = 0;
  OK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, x + 8));
  EQUAL(type, unsigned(CU_MEMORYTYPE_DEVICE));
  CUdeviceptr base;
  size_t size;
  OK(cuMemGetAddressRange(&base, &size, x + 8));
  EQUAL(base, x);
  EQUAL(size, size_t(400));
  std::vector<uint32_t> own(5000, 3);
  OK(cuMemHostRegister(own.data(), 20000, 0));
  WANT(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, cuMemHostRegister(own.data(), 20000, 0));
  OK(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, reinterpret_cast<CUdeviceptr>(own.data())));
  EQUAL(type, unsigned(CU_MEMORYTYPE_HOST));
  CUstream s = stream();
  OK(cuMemcpyHtoDAsync(x, own.data(), 400, s));
  OK(cuStreamSynchronize(s));
  EQUAL(g.read(x, 100)[99], 3u);
  WANT(CUDA_ERROR_INVALID_VALUE, cuMemFreeHost(own.data()));
  OK(cuMemHostUnregister(own.data()));
  WANT(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, cuMemHostUnregister(own.data()));
  CUdeviceptr managed;
  OK(cuMemAllocManaged(&managed, 400, CU_MEM_ATTACH_GLOBAL));
  OK(g.fill(managed, 100, 5));
  OK(cuCtxSynchronize());
  EQUAL(reinterpret_cast<uint32_t *>(managed)[99], 5u);
  OK(cuMemFree(managed));
  OK(cuMemFree(x));
  WANT(CUDA_ERROR_INVALID_VALUE, cuMemFree(x));
  OK(cuMemFree(0));
}

// A host that dereferences a device address dies of it.
CASE(hostReadsDeviceMemory) {
  Gpu g;
  CUdeviceptr x = g.words(16, 1);
  printf("%u\n", *reinterpret_cast<volatile uint32_t *>(x));
}

CASE(contexts) {
  CUcontext c, top, primary, again;
  WANT(CUDA_ERROR_NOT_INITIALIZED, cuCtxGetCurrent(&c));
  OK(cuInit(0));
  CUdeviceptr x;
  WANT(CUDA_ERROR_INVALID_CONTEXT, cuMemAlloc(&x, 4));
  Gpu a(0), b(1);
  OK(cuCtxGetCurrent(&top));
  TRUE(top == b.context);
  OK(cuCtxPopCurrent(&top));
  TRUE(top == b.context);
  CUdevice d;
  OK(cuCtxGetDevice(&d));
  EQUAL(d, 0);
  OK(cuCtxPushCurrent(b.context));
  std::thread([&] { // another thread has a stack of its own
    CUcontext mine = a.context;
    OK(cuCtxGetCurrent(&mine));
    TRUE(!mine);
    WANT(CUDA_ERROR_INVALID_CONTEXT, cuCtxPopCurrent(&mine));
    WANT(CUDA_ERROR_INVALID_CONTEXT, cuMemAlloc(&x, 4));
    OK(cuCtxSetCurrent(a.context));
    OK(cuMemAlloc(&x, 4));
  }).join();
  // A stream of another context is none of this one's.
  CUstream s = stream();
  a.current();
  WANT(CUDA_ERROR_INVALID_HANDLE, a.fill(x, 1, 1, s));
  WANT(CUDA_ERROR_INVALID_HANDLE, b.fill(x, 1, 1, nullptr));
  unsigned flags;
  int active = 1;
  OK(cuDevicePrimaryCtxGetState(0, &flags, &active));
  EQUAL(active, 0);
  OK(cuDevicePrimaryCtxRetain(&primary, 0));
  OK(cuDevicePrimaryCtxRetain(&again, 0));
  TRUE(primary == again);
  OK(cuCtxSetCurrent(primary));
  OK(cuMemAlloc(&x, 4));
  OK(cuDevicePrimaryCtxRelease(0));
  OK(cuMemFree(x));
  OK(cuDevicePrimaryCtxRelease(0));
  WANT(CUDA_ERROR_CONTEXT_IS_DESTROYED, cuMemAlloc(&x, 4));
  WANT(CUDA_ERROR_INVALID_CONTEXT, cuDevicePrimaryCtxRelease(0));
  WANT(CUDA_ERROR_INVALID_CONTEXT, cuCtxDestroy(primary));
  WANT(CUDA_ERROR_INVALID_DEVICE, cuDevicePrimaryCtxRetain(&primary, 2));
}

CASE(modules) {
  Gpu g;
  CUmodule m = nullptr;
  CUfunction f;
  WANT(CUDA_ERROR_NOT_FOUND, cuModuleGetFunction(&f, g.module, "nobody"));
  TRUE(cuModuleLoadData(&m, "no PTX at all") != CUDA_SUCCESS);
  std::string broken = kernels;
  broken.insert(broken.find("setp.ge.s32"), "setq");
  char log[512] = "";
  CUjit_option options[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
  void *values[] = {log, reinterpret_cast<void *>(sizeof log)};
  WANT(CUDA_ERROR_INVALID_PTX, cuModuleLoadDataEx(&m, broken.c_str(), 2, options, values));
  TRUE(strlen(log) > 10);
  CUdeviceptr counter;
  size_t size;
  OK(cuModuleGetGlobal(&counter, &size, g.module, "counter"));
  EQUAL(size, size_t(16));
  for (int i = 0; i < 3; i++)
    OK(cuLaunchKernel(g.function("count"), 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr));
  EQUAL(g.read(counter, 1)[0], 3u);
  OK(cuModuleUnload(g.module));
  WANT(CUDA_ERROR_INVALID_HANDLE, cuModuleGetFunction(&f, g.module, "fill"));
}

// CUDAEMU_CC=80,70: the second device takes no PTX for sm_80. CUDAEMU_DRIVER=10020: nobody takes version 7.0.
static std::string forTarget(const char *version, const char *target) {
  std::string ptx = kernels;
  ptx.replace(ptx.find("6.3"), 3, version);
  return ptx.replace(ptx.find("sm_70"), 5, target);
}
CASE(mixedCapabilities) {
  std::string ptx = forTarget("7.0", "sm_80");
  CUmodule m;
  Gpu a(0);
  OK(cuModuleLoadData(&m, ptx.c_str()));
  Gpu b(1);
  WANT(CUDA_ERROR_INVALID_PTX, cuModuleLoadData(&m, ptx.c_str()));
  int major;
  OK(cuDeviceGetAttribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 1));
  EQUAL(major, 7);
}
CASE(oldDriver) {
  int version;
  OK(cuDriverGetVersion(&version));
  EQUAL(version, 10020);
  Gpu a(0);
  CUmodule m;
  WANT(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, cuModuleLoadData(&m, forTarget("7.0", "sm_70").c_str()));
}

// CUDAEMU_DEVICES=3, CUDAEMU_THREADS=2: a grid's blocks run on two threads of the host.
CASE(threeDevices) {
  Gpu g(2);
  int count = 0;
  OK(cuDeviceGetCount(&count));
  EQUAL(count, 3);
  WANT(CUDA_ERROR_INVALID_DEVICE, cuDeviceGet(&count, 3));
  CUdeviceptr x = g.words(100000, 0);
  for (int i = 0; i < 3; i++) OK(g.increase(x, 100000));
  for (uint32_t v : g.read(x, 100000)) EQUAL(v, 3u);
}

CASE(launchLimits) {
  Gpu g;
  CUdeviceptr x = g.words(64, 0);
  CUfunction fill = g.function("fill"), limited = g.function("limited");
  int n = 64;
  uint32_t value = 1;
  void *arguments[] = {&x, &n, &value};
  auto launch = [&](CUfunction f, unsigned grid, unsigned gridY, unsigned block, unsigned blockZ, unsigned shared) {
    return cuLaunchKernel(f, grid, gridY, 1, block, 1, blockZ, shared, nullptr, arguments, nullptr);
  };
  OK(launch(fill, 1, 1, 1024, 1, 0));
  WANT(CUDA_ERROR_INVALID_VALUE, launch(fill, 1, 1, 1025, 1, 0));
  WANT(CUDA_ERROR_INVALID_VALUE, launch(fill, 0, 1, 64, 1, 0));
  WANT(CUDA_ERROR_INVALID_VALUE, launch(fill, 1, 65536, 64, 1, 0));
  WANT(CUDA_ERROR_INVALID_VALUE, launch(fill, 1, 1, 1, 65, 0));
  TRUE(launch(limited, 1, 1, 65, 1, 0) != CUDA_SUCCESS);
  OK(launch(limited, 1, 1, 64, 1, 8192));
  TRUE(launch(limited, 1, 1, 64, 1, 8196) != CUDA_SUCCESS);
  int most = 0, blocks = 0, shared = 0;
  OK(cuDeviceGetAttribute(&most, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 0));
  OK(cuFuncGetAttribute(&shared, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, limited));
  EQUAL(shared, 40960);
  WANT(CUDA_ERROR_INVALID_VALUE,
       cuFuncSetAttribute(limited, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, most - shared + 1));
  OK(cuFuncSetAttribute(limited, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, most - shared));
  OK(launch(limited, 1, 1, 64, 1, unsigned(most - shared)));
  OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, limited, 64, 0));
  EQUAL(blocks, 4); // 164 KiB of sm_80 hold four of 41
  OK(cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, fill, 1024, 0));
  EQUAL(blocks, 2);
  OK(cuCtxSynchronize()); // what was refused has broken nothing
  WANT(CUDA_ERROR_INVALID_HANDLE, launch(nullptr, 1, 1, 1, 1, 0));
}

// CUDAEMU_COUNTS: the file is there once the host has waited, without the process having ended well.
CASE(counts) {
  Gpu g;
  CUdeviceptr x = g.words(640, 0);
  for (int i = 0; i < 3; i++) OK(g.increase(x, 640));
  OK(cuCtxDestroy(g.context));
  fflush(stdout);
  puts("done");
  fflush(stdout);
  _Exit(0);
}

// Everything that cuda.h declares is exported; what is not emulated says so.
CASE(notEmulated) {
  Gpu g;
  CUgraph graph;
  WANT(CUDA_ERROR_NOT_SUPPORTED, cuGraphCreate(&graph, 0));
  CUarray array;
  CUDA_ARRAY_DESCRIPTOR descriptor = {4, 4, CU_AD_FORMAT_FLOAT, 1};
  WANT(CUDA_ERROR_NOT_SUPPORTED, cuArrayCreate(&array, &descriptor));
}
