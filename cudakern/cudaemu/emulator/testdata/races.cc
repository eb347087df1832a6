// Misuses that a GPU would let pass, most of the time; each beside what would have been right. Run with checks = full.
#include "harness.h"

#include <cstring>

namespace {

constexpr int words = 4096; // four pages
constexpr size_t bytes = words * 4;

uint32_t *pinned(size_t n = bytes) {
  void *p;
  OK(cuMemHostAlloc(&p, n, 0));
  memset(p, 1, n);
  return static_cast<uint32_t *>(p);
}

struct Two {
  Gpu g;
  CUstream s = stream(), t = stream();
  CUevent e = event();
  CUdeviceptr x = g.words(words, 1), y = g.words(words, 2);
  void order() const {
    OK(cuEventRecord(e, s));
    OK(cuStreamWaitEvent(t, e, 0));
  }
};

} // namespace

#define RIGHT EQUAL(faulted(), CUDA_SUCCESS)
#define WRONG TRUE(faulted() != CUDA_SUCCESS)

CASE(kernelKernelWrong) {
  Two w;
  OK(w.g.fill(w.x, words, 3, w.s));
  OK(w.g.move(w.y, w.x, words, w.t));
  WRONG;
}
CASE(kernelKernelRight) {
  Two w;
  OK(w.g.fill(w.x, words, 3, w.s));
  w.order();
  OK(w.g.move(w.y, w.x, words, w.t));
  RIGHT;
}
// Two writers of the same words; with the same value, and readers of the same words, are no race.
CASE(writersWrong) {
  Two w;
  OK(w.g.fill(w.x, words, 3, w.s));
  OK(w.g.fill(w.x, words, 4, w.t));
  WRONG;
}
CASE(readersRight) {
  Two w;
  CUdeviceptr z = w.g.words(words, 0);
  OK(w.g.move(w.y, w.x, words, w.s));
  OK(w.g.move(z, w.x, words, w.t));
  RIGHT;
}
CASE(disjointRight) {
  Two w;
  OK(w.g.fill(w.x, words / 2, 3, w.s));
  OK(w.g.fill(w.x + bytes / 2, words / 2, 4, w.t));
  RIGHT;
}
// A write after a read that nothing orders.
CASE(readThenWriteWrong) {
  Two w;
  OK(w.g.move(w.y, w.x, words, w.s));
  OK(w.g.fill(w.x, words, 3, w.t));
  WRONG;
}
CASE(eventTooEarlyWrong) {
  Two w;
  w.order(); // recorded before the kernel, not after it
  OK(w.g.fill(w.x, words, 3, w.s));
  OK(w.g.move(w.y, w.x, words, w.t));
  WRONG;
}
CASE(eventOfOtherStreamWrong) {
  Two w;
  OK(w.g.fill(w.x, words, 3, w.s));
  OK(cuEventRecord(w.e, w.t));
  OK(cuStreamWaitEvent(w.t, w.e, 0));
  OK(w.g.move(w.y, w.x, words, w.t));
  WRONG;
}
// Order goes through a third stream, and through the host.
CASE(transitiveRight) {
  Two w;
  CUstream u = stream();
  CUevent f = event();
  OK(w.g.fill(w.x, words, 3, w.s));
  OK(cuEventRecord(w.e, w.s));
  OK(cuStreamWaitEvent(u, w.e, 0));
  OK(cuEventRecord(f, u));
  OK(cuStreamWaitEvent(w.t, f, 0));
  OK(w.g.move(w.y, w.x, words, w.t));
  RIGHT;
}
CASE(hostWaitRight) {
  Two w;
  OK(w.g.fill(w.x, words, 3, w.s));
  OK(cuEventRecord(w.e, w.s));
  OK(cuEventSynchronize(w.e));
  OK(w.g.move(w.y, w.x, words, w.t));
  RIGHT;
}
CASE(kernelCopyWrong) {
  Two w;
  uint32_t *host = pinned();
  OK(w.g.fill(w.x, words, 3, w.s));
  OK(cuMemcpyDtoHAsync(host, w.x, bytes, w.t));
  WRONG;
}
CASE(kernelCopyRight) {
  Two w;
  uint32_t *host = pinned();
  OK(w.g.fill(w.x, words, 3, w.s));
  w.order();
  OK(cuMemcpyDtoHAsync(host, w.x, bytes, w.t));
  RIGHT;
  EQUAL(host[words - 1], 3u);
}
CASE(memsetKernelWrong) {
  Two w;
  OK(cuMemsetD32Async(w.x, 0, words, w.s));
  OK(w.g.increase(w.x, words, w.t));
  WRONG;
}
// The plain memset is asynchronous too, and non-blocking streams do not wait for the default one.
CASE(plainMemsetWrong) {
  Two w;
  OK(cuMemsetD32(w.x, 0, words));
  OK(w.g.increase(w.x, words, w.s));
  WRONG;
}
CASE(plainMemsetRight) {
  Two w;
  CUstream blocking = stream(CU_STREAM_DEFAULT);
  OK(cuMemsetD32(w.x, 0, words));
  OK(w.g.increase(w.x, words, blocking));
  RIGHT;
}
// A plain copy from pageable memory returns when the bytes are staged, which is before they are there.
CASE(pageableCopyWrong) {
  Two w;
  std::vector<uint32_t> host(words, 5);
  OK(cuMemcpyHtoD(w.x, host.data(), bytes));
  OK(w.g.increase(w.x, words, w.s));
  WRONG;
}
CASE(pageableCopyRight) {
  Two w;
  std::vector<uint32_t> host(words, 5);
  OK(cuMemcpyHtoD(w.x, host.data(), bytes));
  OK(cuStreamSynchronize(nullptr));
  OK(w.g.increase(w.x, words, w.s));
  RIGHT;
}
// A pinned source that is filled again before its copy is known to be made.
CASE(sourceReusedWrong) {
  Two w;
  uint32_t *host = pinned();
  OK(cuMemcpyHtoDAsync(w.x, host, bytes, w.s));
  host[2000] = 9;
  WRONG;
}
CASE(sourceReusedRight) {
  Two w;
  uint32_t *host = pinned();
  OK(cuMemcpyHtoDAsync(w.x, host, bytes, w.s));
  TRUE(host[2000] == 0x01010101); // it may be read
  OK(cuEventRecord(w.e, w.s));
  OK(cuEventSynchronize(w.e));
  host[2000] = 9;
  OK(cuMemcpyHtoDAsync(w.x, host, bytes, w.s));
  OK(cuStreamSynchronize(w.s));
  host[2000] = 10;
  RIGHT;
  EQUAL(w.g.read(w.x, words)[2000], 9u);
}
// Less than a page: found when the copy is made after the write, which a kernel before it sees to.
CASE(smallSourceReusedWrong) {
  Two w;
  uint32_t *host = pinned();
  CUdeviceptr busy = w.g.words(1, 0);
  OK(w.g.spin(busy, 10000000, w.s));
  OK(cuMemcpyHtoDAsync(w.x, host + 3, 64, w.s));
  host[5] = 77;
  WRONG;
}
// A result that is read, or overwritten, before it is known to be there.
CASE(resultReadEarlyWrong) {
  Two w;
  uint32_t *host = pinned();
  OK(cuMemcpyDtoHAsync(host, w.x, bytes, w.s));
  volatile uint32_t v = host[1];
  (void)v;
  WRONG;
}
// A single word, alone in its memory, and one among others: there it is the number that is wrong.
CASE(smallResultReadEarlyWrong) {
  Two w;
  uint32_t *host = pinned(4);
  OK(cuMemcpyDtoHAsync(host, w.x, 4, w.s));
  volatile uint32_t v = host[0];
  (void)v;
  WRONG;
}
CASE(smallResultAmongOthers) {
  Two w;
  uint32_t *host = pinned();
  CUdeviceptr busy = w.g.words(1, 0);
  OK(w.g.spin(busy, 10000000, w.s));
  OK(cuMemcpyDtoHAsync(host + 10, w.x, 4, w.s));
  EQUAL(host[9], 0x01010101u);
  EQUAL(host[10], 0xffffffffu);
  EQUAL(host[11], 0x01010101u);
  OK(cuStreamSynchronize(w.s));
  EQUAL(host[10], 1u);
  RIGHT;
}
CASE(resultReadRight) {
  Two w;
  uint32_t *host = pinned();
  OK(cuMemcpyDtoHAsync(host, w.x, bytes, w.s));
  OK(cuStreamSynchronize(w.s));
  EQUAL(host[1], 1u);
  RIGHT;
}
// Waiting for another stream's event is no wait.
CASE(resultOtherEventWrong) {
  Two w;
  uint32_t *host = pinned();
  OK(cuMemcpyDtoHAsync(host, w.x, bytes, w.s));
  OK(cuEventRecord(w.e, w.t));
  OK(cuEventSynchronize(w.e));
  volatile uint32_t v = host[1];
  (void)v;
  WRONG;
}
// A neighbour in the same allocation, even on the same page, may be used.
CASE(neighbourRight) {
  Two w;
  uint32_t *host = pinned(2 * bytes);
  OK(cuMemcpyDtoHAsync(host + 100, w.x, bytes, w.s));
  host[99] = 4;
  host[100 + words] = 5;
  OK(cuStreamSynchronize(w.s));
  EQUAL(host[100], 1u);
  EQUAL(host[99], 4u);
  EQUAL(host[100 + words], 5u);
  RIGHT;
}
// A pinned buffer that two copies use, on two streams.
CASE(bufferSharedWrong) {
  Two w;
  uint32_t *host = pinned();
  OK(cuMemcpyDtoHAsync(host, w.x, bytes, w.s));
  OK(cuMemcpyHtoDAsync(w.y, host, bytes, w.t));
  WRONG;
}
CASE(bufferSharedRight) {
  Two w;
  uint32_t *host = pinned();
  OK(cuMemcpyDtoHAsync(host, w.x, bytes, w.s));
  w.order();
  OK(cuMemcpyHtoDAsync(w.y, host, bytes, w.t));
  RIGHT;
  EQUAL(w.g.read(w.y, 1)[0], 1u);
}
// A host function may use what lies before or after it in its stream, and nothing else.
CASE(hostFunctionRight) {
  Two w;
  uint32_t *host = pinned();
  OK(cuMemcpyDtoHAsync(host, w.x, bytes, w.s));
  OK(cuLaunchHostFunc(w.s, [](void *p) { static_cast<uint32_t *>(p)[5]++; }, host));
  OK(cuMemcpyHtoDAsync(w.y, host, bytes, w.s));
  RIGHT;
  EQUAL(w.g.read(w.y, 6)[5], 2u);
}
CASE(hostFunctionWrong) {
  Two w;
  uint32_t *host = pinned();
  OK(cuMemcpyDtoHAsync(host, w.x, bytes, w.s));
  OK(cuLaunchHostFunc(w.t, [](void *p) { static_cast<uint32_t *>(p)[5]++; }, host));
  WRONG;
}
CASE(freedInUseWrong) {
  Two w;
  OK(w.g.fill(w.x, words, 3, w.s));
  TRUE(cuMemFree(w.x) != CUDA_SUCCESS);
}
CASE(freedInUseRight) {
  Two w;
  OK(w.g.fill(w.x, words, 3, w.s));
  OK(cuStreamSynchronize(w.s));
  OK(cuMemFree(w.x));
  RIGHT;
}
CASE(pinnedFreedInUseWrong) {
  Two w;
  uint32_t *host = pinned();
  OK(cuMemcpyHtoDAsync(w.x, host, bytes, w.s));
  TRUE(cuMemFreeHost(host) != CUDA_SUCCESS);
}
CASE(useAfterFreeWrong) {
  Two w;
  OK(cuMemFree(w.x));
  OK(w.g.fill(w.x, words, 3, w.s));
  EQUAL(faulted(), CUDA_ERROR_ILLEGAL_ADDRESS);
}
CASE(freeAsyncWrong) {
  Two w;
  OK(w.g.fill(w.x, words, 3, w.s));
  OK(cuMemFreeAsync(w.x, w.t));
  WRONG;
}
CASE(freeAsyncRight) {
  Two w;
  CUdeviceptr z;
  OK(cuMemAllocAsync(&z, bytes, w.s));
  OK(w.g.fill(z, words, 3, w.s));
  w.order();
  OK(w.g.increase(z, words, w.t));
  OK(cuMemFreeAsync(z, w.t));
  RIGHT;
}
CASE(useAfterFreeAsyncWrong) {
  Two w;
  OK(cuMemFreeAsync(w.x, w.s));
  w.g.fill(w.x, words, 3, w.s);
  WRONG;
}
CASE(allocAsyncElsewhereWrong) {
  Two w;
  CUdeviceptr z;
  OK(cuMemAllocAsync(&z, bytes, w.s));
  w.g.fill(z, words, 3, w.t);
  WRONG;
}
CASE(peerCopyWrong) {
  Gpu b(1);
  CUdeviceptr there = b.words(words, 0);
  CUstream t = stream();
  OK(b.fill(there, words, 8, t));
  Gpu a(0);
  CUdeviceptr here = a.words(words, 0);
  CUstream s = stream();
  OK(cuMemcpyPeerAsync(here, a.context, there, b.context, bytes, s));
  CUresult first = faulted();
  b.current();
  CUresult second = faulted();
  TRUE(first != CUDA_SUCCESS || second != CUDA_SUCCESS);
}
CASE(peerCopyRight) {
  Gpu b(1);
  CUdeviceptr there = b.words(words, 0);
  CUstream t = stream();
  CUevent filled = event();
  OK(b.fill(there, words, 8, t));
  OK(cuEventRecord(filled, t));
  Gpu a(0);
  CUdeviceptr here = a.words(words, 0);
  CUstream s = stream();
  OK(cuStreamWaitEvent(s, filled, 0));
  OK(cuMemcpyPeerAsync(here, a.context, there, b.context, bytes, s));
  RIGHT;
  EQUAL(a.read(here, 1)[0], 8u);
  b.current();
  RIGHT;
}
// Bytes nobody has written.
CASE(unwrittenCopyWrong) {
  Two w;
  CUdeviceptr z;
  OK(cuMemAlloc(&z, bytes));
  uint32_t *host = pinned();
  OK(cuMemcpyDtoHAsync(host, z, bytes, w.s));
  WRONG;
}
// A mapped pinned buffer that a kernel writes and the host reads after waiting.
CASE(mappedRight) {
  Two w;
  uint32_t *host = pinned();
  CUdeviceptr mapped;
  OK(cuMemHostGetDevicePointer(&mapped, host, 0));
  OK(w.g.fill(mapped, words, 6, w.s));
  OK(cuMemcpyHtoDAsync(w.y, host, bytes, w.s));
  OK(cuStreamSynchronize(w.s));
  EQUAL(host[7], 6u);
  RIGHT;
  EQUAL(w.g.read(w.y, 8)[7], 6u);
}
