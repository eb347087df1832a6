// The emulator's state: devices, contexts, modules, and what every call of the driver goes through.
#pragma once

#include "control.h"
#include "order.h"
#include "settings.h"
#include "stream.h"

#include <atomic>
#include <map>
#include <set>
#include <unordered_map>
#include <unordered_set>

namespace emu {

struct Device {
  int ordinal = 0, board = 0; // as the program counts, and as the machine does
  int capability = 80;
  CUctx_st *primary = nullptr;
  int primaryUsers = 0;
  unsigned primaryFlags = 0;
  bool lost = false;
  long launches = 0;
  std::vector<int> xids; // that faults have left in the board's log, for NVML

  int sharedPerBlock() const;          // with the attribute set
  int sharedPerMultiprocessor() const;
  int threadsPerMultiprocessor() const;
  int multiprocessors() const;
  int clockKilohertz() const { return 1410000; }
};

} // namespace emu

struct CUctx_st {
  emu::Device *device = nullptr;
  unsigned flags = 0;
  bool primary = false, dying = false;
  int sticky = 0;                       // what every call returns from the first fault on
  std::string fault;                    // the line that was printed
  std::set<CUctx_st *> peers;           // contexts whose memory kernels here may touch
  CUstream_st legacy;                   // the default stream
  std::set<CUstream_st *> streams;      // open ones, the default stream not among them
  std::vector<CUstream_st *> closed;    // not joined yet
  emu::Ticks ended, endedBlocking;      // clocks of streams that have been joined: all, and the blocking ones
  std::map<int, size_t> limits;
};

struct CUmod_st;
struct CUfunc_st;

namespace emu {

// Engine is never destroyed: threads of streams may outlive main, and a Go program ends without destructors.
struct Engine {
  std::mutex mutex;                 // guards all below and the fields of contexts, streams, events, operations
  std::condition_variable changed;  // an operation is done, a turn is free, a context broke or closes
  bool started = false;
  Settings settings;
  std::vector<Device> devices;      // fixed once started
  std::unique_ptr<Memory> memory;   // has a lock of its own
  Operations operations;            // the order between them, for Memory; needs no lock
  std::set<CUctx_st *> contexts;
  std::set<CUevent_st *> events;
  std::deque<std::unique_ptr<CUevent_st>> formerEvents; // the last few, so that their handles are not given out soon
  std::set<CUmod_st *> modules;
  std::unordered_set<CUfunc_st *> functions; // of all modules
  std::set<CUstream_st *> streams;  // open ones of all contexts
  Ticks host;                       // all that the host has waited for
  uint32_t streamCount = 1;
  Turns turns;
  Control control;
  double controlRead = -1e9;        // when, in milliseconds
  std::atomic<int> hostFunctions{0};        // enqueued and not done
  std::atomic<int> launchesOnHostMemory{0}; // likewise, with an argument in pinned or registered memory
  std::unordered_map<std::string, long> calls; // how often, for injected errors
};
Engine &engine();

// start makes what cuInit promises. Needs the engine's mutex.
void start(Engine &e, const Settings &settings);
int attributeOf(const Device &d, CUdevice_attribute attribute);

// Pending counts an operation for as long as what it runs exists, which is until it is done.
class Pending {
public:
  explicit Pending(std::atomic<int> &count)
      : held((count++, &count), [](std::atomic<int> *c) { --*c; }) {}

private:
  std::shared_ptr<std::atomic<int>> held;
};

inline Memory &memory() { return *engine().memory; }
inline bool full() { return engine().settings.checks == Check::Full; }

double milliseconds();

// report prints the one line of a fault: "cudaemu: TEXT".
void report(const std::string &text);
// text formats like printf.
std::string text(const char *format, ...) __attribute__((format(printf, 1, 2)));

// breakContext leaves a context with a sticky error and prints why, once. Needs the engine's mutex.
void breakContext(CUctx_st &context, int error, const std::string &why);
// loseDevice breaks all contexts of a device, now and later. Needs the engine's mutex.
void loseDevice(Device &device, const std::string &why);

// currentContext is the top of the calling thread's stack, null if there is none.
CUctx_st *currentContext();
std::vector<CUctx_st *> &contextStack();

// begin is what every call starts with: the driver is up, and no error is injected into this call.
CUresult begin(const char *call);
// beginInContext adds: a context is current, alive and without a sticky error.
CUresult beginInContext(const char *call, CUctx_st **context);

// withDriver and withContext run the body of a call; nothing thrown leaves the library.
template <class Body> CUresult withDriver(const char *call, Body body) noexcept {
  try {
    if (CUresult r = begin(call)) return r;
    return body();
  } catch (const std::bad_alloc &) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  } catch (const std::exception &e) {
    report(std::string(call) + ": " + e.what());
    return CUDA_ERROR_UNKNOWN;
  }
}

template <class Body> CUresult withContext(const char *call, Body body) noexcept {
  try {
    CUctx_st *context = nullptr;
    if (CUresult r = beginInContext(call, &context)) return r;
    return body(*context);
  } catch (const std::bad_alloc &) {
    return CUDA_ERROR_OUT_OF_MEMORY;
  } catch (const std::exception &e) {
    report(std::string(call) + ": " + e.what());
    return CUDA_ERROR_UNKNOWN;
  }
}

// deviceOf gives a device by ordinal, null if there is none.
Device *deviceOf(CUdevice ordinal);
// usable says whether a stream handle may be used in a context: null and 1 are the default stream.
bool usable(CUctx_st &context, CUstream stream);
inline CUstream_st *orLegacy(CUstream stream) { return stream == CU_STREAM_LEGACY ? nullptr : stream; }
// forgetEvent ends an event. Needs the engine's mutex.
void forgetEvent(CUevent_st *event);
// alive says whether a context handle is one.
bool alive(CUctx_st *context);
inline CUresult stickyOf(CUctx_st &context) { return CUresult(context.sticky); }

} // namespace emu
