// Streams: queues of operations, one thread each, and the order between operations.
//
// Two orders are kept apart. What really happens first is settled by threads (and by the scheduler, where a seed asks
// for shuffled order). What must happen first is a vector clock in every operation: its stream's operations before it,
// whatever its events wait for, and whatever the host had waited for when it was enqueued. Two accesses that the second
// order does not settle are a race, whether or not the first order happened to be kind.
#pragma once

#include "../cuda/include/cuda.h"
#include "memory.h"

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace emu {

// Ticks[s] is how many operations of stream s come before; a stream that is not in it has none.
using Ticks = std::vector<uint32_t>;

// join makes a clock cover another.
void join(Ticks &into, const Ticks &from);
// covers says whether operation `tick` of stream s lies in a clock.
inline bool covers(const Ticks &clock, uint32_t s, uint32_t tick) { return s < clock.size() && tick <= clock[s]; }

struct Operation {
  std::function<Fault()> run;    // empty: a marker
  std::function<bool()> ready;     // something outside the process that it waits for; asked again every millisecond
  std::vector<std::shared_ptr<Operation>> after; // operations of other streams that come first
  std::string label;               // "launch of NAME" or the call that enqueued it
  bool calls = false;              // a host function: it takes no turn from others and may block
  bool held = false;               // shuffled order: not before the host waits
  uint32_t stream = 0, tick = 0;
  uint32_t id = 0;                 // above 0 where it has something to run
  Ticks clock;                     // with itself in it
  bool done = false;               // guarded by the engine's mutex, as is all below
  double finished = 0;             // milliseconds
};
using OperationRef = std::shared_ptr<Operation>;

class SharedEvent;

// Priorities of streams go from 0 to this, the most urgent. They are remembered and change nothing.
constexpr int greatestPriority = -5;

} // namespace emu

struct CUstream_st {
  CUctx_st *context = nullptr;
  unsigned flags = 0;
  int priority = 0;
  uint32_t number = 0;                  // index into clocks; 0 is the host
  std::deque<emu::OperationRef> queue;  // the front one runs
  emu::OperationRef last;               // newest, done or not
  uint32_t tick = 0;
  bool closing = false, finished = false;
  std::condition_variable work;         // an operation came, or the stream closes
  std::thread thread;                   // started by the first operation, joined by whoever closes the stream
  bool blocking() const { return !(flags & CU_STREAM_NON_BLOCKING); }
};

struct CUevent_st {
  CUctx_st *context = nullptr;
  unsigned flags = 0;
  emu::OperationRef recorded;           // what the last record enqueued
  std::shared_ptr<emu::SharedEvent> shared; // of several processes, see ipc.h
};

namespace emu {

// Turns picks which operation runs next where a seed asks for shuffled order: one at a time, drawn from the streams
// whose turn it could be. An operation that drew "held" waits until somebody waits for the device, so that a host that
// forgot to is ahead of it. All is guarded by the engine's mutex.
class Turns {
public:
  void start(uint64_t seed) {
    state = seed * 0x9e3779b97f4a7c15ull + 1;
    shuffled = true;
  }
  bool on() const { return shuffled; }
  bool coin() { return next() & 1; }
  // take blocks the stream's thread until it is its turn.
  void take(std::unique_lock<std::mutex> &lock, std::condition_variable &changed, CUstream_st *stream);
  void give(std::condition_variable &changed);
  int waiting = 0; // host threads that wait

private:
  uint64_t next();
  void choose(bool all);
  bool shuffled = false;
  uint64_t state = 1;
  bool busy = false;
  CUstream_st *chosen = nullptr;
  std::vector<CUstream_st *> candidates;
};

// submit puts an operation at a stream's end (null: the context's legacy default stream) and gives it its clock.
// `after` are operations of other streams that come first; the default stream's rules are added here.
OperationRef submit(CUctx_st &context, CUstream_st *stream, Operation operation,
                    std::vector<OperationRef> after = {});
// wait blocks until the operation is done, takes it into the host's clock and gives the context's sticky error.
CUresult wait(CUctx_st &context, const OperationRef &operation);
// drained waits for all that is enqueued in a context.
CUresult drained(CUctx_st &context);
// query is wait without waiting: NOT_READY, or what wait gives.
CUresult query(CUctx_st &context, const OperationRef &operation);
// closeStream lets the queue run out and gives the stream's thread to the context to join.
void closeStream(CUstream_st *stream);
// joinStreams joins the threads of streams that have been closed: all of them, or those that have ended.
void joinStreams(CUctx_st &context, bool all);
// currentOperation is the operation that the calling thread runs, null on the program's own threads.
const Operation *currentOperation();

} // namespace emu
