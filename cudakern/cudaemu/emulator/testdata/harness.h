// What the cases of the driver's tests share. A case is a function without arguments; a process runs one of them.
#pragma once

#include "../../../cuda/include/cuda.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <vector>

using Case = std::function<void()>;
std::map<std::string, Case> &cases();
struct Register {
  Register(const char *name, Case c) { cases()[name] = std::move(c); }
};
#define CASE(name)                                                                                                     \
  static void name();                                                                                                  \
  static Register register_##name(#name, name);                                                                        \
  static void name()

[[noreturn]] void die(const char *file, int line, const std::string &what);

// want ends the process unless a call returned what it should.
void wantAt(const char *file, int line, const char *call, CUresult got, CUresult wanted);
#define OK(call) wantAt(__FILE__, __LINE__, #call, call, CUDA_SUCCESS)
#define WANT(code, call) wantAt(__FILE__, __LINE__, #call, call, code)
#define TRUE(condition)                                                                                                \
  do {                                                                                                                 \
    if (!(condition)) die(__FILE__, __LINE__, #condition);                                                             \
  } while (0)
template <class T, class U> void equalAt(const char *file, int line, const char *what, T got, U wanted) {
  if (got == T(wanted)) return;
  die(file, line, std::string(what) + " is " + std::to_string(got) + ", want " + std::to_string(wanted));
}
#define EQUAL(got, wanted) equalAt(__FILE__, __LINE__, #got, got, wanted)

// Gpu is a context of a device with the test's kernels, current on this thread.
struct Gpu {
  CUdevice device;
  CUcontext context;
  CUmodule module;
  explicit Gpu(int ordinal = 0);
  CUfunction function(const char *name) const;
  CUdeviceptr words(size_t n, uint32_t value) const; // device memory, filled and waited for
  std::vector<uint32_t> read(CUdeviceptr at, size_t n) const;
  void current() const { OK(cuCtxSetCurrent(context)); }

  // Launches, in blocks of 64 threads.
  CUresult fill(CUdeviceptr words, int n, uint32_t value, CUstream s = nullptr) const;
  CUresult increase(CUdeviceptr words, int n, CUstream s = nullptr) const;
  CUresult move(CUdeviceptr to, CUdeviceptr from, int n, CUstream s = nullptr) const;
  CUresult spin(CUdeviceptr words, int rounds, CUstream s = nullptr) const;
};

CUstream stream(unsigned flags = CU_STREAM_NON_BLOCKING);
CUevent event(unsigned flags = CU_EVENT_DISABLE_TIMING);
// faulted waits for all of a context and says whether it is broken.
CUresult faulted();

extern const char *kernels; // PTX
