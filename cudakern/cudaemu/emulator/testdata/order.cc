// Order of streams, events, host functions; what waits and what does not.
#include "harness.h"

#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

static void untilTrue(void *p) {
  while (!*static_cast<std::atomic<bool> *>(p)) std::this_thread::yield();
}

// A stream is a queue: each kernel sees the one before.
CASE(streamIsQueue) {
  Gpu g;
  CUstream s = stream();
  CUdeviceptr a = g.words(100, 0), b = g.words(100, 0);
  for (int i = 0; i < 20; i++) {
    OK(g.increase(a, 100, s));
    OK(g.move(b, a, 100, s));
    OK(g.increase(b, 100, s));
    OK(g.move(a, b, 100, s));
  }
  OK(cuStreamSynchronize(s));
  for (uint32_t v : g.read(a, 100)) EQUAL(v, 40u);
}

// Work handed to and fro between two streams by events, the events used again and again.
CASE(eventsOrderStreams) {
  Gpu g;
  CUstream s[2] = {stream(), stream()};
  CUevent e[2] = {event(), event()};
  CUdeviceptr a = g.words(64, 0);
  for (int i = 0; i < 30; i++) {
    OK(g.increase(a, 64, s[i % 2]));
    OK(cuEventRecord(e[i % 2], s[i % 2]));
    OK(cuStreamWaitEvent(s[(i + 1) % 2], e[i % 2], 0));
  }
  OK(cuStreamSynchronize(s[0]));
  EQUAL(g.read(a, 1)[0], 30u);
}

// An event stands for what was recorded when the wait was enqueued, not for what is recorded later.
CASE(waitTakesTheRecordOfItsTime) {
  Gpu g;
  CUstream s = stream(), t = stream();
  CUevent e = event();
  CUdeviceptr a = g.words(1, 0), b = g.words(1, 0);
  OK(cuStreamWaitEvent(t, e, 0)); // never recorded: no wait
  OK(g.fill(b, 1, 1, t));
  OK(cuStreamSynchronize(t));
  OK(g.fill(a, 1, 1, s));
  OK(cuEventRecord(e, s));
  OK(cuStreamWaitEvent(t, e, 0));
  OK(g.spin(a, 200000, s));
  OK(cuEventRecord(e, s));
  OK(g.fill(b, 1, 2, t));
  OK(cuStreamSynchronize(t));
  OK(cuStreamSynchronize(s));
  EQUAL(g.read(a, 1)[0], 200000u);
}

// The default stream waits for every blocking stream and they for it; non-blocking streams do not take part.
CASE(defaultStream) {
  Gpu g;
  CUstream a = stream(CU_STREAM_DEFAULT), b = stream(CU_STREAM_DEFAULT);
  CUdeviceptr x = g.words(64, 0);
  for (int i = 0; i < 10; i++) {
    OK(g.increase(x, 64, a));
    OK(g.increase(x, 64, nullptr));
    OK(g.increase(x, 64, b));
    OK(g.increase(x, 64, CU_STREAM_LEGACY));
  }
  OK(cuStreamSynchronize(nullptr));
  EQUAL(g.read(x, 1)[0], 40u);
  CUstream free = stream();
  std::atomic<bool> go{false};
  OK(cuLaunchHostFunc(free, untilTrue, &go));
  OK(g.increase(x, 64, nullptr));
  OK(cuStreamSynchronize(nullptr)); // would never return if it waited for `free`
  WANT(CUDA_ERROR_NOT_READY, cuStreamQuery(free));
  go = true;
  OK(cuStreamSynchronize(free));
  OK(cuStreamQuery(free));
}

// Host functions run in their place of the stream, on another thread, with what came before them done.
CASE(hostFunctions) {
  Gpu g;
  CUstream s = stream();
  uint32_t *pinned;
  OK(cuMemHostAlloc(reinterpret_cast<void **>(&pinned), 8192, 0));
  CUdeviceptr x = g.words(2048, 5);
  OK(cuMemcpyDtoHAsync(pinned, x, 8192, s));
  OK(cuLaunchHostFunc(s, [](void *p) {
    auto *words = static_cast<uint32_t *>(p);
    for (int i = 0; i < 2048; i++) words[i] += 1;
  }, pinned));
  OK(cuMemcpyHtoDAsync(x, pinned, 8192, s));
  OK(cuStreamSynchronize(s));
  for (uint32_t v : g.read(x, 2048)) EQUAL(v, 6u);
  OK(cuMemFreeHost(pinned));
  static CUresult called = CUDA_SUCCESS; // calling the driver from one is not permitted
  OK(cuLaunchHostFunc(s, [](void *p) {
    CUdeviceptr y;
    *static_cast<CUresult *>(p) = cuMemAlloc(&y, 4);
  }, &called));
  OK(cuStreamSynchronize(s));
  EQUAL(called, CUDA_ERROR_NOT_PERMITTED);
}

// A stream that is destroyed with work in it finishes the work.
CASE(destroyedStreamFinishes) {
  Gpu g;
  CUdeviceptr x = g.words(1, 0);
  CUstream s = stream();
  OK(g.spin(x, 100000, s));
  OK(cuStreamDestroy(s));
  WANT(CUDA_ERROR_INVALID_HANDLE, cuStreamSynchronize(s));
  OK(cuCtxSynchronize());
  EQUAL(g.read(x, 1)[0], 100000u);
}

CASE(timing) {
  Gpu g;
  CUstream s = stream();
  CUevent a = event(0), b = event(0), plain = event();
  CUdeviceptr x = g.words(1, 0);
  float ms = -1;
  WANT(CUDA_ERROR_INVALID_HANDLE, cuEventElapsedTime(&ms, a, b));
  std::atomic<bool> go{false};
  OK(cuEventRecord(a, s));
  OK(cuLaunchHostFunc(s, untilTrue, &go));
  OK(cuEventRecord(b, s));
  WANT(CUDA_ERROR_NOT_READY, cuEventQuery(b));
  WANT(CUDA_ERROR_NOT_READY, cuEventElapsedTime(&ms, a, b));
  go = true;
  OK(g.spin(x, 10000, s));
  OK(cuEventSynchronize(b));
  OK(cuEventQuery(b));
  OK(cuEventElapsedTime(&ms, a, b));
  TRUE(ms >= 0);
  OK(cuEventRecord(plain, s));
  OK(cuEventSynchronize(plain));
  WANT(CUDA_ERROR_INVALID_HANDLE, cuEventElapsedTime(&ms, a, plain));
}

// Arguments and pageable sources are taken when the call is made.
CASE(captured) {
  Gpu g;
  CUstream s = stream(CU_STREAM_DEFAULT);
  CUdeviceptr x = g.words(3000, 0);
  std::atomic<bool> go{false};
  OK(cuLaunchHostFunc(s, untilTrue, &go));
  std::vector<uint32_t> source(3000, 7);
  OK(cuMemcpyHtoDAsync(x, source.data(), 12000, s));
  for (uint32_t &w : source) w = 8;
  int n = 1;
  uint32_t value = 9;
  void *arguments[] = {&x, &n, &value};
  OK(cuLaunchKernel(g.function("fill"), 1, 1, 1, 64, 1, 1, 0, s, arguments, nullptr));
  n = 3000, value = 10;
  go = true;
  OK(cuStreamSynchronize(s));
  std::vector<uint32_t> got = g.read(x, 3000);
  EQUAL(got[0], 9u);
  EQUAL(got[1], 7u);
  EQUAL(got[2999], 7u);
}

// Copies of rectangles, memsets of elements and rows, copies between kinds of memory.
CASE(copies) {
  Gpu g;
  CUdeviceptr x;
  size_t pitch;
  OK(cuMemAllocPitch(&x, &pitch, 40, 5, 4));
  TRUE(pitch >= 40 && pitch % 256 == 0);
  OK(cuMemsetD2D32(x, pitch, 3, 10, 5));
  std::vector<uint32_t> tight(50, 0);
  CUDA_MEMCPY2D copy = {};
  copy.srcMemoryType = CU_MEMORYTYPE_DEVICE;
  copy.srcDevice = x;
  copy.srcPitch = pitch;
  copy.dstMemoryType = CU_MEMORYTYPE_HOST;
  copy.dstHost = tight.data();
  copy.dstPitch = 40;
  copy.WidthInBytes = 40;
  copy.Height = 5;
  OK(cuMemcpy2D(&copy));
  for (uint32_t v : tight) EQUAL(v, 3u);
  CUdeviceptr bytes = g.words(4, 0);
  OK(cuMemsetD8(bytes, 0x11, 4));
  OK(cuMemsetD16(bytes + 4, 0x2222, 2));
  WANT(CUDA_ERROR_INVALID_VALUE, cuMemsetD32(bytes + 2, 0, 1));
  WANT(CUDA_ERROR_INVALID_VALUE, cuMemsetD8(bytes, 0, 17));
  std::vector<uint32_t> got = g.read(bytes, 2);
  EQUAL(got[0], 0x11111111u);
  EQUAL(got[1], 0x22222222u);
  CUdeviceptr to = g.words(4, 0);
  OK(cuMemcpyDtoD(to, bytes, 8));
  uint32_t through[2] = {};
  OK(cuMemcpy(reinterpret_cast<CUdeviceptr>(through), to, 8)); // either side may be the host's
  EQUAL(through[1], 0x22222222u);
  WANT(CUDA_ERROR_INVALID_VALUE, cuMemcpyDtoD(to, bytes, 17));
  WANT(CUDA_ERROR_INVALID_VALUE, cuMemcpyHtoD(to, reinterpret_cast<void *>(bytes), 4)); // that is no host memory
}

// Not a test: microseconds that an empty operation takes, enqueued and with a wait each.
CASE(costs) {
  Gpu g;
  CUstream s = stream();
  CUdeviceptr x = g.words(64, 0);
  for (bool waits : {false, true}) {
    int n = 5000;
    auto from = std::chrono::steady_clock::now();
    for (int i = 0; i < n; i++) {
      OK(g.fill(x, 64, 1, s));
      if (waits) OK(cuStreamSynchronize(s));
    }
    OK(cuStreamSynchronize(s));
    std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - from;
    printf("launch%s: %.1f us\n", waits ? " and wait" : "", took.count() / n);
  }
}

// Two devices: peer copies with and without peer access; kernels reach a peer's memory only with it.
CASE(peers) {
  Gpu b(1);
  CUdeviceptr there = b.words(256, 42);
  Gpu a(0);
  CUdeviceptr here = a.words(256, 0);
  int can = 0;
  OK(cuDeviceCanAccessPeer(&can, 0, 1));
  EQUAL(can, 1);
  OK(cuMemcpyPeer(here, a.context, there, b.context, 1024));
  OK(cuCtxSynchronize());
  EQUAL(a.read(here, 256)[255], 42u);
  WANT(CUDA_ERROR_INVALID_VALUE, cuMemcpyPeer(here, b.context, there, a.context, 1024));
  WANT(CUDA_ERROR_PEER_ACCESS_NOT_ENABLED, cuCtxDisablePeerAccess(b.context));
  OK(cuCtxEnablePeerAccess(b.context, 0));
  WANT(CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED, cuCtxEnablePeerAccess(b.context, 0));
  OK(a.increase(there, 256));
  OK(a.move(here, there, 256));
  OK(cuCtxSynchronize());
  EQUAL(a.read(here, 1)[0], 43u);
  OK(cuCtxDisablePeerAccess(b.context));
  OK(a.increase(there, 256));
  WANT(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxSynchronize());
  b.current(); // the other device's context is whole
  EQUAL(b.read(there, 1)[0], 43u);
}

CASE(noPeers) {
  Gpu b(1), a(0);
  int can = 1;
  OK(cuDeviceCanAccessPeer(&can, 0, 1));
  EQUAL(can, 0);
  WANT(CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, cuCtxEnablePeerAccess(b.context, 0));
  b.current();
  CUdeviceptr there = b.words(16, 3);
  a.current();
  CUdeviceptr here = a.words(16, 0);
  CUstream s = stream();
  OK(cuMemcpyPeerAsync(here, a.context, there, b.context, 64, s)); // through the host, but it works
  OK(cuStreamSynchronize(s));
  EQUAL(a.read(here, 1)[0], 3u);
}
