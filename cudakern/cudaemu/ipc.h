// Events of several processes: a page of shared memory with two counters. A record takes the next number when it is
// enqueued and publishes it when the stream comes to it; a wait is for the newest number given out when it is enqueued.
// Between processes nothing is known of what came before what, so races are looked for within a process only.
#pragma once

#include "stream.h"

#include <atomic>

namespace emu {

class SharedEvent {
public:
  static std::shared_ptr<SharedEvent> create();
  // open maps the event that a handle names, null if there is none (any more).
  static std::shared_ptr<SharedEvent> open(const char handle[CU_IPC_HANDLE_SIZE]);
  // ofThisProcess says whether a handle was made here.
  static bool ofThisProcess(const char handle[CU_IPC_HANDLE_SIZE]);
  ~SharedEvent();
  void name(char handle[CU_IPC_HANDLE_SIZE]) const;

  uint64_t record();           // number of the record that is being enqueued
  void reach(uint64_t number); // the stream has come to it
  uint64_t newest() const { return page->recorded; }
  bool reached(uint64_t number) const { return page->reached >= number; }
  // abandoned gives the process that recorded last if it is gone, else 0.
  int abandoned() const;

private:
  struct Page {
    std::atomic<uint64_t> recorded, reached;
    std::atomic<int32_t> recorder;
  };
  SharedEvent(int fd, Page *page) : fd(fd), page(page) {}
  int fd;
  Page *page;
};

// recorderOf and waiterFor make what an operation runs, and what it waits for.
std::function<Fault()> recorderOf(CUevent_st &event);
std::function<bool()> waiterFor(CUevent_st &event);
// awaitShared blocks the host until the newest record is reached, or can no longer be: then the context is broken.
void awaitShared(CUctx_st &context, CUevent_st &event);

} // namespace emu
