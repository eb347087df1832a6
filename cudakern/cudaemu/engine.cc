#include "engine.h"

#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <unistd.h>

namespace emu {

Engine &engine() {
  static Engine &one = *new Engine;
  return one;
}

double milliseconds() {
  using namespace std::chrono;
  return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

void report(const std::string &what) {
  std::string line = "cudaemu: " + what + "\n";
  ssize_t n = write(STDERR_FILENO, line.data(), line.size()); // one call, so that lines of threads stay whole
  (void)n;
}

std::string text(const char *format, ...) {
  va_list args, again;
  va_start(args, format);
  va_copy(again, args);
  int n = vsnprintf(nullptr, 0, format, args);
  va_end(args);
  std::string out(size_t(n), 0);
  vsnprintf(out.data(), size_t(n) + 1, format, again);
  va_end(again);
  return out;
}

namespace {

// xidOf is the number under which a real driver logs an error.
int xidOf(int error) {
  switch (error) {
  case CUDA_ERROR_ILLEGAL_ADDRESS: return 31; // MMU fault
  case CUDA_ERROR_ECC_UNCORRECTABLE: return 48;
  case CUDA_ERROR_NVLINK_UNCORRECTABLE: return 74;
  case CUDA_ERROR_LAUNCH_TIMEOUT: return 8;
  case CUDA_ERROR_UNKNOWN: return 79; // fallen off the bus
  }
  return 13; // exception of the graphics engine
}

} // namespace

void breakContext(CUctx_st &context, int error, const std::string &why) {
  if (context.sticky) return;
  context.sticky = error;
  context.fault = why;
  if (!context.device->lost) context.device->xids.push_back(xidOf(error));
  report(text("device %d: ", context.device->ordinal) + why);
  engine().changed.notify_all();
}

void loseDevice(Device &device, const std::string &why) {
  if (device.lost) return;
  device.xids.push_back(xidOf(CUDA_ERROR_UNKNOWN));
  device.lost = true;
  for (CUctx_st *c : engine().contexts)
    if (c->device == &device) breakContext(*c, CUDA_ERROR_UNKNOWN, why);
  engine().changed.notify_all();
}

std::vector<CUctx_st *> &contextStack() {
  static thread_local std::vector<CUctx_st *> stack;
  return stack;
}

CUctx_st *currentContext() {
  auto &stack = contextStack();
  return stack.empty() ? nullptr : stack.back();
}

namespace {

// Errors that leave a context unusable, as cuda.h's documentation of each says.
bool isSticky(int error) {
  switch (error) {
  case CUDA_ERROR_ECC_UNCORRECTABLE:
  case CUDA_ERROR_NVLINK_UNCORRECTABLE:
  case CUDA_ERROR_ILLEGAL_ADDRESS:
  case CUDA_ERROR_LAUNCH_TIMEOUT:
  case CUDA_ERROR_ASSERT:
  case CUDA_ERROR_HARDWARE_STACK_ERROR:
  case CUDA_ERROR_ILLEGAL_INSTRUCTION:
  case CUDA_ERROR_MISALIGNED_ADDRESS:
  case CUDA_ERROR_INVALID_ADDRESS_SPACE:
  case CUDA_ERROR_INVALID_PC:
  case CUDA_ERROR_LAUNCH_FAILED:
  case CUDA_ERROR_UNKNOWN:
    return true;
  }
  return false;
}

// named says whether a setting means a call: "cuMemAlloc" means cuMemAlloc_v2 too.
bool named(const std::string &setting, const char *call) {
  size_t n = setting.size();
  if (setting.compare(0, n, call, 0, n) != 0) return false;
  const char *rest = call + n;
  return !*rest || (rest[0] == '_' && rest[1] == 'v' && rest[2] >= '0' && rest[2] <= '9' && !rest[3]);
}

// injected counts a call and gives the error that it is told to return. Needs the engine's mutex.
int injected(const char *call) {
  Engine &e = engine();
  if (e.settings.failures.empty()) return 0;
  long nth = ++e.calls[call];
  for (const Injection &f : e.settings.failures)
    if (named(f.call, call) && (nth == f.nth || (f.onwards && nth > f.nth))) return f.error;
  return 0;
}

// heed does what the control file says, looked at every 10 ms at most. Needs the engine's mutex.
void heed() {
  Engine &e = engine();
  if (e.settings.control.empty()) return;
  double now = milliseconds();
  if (now - e.controlRead < 10) return;
  e.controlRead = now;
  if (!e.control.refresh(e.settings.control)) return;
  if (!e.control.wrong().empty()) report("CUDAEMU_CONTROL: this line says nothing: " + e.control.wrong());
  for (Device &d : e.devices)
    if (e.control.board(d.board).lost) loseDevice(d, "fell off the bus (Xid 79)");
}

} // namespace

CUresult begin(const char *call) {
  Engine &e = engine();
  std::lock_guard<std::mutex> lock(e.mutex);
  if (!e.started) return CUDA_ERROR_NOT_INITIALIZED;
  if (currentOperation()) return CUDA_ERROR_NOT_PERMITTED; // a host function may call nothing of the driver
  heed();
  return CUresult(injected(call));
}

CUresult beginInContext(const char *call, CUctx_st **context) {
  Engine &e = engine();
  std::lock_guard<std::mutex> lock(e.mutex);
  if (!e.started) return CUDA_ERROR_NOT_INITIALIZED;
  if (currentOperation()) return CUDA_ERROR_NOT_PERMITTED;
  heed();
  CUctx_st *c = currentContext();
  if (!c) return CUDA_ERROR_INVALID_CONTEXT;
  if (!e.contexts.count(c) || c->dying) return CUDA_ERROR_CONTEXT_IS_DESTROYED;
  if (c->sticky) return stickyOf(*c);
  *context = c;
  int error = injected(call);
  if (isSticky(error)) breakContext(*c, error, text("%s: error %d injected", call, error));
  return CUresult(error);
}

Device *deviceOf(CUdevice ordinal) {
  auto &devices = engine().devices;
  return ordinal >= 0 && size_t(ordinal) < devices.size() ? &devices[size_t(ordinal)] : nullptr;
}

void forgetEvent(CUevent_st *event) {
  Engine &e = engine();
  e.events.erase(event);
  event->recorded = nullptr;
  event->shared = nullptr;
  e.formerEvents.emplace_back(event);
  if (e.formerEvents.size() > 4096) e.formerEvents.pop_front();
}

bool alive(CUctx_st *context) {
  Engine &e = engine();
  std::lock_guard<std::mutex> lock(e.mutex);
  return e.contexts.count(context) && !context->dying;
}

bool usable(CUctx_st &context, CUstream stream) {
  if (!orLegacy(stream)) return true;
  Engine &e = engine();
  std::lock_guard<std::mutex> lock(e.mutex);
  return e.streams.count(stream) && stream->context == &context;
}

int Device::sharedPerBlock() const {
  switch (capability) {
  case 70: case 72: return 96 << 10;
  case 75: return 64 << 10;
  case 80: case 87: return 163 << 10;
  case 86: case 89: case 120: case 121: return 99 << 10;
  }
  return capability >= 90 ? 227 << 10 : 48 << 10;
}

int Device::sharedPerMultiprocessor() const {
  switch (capability) {
  case 70: case 72: return 96 << 10;
  case 75: return 64 << 10;
  case 80: case 87: return 164 << 10;
  case 86: case 89: case 120: case 121: return 100 << 10;
  }
  return capability >= 90 ? 228 << 10 : 64 << 10;
}

int Device::threadsPerMultiprocessor() const {
  switch (capability) {
  case 75: return 1024;
  case 86: case 87: case 89: case 120: case 121: return 1536;
  }
  return 2048;
}

// As many as a usual board of that capability has: what sizes grids by it is then tried with different sizes.
int Device::multiprocessors() const {
  switch (capability) {
  case 70: return 80;
  case 75: return 40;
  case 80: return 108;
  case 86: return 84;
  case 89: return 142;
  case 90: return 132;
  case 100: return 148;
  case 120: return 170;
  }
  return 16;
}

} // namespace emu

// What the emulated NVML asks where both are in one process; boards are counted as it counts them.
extern "C" {

unsigned long long cudaemuMemoryUsed(int board) {
  emu::Engine &e = emu::engine();
  std::lock_guard<std::mutex> lock(e.mutex);
  unsigned long long used = 0;
  for (const emu::Device &d : e.devices)
    if (d.board == board) used += e.memory->used(d.ordinal);
  return used;
}

int cudaemuLost(int board) {
  emu::Engine &e = emu::engine();
  std::lock_guard<std::mutex> lock(e.mutex);
  for (const emu::Device &d : e.devices)
    if (d.board == board && d.lost) return 1;
  return 0;
}

size_t cudaemuXids(int board, int *out, size_t room) {
  emu::Engine &e = emu::engine();
  std::lock_guard<std::mutex> lock(e.mutex);
  for (const emu::Device &d : e.devices) {
    if (d.board != board) continue;
    for (size_t i = 0; i < d.xids.size() && i < room; i++) out[i] = d.xids[i];
    return d.xids.size();
  }
  return 0;
}
}
