#include "ipc.h"
#include "engine.h"

#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace emu {

namespace {

struct Handle {
  uint32_t magic;
  int32_t pid, fd;
  uint64_t inode;
};
static_assert(sizeof(Handle) <= CU_IPC_HANDLE_SIZE);
constexpr uint32_t magic = 0x43454d45;
constexpr size_t pageBytes = 4096;

uint64_t inodeOf(int fd) {
  struct stat s;
  return fstat(fd, &s) == 0 ? s.st_ino : 0;
}

void *mapPage(int fd) {
  void *at = mmap(nullptr, pageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  return at == MAP_FAILED ? nullptr : at;
}

} // namespace

std::shared_ptr<SharedEvent> SharedEvent::create() {
  int fd = memfd_create("cudaemu-event", MFD_CLOEXEC);
  if (fd < 0) throw std::bad_alloc();
  void *at = ftruncate(fd, pageBytes) == 0 ? mapPage(fd) : nullptr;
  if (!at) {
    close(fd);
    throw std::bad_alloc();
  }
  return std::shared_ptr<SharedEvent>(new SharedEvent(fd, new (at) Page{}));
}

bool SharedEvent::ofThisProcess(const char bytes[CU_IPC_HANDLE_SIZE]) {
  Handle h;
  memcpy(&h, bytes, sizeof h);
  return h.magic == magic && h.pid == getpid();
}

std::shared_ptr<SharedEvent> SharedEvent::open(const char bytes[CU_IPC_HANDLE_SIZE]) {
  Handle h;
  memcpy(&h, bytes, sizeof h);
  if (h.magic != magic) return nullptr;
  int fd = ::open(text("/proc/%d/fd/%d", h.pid, h.fd).c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return nullptr;
  void *at = inodeOf(fd) == h.inode ? mapPage(fd) : nullptr;
  if (!at) {
    close(fd);
    return nullptr;
  }
  return std::shared_ptr<SharedEvent>(new SharedEvent(fd, static_cast<Page *>(at)));
}

SharedEvent::~SharedEvent() {
  munmap(page, pageBytes);
  close(fd);
}

void SharedEvent::name(char bytes[CU_IPC_HANDLE_SIZE]) const {
  Handle h{magic, getpid(), fd, inodeOf(fd)};
  memset(bytes, 0, CU_IPC_HANDLE_SIZE);
  memcpy(bytes, &h, sizeof h);
}

uint64_t SharedEvent::record() {
  page->recorder = getpid();
  return ++page->recorded;
}

void SharedEvent::reach(uint64_t number) {
  uint64_t seen = page->reached;
  while (seen < number && !page->reached.compare_exchange_weak(seen, number)) {
  }
}

int SharedEvent::abandoned() const {
  int pid = page->recorder;
  return pid > 0 && kill(pid, 0) != 0 && errno == ESRCH ? pid : 0;
}

std::function<Fault()> recorderOf(CUevent_st &event) {
  std::shared_ptr<SharedEvent> shared = event.shared;
  uint64_t number = shared->record();
  return [=] {
    shared->reach(number);
    return Fault{};
  };
}

std::function<bool()> waiterFor(CUevent_st &event) {
  std::shared_ptr<SharedEvent> shared = event.shared;
  uint64_t number = shared->newest();
  return [=] { return shared->reached(number); };
}

void awaitShared(CUctx_st &context, CUevent_st &event) {
  std::shared_ptr<SharedEvent> shared = event.shared;
  std::function<bool()> reached = waiterFor(event);
  Engine &e = engine();
  std::unique_lock<std::mutex> lock(e.mutex);
  e.turns.waiting++;
  while (!reached() && !context.sticky && !context.dying) {
    if (int pid = shared->abandoned(); pid && !reached())
      breakContext(context, CUDA_ERROR_LAUNCH_TIMEOUT,
                   text("cuEventSynchronize: process %d recorded the event, did not come to it and is gone", pid));
    e.changed.wait_for(lock, std::chrono::microseconds(200));
  }
  e.turns.waiting--;
}

} // namespace emu
