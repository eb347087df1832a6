// The emulated NVML, called as go-nvml calls it, beside the CUDA half.
#include "harness.h"

#include <cstring>
#include <fstream>

extern "C" {
struct Board { void *handle; };
struct Set { void *handle; };
struct Memory { unsigned long long total, free, used; };
struct Rates { unsigned gpu, memory; };
struct Pci { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; };
struct Event { Board device; unsigned long long type, data; unsigned gpuInstance, computeInstance; };
int nvmlInit_v2(void);
int nvmlShutdown(void);
int nvmlDeviceGetCount_v2(unsigned *);
int nvmlDeviceGetHandleByIndex_v2(unsigned, Board *);
int nvmlDeviceGetHandleByUUID(const char *, Board *);
int nvmlDeviceGetUUID(Board, char *, unsigned);
int nvmlDeviceGetName(Board, char *, unsigned);
int nvmlDeviceGetPciInfo_v3(Board, Pci *);
int nvmlDeviceGetMemoryInfo(Board, Memory *);
int nvmlDeviceGetTemperature(Board, int, unsigned *);
int nvmlDeviceGetPowerUsage(Board, unsigned *);
int nvmlDeviceGetUtilizationRates(Board, Rates *);
int nvmlDeviceGetTotalEccErrors(Board, int, int, unsigned long long *);
int nvmlDeviceGetCurrentClocksThrottleReasons(Board, unsigned long long *);
int nvmlDeviceGetNvLinkState(Board, unsigned, int *);
int nvmlDeviceGetTopologyCommonAncestor(Board, Board, int *);
int nvmlEventSetCreate(Set *);
int nvmlDeviceRegisterEvents(Board, unsigned long long, Set);
int nvmlEventSetWait_v2(Set, Event *, unsigned);
int nvmlEventSetFree(Set);
}

static void control(const char *lines) { std::ofstream(getenv("CUDAEMU_CONTROL"), std::ios::app) << lines; }

CASE(health) {
  Board b[2], same;
  unsigned n = 0;
  EQUAL(nvmlDeviceGetCount_v2(&n), 1); // not started
  EQUAL(nvmlInit_v2(), 0);
  EQUAL(nvmlDeviceGetCount_v2(&n), 0);
  EQUAL(n, 2u);
  for (unsigned i = 0; i < 2; i++) EQUAL(nvmlDeviceGetHandleByIndex_v2(i, &b[i]), 0);
  EQUAL(nvmlDeviceGetHandleByIndex_v2(2, &same), 2);
  Gpu g(1);
  CUuuid uuid;
  OK(cuDeviceGetUuid(&uuid, 1));
  char text[96], hex[3];
  EQUAL(nvmlDeviceGetUUID(b[1], text, sizeof text), 0);
  EQUAL(nvmlDeviceGetUUID(b[1], text, 10), 7);
  std::string digits;
  for (unsigned char c : uuid.bytes) snprintf(hex, sizeof hex, "%02x", c), digits += hex;
  std::string plain;
  for (char c : std::string(text + 4)) // behind "GPU-"
    if (c != '-') plain += c;
  TRUE(plain == digits);
  EQUAL(nvmlDeviceGetHandleByUUID(text, &same), 0);
  TRUE(same.handle == b[1].handle);
  char name[96], cuda[96];
  EQUAL(nvmlDeviceGetName(b[1], name, sizeof name), 0);
  OK(cuDeviceGetName(cuda, sizeof cuda, 1));
  TRUE(!strcmp(name, cuda));
  Pci pci;
  OK(cuDeviceGetPCIBusId(cuda, sizeof cuda, 1));
  EQUAL(nvmlDeviceGetPciInfo_v3(b[1], &pci), 0);
  TRUE(std::string("0000") + cuda == pci.bus_id);
  // Memory is what the CUDA half uses.
  Memory before, after;
  CUdeviceptr x;
  EQUAL(nvmlDeviceGetMemoryInfo(b[1], &before), 0);
  OK(cuMemAlloc(&x, 1 << 20));
  EQUAL(nvmlDeviceGetMemoryInfo(b[1], &after), 0);
  EQUAL(after.used - before.used, 1ull << 20);
  EQUAL(after.free + after.used, after.total);
  // What the control file says.
  control("1 temperature 95\n1 power 250000\n1 utilisation 88\n1 throttle 0x40\n1 ecc 3\n1 nvlinks 4\n");
  unsigned value = 0;
  unsigned long long mask = 0;
  int state = 0;
  Rates rates;
  EQUAL(nvmlDeviceGetTemperature(b[1], 0, &value), 0);
  EQUAL(value, 95u);
  EQUAL(nvmlDeviceGetTemperature(b[0], 0, &value), 0);
  TRUE(value < 90);
  EQUAL(nvmlDeviceGetPowerUsage(b[1], &value), 0);
  EQUAL(value, 250000u);
  EQUAL(nvmlDeviceGetUtilizationRates(b[1], &rates), 0);
  EQUAL(rates.gpu, 88u);
  EQUAL(nvmlDeviceGetCurrentClocksThrottleReasons(b[1], &mask), 0);
  EQUAL(mask, 0x40ull);
  EQUAL(nvmlDeviceGetTotalEccErrors(b[1], 1, 0, &mask), 0);
  EQUAL(mask, 3ull);
  EQUAL(nvmlDeviceGetNvLinkState(b[1], 3, &state), 0);
  EQUAL(state, 1);
  EQUAL(nvmlDeviceGetNvLinkState(b[1], 4, &state), 3);
  EQUAL(nvmlDeviceGetTopologyCommonAncestor(b[0], b[1], &state), 0);
  EQUAL(state, 10);
  control("1 lost 1\n");
  EQUAL(nvmlDeviceGetTemperature(b[1], 0, &value), 15);
  EQUAL(nvmlDeviceGetTemperature(b[0], 0, &value), 0);
  EQUAL(nvmlShutdown(), 0);
  EQUAL(nvmlDeviceGetCount_v2(&n), 1);
}

CASE(xids) {
  EQUAL(nvmlInit_v2(), 0);
  Board b;
  Set set;
  Event e;
  EQUAL(nvmlDeviceGetHandleByIndex_v2(0, &b), 0);
  EQUAL(nvmlEventSetCreate(&set), 0);
  control("0 xid 13\n"); // before anybody watches: not told
  EQUAL(nvmlDeviceRegisterEvents(b, 8, set), 0);
  EQUAL(nvmlEventSetWait_v2(set, &e, 10), 10);
  control("0 xid 79\n0 xid 48\n");
  for (unsigned long long xid : {79, 48}) {
    EQUAL(nvmlEventSetWait_v2(set, &e, 5000), 0);
    EQUAL(e.type, 8ull);
    EQUAL(e.data, xid);
    TRUE(e.device.handle == b.handle);
  }
  EQUAL(nvmlEventSetWait_v2(set, &e, 0), 10);
  Gpu g; // and what a kernel does wrong is in the log too
  CUdeviceptr x = g.words(64, 0);
  OK(g.fill(x, 65, 1));
  WANT(CUDA_ERROR_ILLEGAL_ADDRESS, cuCtxSynchronize());
  EQUAL(nvmlEventSetWait_v2(set, &e, 5000), 0);
  EQUAL(e.data, 31ull);
  EQUAL(nvmlEventSetFree(set), 0);
}
