// The emulated libnvidia-ml.so.1: what discovery and health of a worker ask. Boards, UUIDs and names are libcuda's;
// states come from the control file, memory in use and Xids of faults from libcuda if it is loaded in this process.
// The declarations are this file's own: NVML's binary interface as go-nvml calls it.
#include "control.h"
#include "settings.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <mutex>
#include <set>
#include <thread>

using emu::BoardState;
using emu::Settings;

namespace {

enum Result {
  success = 0,
  uninitialised = 1,
  invalidArgument = 2,
  notSupported = 3,
  notFound = 6,
  insufficientSize = 7,
  driverNotLoaded = 9,
  timeout = 10,
  gpuIsLost = 15,
  unknown = 999,
};

constexpr unsigned long long eventXid = 0x8, eventDoubleBitEcc = 0x2;

struct Board {
  int number;
};

struct Handle {
  Board *board;
};

struct PciInfo {
  char busIdLegacy[16];
  unsigned domain, bus, device, pciDeviceId, pciSubSystemId;
  char busId[32];
};

struct MemoryInfo {
  unsigned long long total, free, used;
};

struct MemoryInfo2 {
  unsigned version;
  unsigned long long total, reserved, free, used;
};

struct Utilisation {
  unsigned gpu, memory;
};

struct EventSet {
  // Events of a board that came before it was registered are not told.
  struct Watch {
    unsigned long long types = 0;
    size_t xids = 0, faults = 0;
    unsigned long long uncorrected = 0;
  };
  std::map<int, Watch> boards;
};

struct EventSetHandle {
  EventSet *set;
};

struct EventData {
  Handle device;
  unsigned long long type, data;
  unsigned gpuInstance, computeInstance;
};

struct State {
  std::mutex mutex;
  int users = 0;
  Settings settings;
  emu::Control control;
  std::vector<Board> boards;
  std::set<EventSet *> sets;
};

State &state() {
  static State &s = *new State;
  return s;
}

// driver gives a function of the emulated libcuda if this process has loaded it.
template <class F> F *driver(const char *name) {
  void *library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
  if (!library) return nullptr;
  void *f = dlsym(library, name);
  dlclose(library); // it stays loaded by whoever loaded it
  return reinterpret_cast<F *>(f);
}

unsigned long long memoryUsed(int board) {
  auto *f = driver<unsigned long long(int)>("cudaemuMemoryUsed");
  return f ? f(board) : 0;
}

// faultXids gives the numbers that faults of this process left in a board's log, at most `room`, and how many there
// are.
size_t faultXids(int board, int *out, size_t room) {
  auto *f = driver<size_t(int, int *, size_t)>("cudaemuXids");
  return f ? f(board, out, room) : 0;
}

// stateOf is what the control file says, and what has happened to the board in this process.
BoardState stateOf(State &s, int board) {
  s.control.refresh(s.settings.control);
  BoardState b = s.control.board(board);
  if (auto *f = driver<int(int)>("cudaemuLost"); f && f(board)) b.lost = true;
  return b;
}

// withBoard runs the body with a board's state, unless the library is not started, or the board unknown or lost.
template <class Body> int withBoard(Handle h, Body body) {
  State &s = state();
  std::lock_guard<std::mutex> lock(s.mutex);
  if (!s.users) return uninitialised;
  if (s.boards.empty() || h.board < &s.boards.front() || h.board > &s.boards.back()) return invalidArgument;
  BoardState b = stateOf(s, h.board->number);
  if (b.lost) return gpuIsLost;
  return body(h.board->number, b);
}

template <class Body> int started(Body body) {
  State &s = state();
  std::lock_guard<std::mutex> lock(s.mutex);
  return s.users ? body(s) : int(uninitialised);
}

int put(char *to, unsigned room, const std::string &text) {
  if (!to) return invalidArgument;
  if (room <= text.size()) return insufficientSize;
  memcpy(to, text.c_str(), text.size() + 1);
  return success;
}

template <class T, class V> int put(T *to, V value) {
  if (!to) return invalidArgument;
  *to = T(value);
  return success;
}

void fill(PciInfo &p, int board) {
  memset(&p, 0, sizeof p);
  p.bus = unsigned(emu::busOf(board));
  p.pciDeviceId = 0x20b010de;
  snprintf(p.busIdLegacy, sizeof p.busIdLegacy, "%s", emu::busId(board).c_str());
  snprintf(p.busId, sizeof p.busId, "0000%s", emu::busId(board).c_str()); // eight digits of domain
}

// next looks for an event that a set has not been told yet.
bool next(State &s, EventSet &set, EventData &out) {
  for (auto &[board, watch] : set.boards) {
    BoardState b = stateOf(s, board);
    int xid = 0;
    int faults[64];
    size_t known = std::min<size_t>(faultXids(board, faults, 64), 64);
    if (watch.types & eventXid) {
      if (watch.xids < b.xids.size()) xid = b.xids[watch.xids++];
      else if (watch.faults < known) xid = faults[watch.faults++];
    }
    bool ecc = !xid && watch.types & eventDoubleBitEcc && b.uncorrected > watch.uncorrected;
    if (!xid && !ecc) continue;
    if (ecc) watch.uncorrected = b.uncorrected;
    out = {{&s.boards[size_t(board)]}, xid ? eventXid : eventDoubleBitEcc, (unsigned long long)xid, ~0u, ~0u};
    return true;
  }
  return false;
}

} // namespace

// Boards of the control file and of NVML count all there are: CUDA_VISIBLE_DEVICES is CUDA's alone.
extern "C" {

int nvmlInit_v2(void) {
  State &s = state();
  std::lock_guard<std::mutex> lock(s.mutex);
  if (s.users == 0) {
    Settings settings;
    std::string wrong = emu::readSettings(settings);
    if (!wrong.empty()) {
      fprintf(stderr, "cudaemu: nvmlInit: %s\n", wrong.c_str());
      return unknown;
    }
    if (settings.devices == 0) return driverNotLoaded;
    s.settings = settings;
    s.boards.clear();
    for (int i = 0; i < settings.devices; i++) s.boards.push_back({i});
  }
  s.users++;
  return success;
}
int nvmlInit(void) { return nvmlInit_v2(); }
int nvmlInitWithFlags(unsigned) { return nvmlInit_v2(); }

int nvmlShutdown(void) {
  return started([](State &s) {
    s.users--;
    return int(success);
  });
}

const char *nvmlErrorString(int code) {
  switch (code) {
  case success: return "Success";
  case uninitialised: return "Uninitialized";
  case invalidArgument: return "Invalid Argument";
  case notSupported: return "Not Supported";
  case notFound: return "Not Found";
  case insufficientSize: return "Insufficient Size";
  case driverNotLoaded: return "Driver Not Loaded";
  case timeout: return "Timeout";
  case gpuIsLost: return "GPU is lost";
  }
  return "Unknown Error";
}

int nvmlSystemGetDriverVersion(char *text, unsigned room) {
  return started([&](State &) { return put(text, room, "999.00.emu"); });
}
int nvmlSystemGetNVMLVersion(char *text, unsigned room) {
  return started([&](State &) { return put(text, room, "12.999.00.emu"); });
}
int nvmlSystemGetCudaDriverVersion(int *version) {
  return started([&](State &s) { return put(version, s.settings.driver); });
}
int nvmlSystemGetCudaDriverVersion_v2(int *version) { return nvmlSystemGetCudaDriverVersion(version); }

int nvmlDeviceGetCount_v2(unsigned *count) {
  return started([&](State &s) { return put(count, s.boards.size()); });
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Handle *handle) {
  return started([&](State &s) {
    if (!handle || index >= s.boards.size()) return int(invalidArgument);
    if (stateOf(s, int(index)).lost) return int(gpuIsLost);
    handle->board = &s.boards[index];
    return int(success);
  });
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Handle *handle) {
  return started([&](State &s) {
    if (!uuid || !handle) return int(invalidArgument);
    for (Board &b : s.boards) {
      if (emu::uuidText(b.number) != uuid) continue;
      if (stateOf(s, b.number).lost) return int(gpuIsLost);
      handle->board = &b;
      return int(success);
    }
    return int(notFound);
  });
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *id, Handle *handle) {
  return started([&](State &s) {
    if (!id || !handle) return int(invalidArgument);
    for (Board &b : s.boards) {
      std::string known = emu::busId(b.number);
      if (known != id && "0000" + known != id) continue;
      handle->board = &b;
      return int(success);
    }
    return int(notFound);
  });
}

int nvmlDeviceGetName(Handle h, char *text, unsigned room) {
  return withBoard(h, [&](int b, BoardState &) { return put(text, room, emu::boardName(state().settings, b)); });
}
int nvmlDeviceGetUUID(Handle h, char *text, unsigned room) {
  return withBoard(h, [&](int b, BoardState &) { return put(text, room, emu::uuidText(b)); });
}
int nvmlDeviceGetSerial(Handle h, char *text, unsigned room) {
  return withBoard(h, [&](int b, BoardState &) { return put(text, room, "emulated-" + std::to_string(b)); });
}
int nvmlDeviceGetIndex(Handle h, unsigned *index) {
  return withBoard(h, [&](int b, BoardState &) { return put(index, b); });
}
int nvmlDeviceGetMinorNumber(Handle h, unsigned *number) {
  return withBoard(h, [&](int b, BoardState &) { return put(number, b); });
}
int nvmlDeviceGetCudaComputeCapability(Handle h, int *major, int *minor) {
  return withBoard(h, [&](int b, BoardState &) {
    int cc = state().settings.capabilityOf(b);
    return std::max(put(major, cc / 10), put(minor, cc % 10));
  });
}
int nvmlDeviceGetPciInfo_v3(Handle h, PciInfo *info) {
  return withBoard(h, [&](int b, BoardState &) {
    if (!info) return int(invalidArgument);
    fill(*info, b);
    return int(success);
  });
}

int nvmlDeviceGetMemoryInfo(Handle h, MemoryInfo *info) {
  return withBoard(h, [&](int b, BoardState &) {
    unsigned long long total = state().settings.memory, used = memoryUsed(b);
    return put(info, MemoryInfo{total, total - used, used});
  });
}
int nvmlDeviceGetMemoryInfo_v2(Handle h, MemoryInfo2 *info) {
  return withBoard(h, [&](int b, BoardState &) {
    if (!info) return int(invalidArgument);
    unsigned long long total = state().settings.memory, used = memoryUsed(b);
    return put(info, MemoryInfo2{info->version, total, 0, total - used, used});
  });
}
int nvmlDeviceGetTemperature(Handle h, int sensor, unsigned *degrees) {
  return withBoard(h, [&](int, BoardState &s) { return sensor ? int(invalidArgument) : put(degrees, s.temperature); });
}
int nvmlDeviceGetTemperatureThreshold(Handle h, int kind, unsigned *degrees) {
  return withBoard(h, [&](int, BoardState &) { return put(degrees, kind == 0 ? 92 : 89); });
}
int nvmlDeviceGetPowerUsage(Handle h, unsigned *milliwatts) {
  return withBoard(h, [&](int, BoardState &s) { return put(milliwatts, s.milliwatts); });
}
int nvmlDeviceGetEnforcedPowerLimit(Handle h, unsigned *milliwatts) {
  return withBoard(h, [&](int, BoardState &) { return put(milliwatts, 400000); });
}
int nvmlDeviceGetPowerManagementLimit(Handle h, unsigned *milliwatts) {
  return nvmlDeviceGetEnforcedPowerLimit(h, milliwatts);
}
int nvmlDeviceGetUtilizationRates(Handle h, Utilisation *rates) {
  return withBoard(
      h, [&](int, BoardState &s) { return put(rates, Utilisation{s.utilisation, s.utilisation / 2}); });
}
int nvmlDeviceGetClockInfo(Handle h, int kind, unsigned *megahertz) {
  return withBoard(h, [&](int, BoardState &s) {
    unsigned full = kind == 2 ? 1215 : 1410;
    return put(megahertz, s.throttle & ~5ull ? full / 2 : full);
  });
}
int nvmlDeviceGetMaxClockInfo(Handle h, int kind, unsigned *megahertz) {
  return withBoard(h, [&](int, BoardState &) { return put(megahertz, kind == 2 ? 1215 : 1410); });
}
int nvmlDeviceGetPerformanceState(Handle h, int *p) {
  return withBoard(h, [&](int, BoardState &) { return put(p, 0); });
}
int nvmlDeviceGetPersistenceMode(Handle h, int *mode) {
  return withBoard(h, [&](int, BoardState &) { return put(mode, 1); });
}

int nvmlDeviceGetEccMode(Handle h, int *current, int *pending) {
  return withBoard(h, [&](int, BoardState &) { return std::max(put(current, 1), put(pending, 1)); });
}
int nvmlDeviceGetTotalEccErrors(Handle h, int kind, int, unsigned long long *count) {
  return withBoard(h, [&](int, BoardState &s) {
    return kind > 1 ? int(invalidArgument) : put(count, kind == 1 ? s.uncorrected : s.corrected);
  });
}
int nvmlDeviceGetMemoryErrorCounter(Handle h, int kind, int, int location, unsigned long long *count) {
  return withBoard(h, [&](int, BoardState &s) {
    if (location != 2) return put(count, 0); // all there are are in device memory
    return put(count, kind == 1 ? s.uncorrected : s.corrected);
  });
}
int nvmlDeviceGetRemappedRows(Handle h, unsigned *corrected, unsigned *uncorrected, unsigned *pending,
                              unsigned *failed) {
  return withBoard(h, [&](int, BoardState &s) {
    unsigned long long bad = s.uncorrected;
    return std::max({put(corrected, 0), put(uncorrected, bad), put(pending, bad > 0), put(failed, 0)});
  });
}
int nvmlDeviceGetCurrentClocksThrottleReasons(Handle h, unsigned long long *mask) {
  return withBoard(h, [&](int, BoardState &s) { return put(mask, s.throttle); });
}
int nvmlDeviceGetCurrentClocksEventReasons(Handle h, unsigned long long *mask) {
  return nvmlDeviceGetCurrentClocksThrottleReasons(h, mask);
}
int nvmlDeviceGetSupportedClocksThrottleReasons(Handle h, unsigned long long *mask) {
  return withBoard(h, [&](int, BoardState &) { return put(mask, 0x1ff); });
}

int nvmlDeviceGetCurrPcieLinkGeneration(Handle h, unsigned *generation) {
  return withBoard(h, [&](int, BoardState &) { return put(generation, 4); });
}
int nvmlDeviceGetMaxPcieLinkGeneration(Handle h, unsigned *generation) {
  return nvmlDeviceGetCurrPcieLinkGeneration(h, generation);
}
int nvmlDeviceGetCurrPcieLinkWidth(Handle h, unsigned *lanes) {
  return withBoard(h, [&](int, BoardState &) { return put(lanes, 16); });
}
int nvmlDeviceGetMaxPcieLinkWidth(Handle h, unsigned *lanes) { return nvmlDeviceGetCurrPcieLinkWidth(h, lanes); }

int nvmlDeviceGetNvLinkState(Handle h, unsigned link, int *active) {
  return withBoard(h, [&](int, BoardState &s) { return link < s.nvlinks ? put(active, 1) : int(notSupported); });
}
int nvmlDeviceGetNvLinkVersion(Handle h, unsigned link, unsigned *version) {
  return withBoard(h, [&](int, BoardState &s) { return link < s.nvlinks ? put(version, 3) : int(notSupported); });
}
// Links go in turn to the other boards.
int nvmlDeviceGetNvLinkRemotePciInfo_v2(Handle h, unsigned link, PciInfo *info) {
  return withBoard(h, [&](int b, BoardState &s) {
    int n = int(state().boards.size());
    if (link >= s.nvlinks || n < 2) return int(notSupported);
    if (!info) return int(invalidArgument);
    fill(*info, (b + 1 + int(link) % (n - 1)) % n);
    return int(success);
  });
}
// Boards 0 and 1, 2 and 3 ... share a switch, all share a host bridge.
int nvmlDeviceGetTopologyCommonAncestor(Handle a, Handle b, int *level) {
  return withBoard(a, [&](int first, BoardState &) {
    if (!b.board) return int(invalidArgument);
    int second = b.board->number;
    return put(level, first == second ? 0 : first / 2 == second / 2 ? 10 : 30);
  });
}
int nvmlDeviceGetP2PStatus(Handle a, Handle b, int, int *status) {
  return withBoard(a, [&](int first, BoardState &) {
    if (!b.board || b.board->number == first) return int(invalidArgument);
    return put(status, state().settings.peer ? 0 : 5);
  });
}

int nvmlDeviceGetSupportedEventTypes(Handle h, unsigned long long *types) {
  return withBoard(h, [&](int, BoardState &) { return put(types, eventXid | eventDoubleBitEcc); });
}
int nvmlEventSetCreate(EventSetHandle *set) {
  return started([&](State &s) {
    if (!set) return int(invalidArgument);
    set->set = *s.sets.insert(new EventSet).first;
    return int(success);
  });
}
int nvmlDeviceRegisterEvents(Handle h, unsigned long long types, EventSetHandle set) {
  return withBoard(h, [&](int b, BoardState &now) {
    if (!state().sets.count(set.set)) return int(invalidArgument);
    if (types & ~(eventXid | eventDoubleBitEcc)) return int(notSupported);
    int none[1];
    set.set->boards[b] = {types, now.xids.size(), faultXids(b, none, 0), now.uncorrected};
    return int(success);
  });
}
int nvmlEventSetWait_v2(EventSetHandle set, EventData *data, unsigned milliseconds) {
  auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(milliseconds);
  for (;;) {
    int r = started([&](State &s) {
      if (!data || !s.sets.count(set.set)) return int(invalidArgument);
      return next(s, *set.set, *data) ? int(success) : int(timeout);
    });
    auto left = until - std::chrono::steady_clock::now();
    if (r != timeout || left <= std::chrono::nanoseconds(0)) return r;
    std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(left, std::chrono::milliseconds(5)));
  }
}
int nvmlEventSetWait(EventSetHandle set, EventData *data, unsigned milliseconds) {
  return nvmlEventSetWait_v2(set, data, milliseconds);
}
int nvmlEventSetFree(EventSetHandle set) {
  return started([&](State &s) {
    if (!s.sets.erase(set.set)) return int(invalidArgument);
    delete set.set;
    return int(success);
  });
}
}
