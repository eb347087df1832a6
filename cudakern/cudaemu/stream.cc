#include "engine.h"
#include "hostguard.h"

#include <algorithm>
#include <chrono>
#include <csignal>

namespace emu {

namespace {

thread_local const Operation *running = nullptr;

using Lock = std::unique_lock<std::mutex>;
constexpr auto pause = std::chrono::milliseconds(1);

// Operations of a context that broke are skipped, as on a GPU: what waits for them goes on, and is told.
Fault perform(CUstream_st *stream, Operation &op, Lock &lock) {
  if (!op.run || stream->context->sticky) return {};
  bool turn = engine().turns.on() && !op.calls;
  if (turn) engine().turns.take(lock, engine().changed, stream);
  Fault outcome;
  if (!stream->context->sticky) {
    lock.unlock();
    running = &op;
    try {
      outcome = op.run();
    } catch (const std::exception &e) {
      outcome = {CUDA_ERROR_UNKNOWN, op.label + ": " + e.what()};
    }
    running = nullptr;
    lock.lock();
  }
  if (turn) engine().turns.give(engine().changed);
  return outcome;
}

// awaitOthers blocks until all that comes first is done. A context that is taken down waits for no other process.
void awaitOthers(CUstream_st *stream, Operation &op, Lock &lock) {
  Engine &e = engine();
  for (const OperationRef &other : op.after) e.changed.wait(lock, [&] { return other->done; });
  while (op.ready && !stream->context->dying && !stream->context->sticky) {
    lock.unlock();
    bool ready = op.ready();
    lock.lock();
    if (ready) break;
    e.changed.wait_for(lock, pause);
  }
}

void serve(CUstream_st *stream) {
  Engine &e = engine();
  Lock lock(e.mutex);
  for (;;) {
    stream->work.wait(lock, [&] { return stream->closing || !stream->queue.empty(); });
    if (stream->queue.empty()) break;
    OperationRef op = stream->queue.front();
    awaitOthers(stream, *op, lock);
    Fault outcome = perform(stream, *op, lock);
    if (outcome.code) breakContext(*stream->context, outcome.code, outcome.text);
    // What the operation holds (arguments, staging memory) is not kept as long as events that name it.
    std::function<Fault()> spent;
    spent.swap(op->run);
    op->after.clear();
    op->ready = nullptr;
    if (op->id) e.operations.finished(op->id);
    op->finished = milliseconds();
    op->done = true;
    stream->queue.pop_front();
    e.changed.notify_all();
    if (spent) {
      lock.unlock();
      spent = nullptr;
      lock.lock();
    }
  }
  stream->finished = true;
}

// Threads of streams take no signals of the program's: a Go runtime would have to adopt them to handle one.
std::thread quietThread(CUstream_st *stream) {
  sigset_t all, before;
  sigfillset(&all);
  for (int s : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGTRAP}) sigdelset(&all, s);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread;
  try {
    thread = std::thread(serve, stream);
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

// legacyOrder adds the default stream's rules: it waits for every blocking stream, and they wait for it.
void legacyOrder(CUctx_st &context, CUstream_st *stream, std::vector<OperationRef> &after) {
  auto add = [&](const OperationRef &op) {
    if (op) after.push_back(op);
  };
  if (stream != &context.legacy) {
    if (stream->blocking()) add(context.legacy.last);
    return;
  }
  for (CUstream_st *other : context.streams)
    if (other->blocking()) add(other->last);
  for (CUstream_st *other : context.closed)
    if (other->blocking()) add(other->last);
}

// stamp gives an operation its clock, and its id if it has something to run.
void stamp(Operation &op, CUstream_st *stream, const std::vector<OperationRef> &after) {
  op.clock = engine().host;
  if (stream->last) join(op.clock, stream->last->clock);
  for (const OperationRef &other : after) join(op.clock, other->clock);
  if (stream == &stream->context->legacy) join(op.clock, stream->context->endedBlocking);
  if (op.clock.size() <= op.stream) op.clock.resize(op.stream + 1);
  op.clock[op.stream] = op.tick;
  if (op.run) engine().operations.add(op);
}

// settle takes into the host's clock what it has waited for.
void settle(const Ticks &clock) {
  if (!full()) return;
  join(engine().host, clock);
  settleGuards(engine().host);
}

void await(const OperationRef &op, Lock &lock) {
  Engine &e = engine();
  if (op->done) return;
  e.turns.waiting++;
  e.changed.notify_all();
  e.changed.wait(lock, [&] { return op->done; });
  e.turns.waiting--;
}

} // namespace

void join(Ticks &into, const Ticks &from) {
  if (into.size() < from.size()) into.resize(from.size());
  for (size_t i = 0; i < from.size(); i++) into[i] = std::max(into[i], from[i]);
}

const Operation *currentOperation() { return running; }

uint64_t Turns::next() {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state * 0x2545f4914f6cdd1dull >> 11;
}

void Turns::choose(bool all) {
  if (busy || chosen) return;
  std::vector<CUstream_st *> may;
  for (CUstream_st *s : candidates)
    if (all || waiting > 0 || !s->queue.front()->held) may.push_back(s);
  if (!may.empty()) chosen = may[next() % may.size()];
}

void Turns::take(Lock &lock, std::condition_variable &changed, CUstream_st *stream) {
  candidates.push_back(stream);
  for (bool all = false;;) {
    choose(all);
    if (chosen == stream) break;
    if (chosen) changed.notify_all();
    all = changed.wait_for(lock, pause) == std::cv_status::timeout; // nothing happens: held ones have their turn
  }
  candidates.erase(std::find(candidates.begin(), candidates.end(), stream));
  chosen = nullptr;
  busy = true;
}

void Turns::give(std::condition_variable &changed) {
  busy = false;
  choose(false);
  changed.notify_all();
}

OperationRef submit(CUctx_st &context, CUstream_st *stream, Operation operation, std::vector<OperationRef> after) {
  Engine &e = engine();
  auto op = std::make_shared<Operation>(std::move(operation));
  Lock lock(e.mutex);
  if (!stream) stream = &context.legacy;
  legacyOrder(context, stream, after);
  op->stream = stream->number;
  op->tick = ++stream->tick;
  // Clocks are for the checks; without them events and threads keep the order.
  if (full()) stamp(*op, stream, after);
  for (OperationRef &other : after)
    if (!other->done) op->after.push_back(std::move(other));
  op->held = e.turns.on() && e.turns.coin();
  if (!stream->thread.joinable()) stream->thread = quietThread(stream);
  stream->queue.push_back(op);
  stream->last = op;
  stream->work.notify_one();
  return op;
}

CUresult wait(CUctx_st &context, const OperationRef &operation) {
  Lock lock(engine().mutex);
  if (operation) {
    await(operation, lock);
    settle(operation->clock);
  }
  return stickyOf(context);
}

CUresult query(CUctx_st &context, const OperationRef &operation) {
  Engine &e = engine();
  Lock lock(e.mutex);
  if (context.sticky) return stickyOf(context);
  if (operation && !operation->done) return CUDA_ERROR_NOT_READY;
  if (operation) settle(operation->clock);
  return CUDA_SUCCESS;
}

CUresult drained(CUctx_st &context) {
  Lock lock(engine().mutex);
  // All is waited for before anything counts as waited for: till then a host function that is not ordered may trespass.
  std::vector<OperationRef> last{context.legacy.last};
  for (CUstream_st *s : context.streams) last.push_back(s->last);
  for (CUstream_st *s : context.closed) last.push_back(s->last);
  std::erase(last, nullptr);
  for (const OperationRef &op : last) await(op, lock);
  for (const OperationRef &op : last) settle(op->clock);
  settle(context.ended);
  return stickyOf(context);
}

void closeStream(CUstream_st *stream) {
  Engine &e = engine();
  Lock lock(e.mutex);
  e.streams.erase(stream);
  stream->context->streams.erase(stream);
  stream->context->closed.push_back(stream);
  stream->closing = true;
  stream->work.notify_one();
}

void joinStreams(CUctx_st &context, bool all) {
  Engine &e = engine();
  std::vector<CUstream_st *> ended;
  {
    Lock lock(e.mutex);
    auto &closed = context.closed;
    auto ends = [&](CUstream_st *s) { return all || s->finished || !s->thread.joinable(); };
    auto keep = std::stable_partition(closed.begin(), closed.end(), [&](CUstream_st *s) { return !ends(s); });
    ended.assign(keep, closed.end());
    closed.erase(keep, closed.end());
    for (CUstream_st *s : ended) {
      if (!s->last) continue;
      join(context.ended, s->last->clock);
      if (s->blocking()) join(context.endedBlocking, s->last->clock);
    }
  }
  // The structs stay, some hundred bytes each: a handle that is used after its end must not be another stream's.
  for (CUstream_st *s : ended)
    if (s->thread.joinable()) s->thread.join();
}

} // namespace emu
