// Memory and events of two processes. The case starts itself a second time, as the other side.
#include "harness.h"

#include <cstring>
#include <sys/wait.h>
#include <unistd.h>

namespace {

struct Parcel { // what goes through the pipe
  CUipcMemHandle memory;
  CUipcEventHandle filled, taken;
};

void sendAll(int fd, const void *p, size_t n) { TRUE(write(fd, p, n) == ssize_t(n)); }
void receiveAll(int fd, void *p, size_t n) {
  auto *at = static_cast<char *>(p);
  while (n) {
    ssize_t got = read(fd, at, n);
    TRUE(got > 0);
    at += got, n -= size_t(got);
  }
}

// other runs a case in a new process: its standard input and output are the pipes given back.
pid_t other(const char *name, int &to, int &from) {
  int in[2], out[2];
  TRUE(pipe(in) == 0 && pipe(out) == 0);
  pid_t pid = fork();
  if (pid == 0) {
    dup2(in[0], 0);
    dup2(out[1], 1);
    for (int fd : {in[0], in[1], out[0], out[1]}) close(fd);
    execl("/proc/self/exe", "driver", getenv("KERNELS"), name, nullptr);
    _exit(127);
  }
  close(in[0]);
  close(out[1]);
  to = in[1], from = out[0];
  return pid;
}

void ended(pid_t pid, int wanted) {
  int status = 0;
  TRUE(waitpid(pid, &status, 0) == pid);
  EQUAL(status, wanted);
}

} // namespace

// Ten rounds: this process fills, the other adds 1, this one checks; only events order them, no host wait between.
CASE(ipc) {
  Gpu g;
  CUstream s = stream();
  CUdeviceptr x = g.words(1000, 0);
  unsigned flags = CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING;
  CUevent filled = event(flags), taken = event(flags);
  CUevent plain = event(), wrong;
  CUipcEventHandle none;
  WANT(CUDA_ERROR_INVALID_HANDLE, cuIpcGetEventHandle(&none, plain));
  WANT(CUDA_ERROR_INVALID_VALUE, cuEventCreate(&wrong, CU_EVENT_INTERPROCESS)); // it can have no timing
  Parcel p;
  OK(cuIpcGetMemHandle(&p.memory, x));
  OK(cuIpcGetEventHandle(&p.filled, filled));
  OK(cuIpcGetEventHandle(&p.taken, taken));
  CUdeviceptr y;
  WANT(CUDA_ERROR_INVALID_CONTEXT, cuIpcOpenMemHandle(&y, p.memory, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
  int to, from;
  pid_t pid = other("ipcOther", to, from);
  sendAll(to, &p, sizeof p);
  char byte;
  for (uint32_t round = 0; round < 10; round++) {
    OK(g.fill(x, 1000, 10 * round, s));
    OK(cuEventRecord(filled, s));
    sendAll(to, &byte, 1);
    receiveAll(from, &byte, 1); // the other has enqueued its part
    OK(cuStreamWaitEvent(s, taken, 0));
    OK(g.increase(x, 1000, s));
    OK(cuStreamSynchronize(s));
    EQUAL(g.read(x, 1000)[999], 10 * round + 2);
  }
  ended(pid, 0);
  OK(cuMemFree(x));
}

CASE(ipcOther) {
  Gpu g(1); // of another device: it needs peer access
  Parcel p;
  receiveAll(0, &p, sizeof p);
  CUdeviceptr x;
  CUevent filled, taken;
  OK(cuIpcOpenMemHandle(&x, p.memory, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
  OK(cuIpcOpenEventHandle(&filled, p.filled));
  OK(cuIpcOpenEventHandle(&taken, p.taken));
  CUstream s = stream();
  char byte = 0;
  for (int round = 0; round < 10; round++) {
    receiveAll(0, &byte, 1);
    OK(cuStreamWaitEvent(s, filled, 0));
    OK(g.increase(x, 1000, s));
    OK(cuEventRecord(taken, s));
    sendAll(1, &byte, 1);
  }
  OK(cuStreamSynchronize(s));
  WANT(CUDA_ERROR_INVALID_VALUE, cuMemFree(x)); // it is not this process's to free
  OK(cuIpcCloseMemHandle(x));
  OK(cuCtxDestroy(g.context));
  close(1);
  _Exit(0);
}

// The other is killed before its stream comes to the event: the wait ends with an error and names it.
CASE(ipcPeerDies) {
  Gpu g;
  CUevent never = event(CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING);
  Parcel p;
  OK(cuIpcGetEventHandle(&p.taken, never));
  int to, from;
  pid_t pid = other("ipcDies", to, from);
  sendAll(to, &p, sizeof p);
  char byte;
  receiveAll(from, &byte, 1);
  WANT(CUDA_ERROR_NOT_READY, cuEventQuery(never));
  kill(pid, SIGKILL);
  ended(pid, SIGKILL);
  WANT(CUDA_ERROR_LAUNCH_TIMEOUT, cuEventSynchronize(never));
}

CASE(ipcDies) {
  Gpu g;
  Parcel p;
  receiveAll(0, &p, sizeof p);
  CUevent never;
  OK(cuIpcOpenEventHandle(&never, p.taken));
  CUstream s = stream();
  OK(cuLaunchHostFunc(s, [](void *) { pause(); }, nullptr));
  OK(cuEventRecord(never, s));
  char byte = 0;
  sendAll(1, &byte, 1);
  pause();
}

// Handles of a process that has ended open nothing, nor does what is no handle.
CASE(ipcStale) {
  Gpu g;
  int to, from;
  pid_t pid = other("ipcStaleOther", to, from);
  Parcel p;
  receiveAll(from, &p, sizeof p);
  ended(pid, 0);
  CUdeviceptr x;
  CUevent e;
  TRUE(cuIpcOpenMemHandle(&x, p.memory, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS) != CUDA_SUCCESS);
  WANT(CUDA_ERROR_INVALID_HANDLE, cuIpcOpenEventHandle(&e, p.filled));
  memset(&p, 7, sizeof p);
  TRUE(cuIpcOpenMemHandle(&x, p.memory, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS) != CUDA_SUCCESS);
  WANT(CUDA_ERROR_INVALID_HANDLE, cuIpcOpenEventHandle(&e, p.filled));
  OK(cuCtxSynchronize());
}
CASE(ipcStaleOther) {
  Gpu g;
  Parcel p;
  OK(cuIpcGetMemHandle(&p.memory, g.words(1000, 0)));
  OK(cuIpcGetEventHandle(&p.filled, event(CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING)));
  sendAll(1, &p, sizeof p);
  close(1);
  _Exit(0);
}
