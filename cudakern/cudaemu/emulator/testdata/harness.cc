#include "harness.h"

#include <cstring>
#include <fstream>
#include <sstream>

std::map<std::string, Case> &cases() {
  static std::map<std::string, Case> all;
  return all;
}

const char *kernels;

void die(const char *file, int line, const std::string &what) {
  const char *name = strrchr(file, '/');
  printf("%s:%d: %s\n", name ? name + 1 : file, line, what.c_str());
  fflush(stdout);
  _Exit(1);
}

void wantAt(const char *file, int line, const char *call, CUresult got, CUresult wanted) {
  if (got == wanted) return;
  const char *g = "?", *w = "?";
  cuGetErrorName(got, &g);
  cuGetErrorName(wanted, &w);
  die(file, line, std::string(call) + " = " + (g ? g : "?") + ", want " + (w ? w : "?"));
}

Gpu::Gpu(int ordinal) {
  OK(cuInit(0));
  OK(cuDeviceGet(&device, ordinal));
  OK(cuCtxCreate(&context, CU_CTX_SCHED_AUTO, device));
  OK(cuModuleLoadData(&module, kernels));
}

CUfunction Gpu::function(const char *name) const {
  CUfunction f;
  OK(cuModuleGetFunction(&f, module, name));
  return f;
}

CUdeviceptr Gpu::words(size_t n, uint32_t value) const {
  CUdeviceptr at;
  OK(cuMemAlloc(&at, 4 * n));
  OK(cuMemsetD32(at, value, n));
  OK(cuCtxSynchronize());
  return at;
}

std::vector<uint32_t> Gpu::read(CUdeviceptr at, size_t n) const {
  std::vector<uint32_t> out(n);
  OK(cuMemcpyDtoH(out.data(), at, 4 * n));
  return out;
}

static CUresult launch(CUfunction f, int n, CUstream s, void **arguments) {
  return cuLaunchKernel(f, unsigned(n + 63) / 64, 1, 1, 64, 1, 1, 0, s, arguments, nullptr);
}

CUresult Gpu::fill(CUdeviceptr words, int n, uint32_t value, CUstream s) const {
  void *arguments[] = {&words, &n, &value};
  return launch(function("fill"), n, s, arguments);
}

CUresult Gpu::increase(CUdeviceptr words, int n, CUstream s) const {
  void *arguments[] = {&words, &n};
  return launch(function("increase"), n, s, arguments);
}

CUresult Gpu::move(CUdeviceptr to, CUdeviceptr from, int n, CUstream s) const {
  void *arguments[] = {&to, &from, &n};
  return launch(function("move"), n, s, arguments);
}

CUresult Gpu::spin(CUdeviceptr words, int rounds, CUstream s) const {
  void *arguments[] = {&words, &rounds};
  return cuLaunchKernel(function("spin"), 1, 1, 1, 1, 1, 1, 0, s, arguments, nullptr);
}

CUstream stream(unsigned flags) {
  CUstream s;
  OK(cuStreamCreate(&s, flags));
  return s;
}

CUevent event(unsigned flags) {
  CUevent e;
  OK(cuEventCreate(&e, flags));
  return e;
}

CUresult faulted() { return cuCtxSynchronize(); }

int main(int count, char **arguments) {
  if (count < 3) {
    for (auto &[name, c] : cases()) puts(name.c_str());
    return 2;
  }
  std::ifstream file(arguments[1]);
  std::ostringstream text;
  text << file.rdbuf();
  std::string ptx = text.str();
  kernels = ptx.c_str();
  auto at = cases().find(arguments[2]);
  if (at == cases().end() || ptx.empty()) {
    printf("no case %s, or no kernels in %s\n", arguments[2], arguments[1]);
    return 2;
  }
  at->second();
  puts("done");
  return 0;
}
