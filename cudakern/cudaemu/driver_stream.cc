// Streams, events and host functions, as the program calls them.
#include "engine.h"
#include "hostguard.h"
#include "ipc.h"
#include "module.h"

#include <algorithm>

using namespace emu;

namespace {

CUresult newStream(CUctx_st &c, CUstream *stream, unsigned flags, int priority) {
  if (!stream || flags & ~unsigned(CU_STREAM_NON_BLOCKING)) return CUDA_ERROR_INVALID_VALUE;
  auto *s = new CUstream_st;
  s->context = &c;
  s->flags = flags;
  s->priority = std::clamp(priority, greatestPriority, 0);
  joinStreams(c, false);
  Engine &e = engine();
  std::lock_guard<std::mutex> lock(e.mutex);
  s->number = e.streamCount++;
  c.streams.insert(s);
  e.streams.insert(s);
  *stream = s;
  return CUDA_SUCCESS;
}

bool known(CUevent event) {
  Engine &e = engine();
  std::lock_guard<std::mutex> lock(e.mutex);
  return event && e.events.count(event);
}

OperationRef recordedBy(CUevent event) {
  std::lock_guard<std::mutex> lock(engine().mutex);
  return event->recorded;
}

OperationRef lastOf(CUctx_st &c, CUstream stream) {
  std::lock_guard<std::mutex> lock(engine().mutex);
  stream = orLegacy(stream);
  return (stream ? stream : &c.legacy)->last;
}

// The default stream stands for all blocking ones, done or not: what waits for it waits for them.
CUresult settled(CUctx_st &c, CUstream stream, bool block) {
  std::vector<OperationRef> last{lastOf(c, stream)};
  if (!orLegacy(stream)) {
    std::lock_guard<std::mutex> lock(engine().mutex);
    for (CUstream_st *s : c.streams)
      if (s->blocking()) last.push_back(s->last);
  }
  for (const OperationRef &op : last)
    if (CUresult r = block ? wait(c, op) : query(c, op)) return r;
  return CUDA_SUCCESS;
}

} // namespace

extern "C" {

CUresult cuStreamCreate(CUstream *stream, unsigned int flags) {
  return withContext(__func__, [&](CUctx_st &c) { return newStream(c, stream, flags, 0); });
}

CUresult cuStreamCreateWithPriority(CUstream *stream, unsigned int flags, int priority) {
  return withContext(__func__, [&](CUctx_st &c) { return newStream(c, stream, flags, priority); });
}

CUresult cuStreamDestroy(CUstream stream) {
  return withContext(__func__, [&](CUctx_st &c) {
    if (!orLegacy(stream) || !usable(c, stream)) return CUDA_ERROR_INVALID_HANDLE;
    closeStream(stream);
    joinStreams(c, false);
    return CUDA_SUCCESS;
  });
}

CUresult cuStreamGetPriority(CUstream stream, int *priority) {
  return withContext(__func__, [&](CUctx_st &c) {
    if (!priority) return CUDA_ERROR_INVALID_VALUE;
    if (!usable(c, stream)) return CUDA_ERROR_INVALID_HANDLE;
    *priority = orLegacy(stream) ? stream->priority : 0;
    return CUDA_SUCCESS;
  });
}

CUresult cuStreamGetFlags(CUstream stream, unsigned int *flags) {
  return withContext(__func__, [&](CUctx_st &c) {
    if (!flags) return CUDA_ERROR_INVALID_VALUE;
    if (!usable(c, stream)) return CUDA_ERROR_INVALID_HANDLE;
    *flags = orLegacy(stream) ? stream->flags : 0;
    return CUDA_SUCCESS;
  });
}

CUresult cuStreamSynchronize(CUstream stream) {
  return withContext(__func__, [&](CUctx_st &c) {
    if (!usable(c, stream)) return CUDA_ERROR_INVALID_HANDLE;
    CUresult r = settled(c, stream, true);
    writeCounts(false);
    return r;
  });
}

CUresult cuStreamQuery(CUstream stream) {
  return withContext(__func__, [&](CUctx_st &c) {
    if (!usable(c, stream)) return CUDA_ERROR_INVALID_HANDLE;
    return settled(c, stream, false);
  });
}

CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned int flags) {
  return withContext(__func__, [&](CUctx_st &c) {
    if (!known(event) || !usable(c, stream)) return CUDA_ERROR_INVALID_HANDLE;
    if (flags & ~1u) return CUDA_ERROR_INVALID_VALUE;
    Operation op;
    op.label = "cuStreamWaitEvent";
    if (event->shared) op.ready = waiterFor(*event);
    OperationRef recorded = recordedBy(event);
    if (recorded || op.ready) {
      std::vector<OperationRef> after;
      if (recorded) after.push_back(recorded);
      submit(c, orLegacy(stream), std::move(op), std::move(after));
    }
    return CUDA_SUCCESS;
  });
}

CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void *argument) {
  return withContext(__func__, [&](CUctx_st &c) {
    if (!function) return CUDA_ERROR_INVALID_VALUE;
    if (!usable(c, stream)) return CUDA_ERROR_INVALID_HANDLE;
    Operation op;
    op.label = "cuLaunchHostFunc";
    op.calls = true;
    op.run = [=, pending = Pending(engine().hostFunctions)] {
      if (full()) settleGuards(currentOperation()->clock);
      function(argument);
      return Fault{};
    };
    submit(c, orLegacy(stream), std::move(op));
    return CUDA_SUCCESS;
  });
}

CUresult cuEventCreate(CUevent *event, unsigned int flags) {
  return withContext(__func__, [&](CUctx_st &c) {
    constexpr unsigned all = CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING | CU_EVENT_INTERPROCESS;
    bool shared = flags & CU_EVENT_INTERPROCESS;
    if (!event || flags & ~all || (shared && !(flags & CU_EVENT_DISABLE_TIMING))) return CUDA_ERROR_INVALID_VALUE;
    auto made = std::make_unique<CUevent_st>();
    made->context = &c;
    made->flags = flags;
    if (shared) made->shared = SharedEvent::create();
    Engine &e = engine();
    std::lock_guard<std::mutex> lock(e.mutex);
    e.events.insert(made.get());
    *event = made.release();
    return CUDA_SUCCESS;
  });
}

CUresult cuEventDestroy(CUevent event) {
  return withContext(__func__, [&](CUctx_st &) {
    Engine &e = engine();
    std::lock_guard<std::mutex> lock(e.mutex);
    if (!event || !e.events.count(event)) return CUDA_ERROR_INVALID_HANDLE;
    forgetEvent(event);
    return CUDA_SUCCESS;
  });
}

CUresult cuEventRecord(CUevent event, CUstream stream) {
  return withContext(__func__, [&](CUctx_st &c) {
    if (!known(event) || event->context != &c || !usable(c, stream)) return CUDA_ERROR_INVALID_HANDLE;
    Operation op;
    op.label = "cuEventRecord";
    if (event->shared) op.run = recorderOf(*event);
    OperationRef recorded = submit(c, orLegacy(stream), std::move(op));
    std::lock_guard<std::mutex> lock(engine().mutex);
    event->recorded = recorded;
    return CUDA_SUCCESS;
  });
}

CUresult cuEventQuery(CUevent event) {
  return withContext(__func__, [&](CUctx_st &c) {
    if (!known(event)) return CUDA_ERROR_INVALID_HANDLE;
    if (event->shared && !waiterFor(*event)()) return CUDA_ERROR_NOT_READY;
    return query(c, recordedBy(event));
  });
}

CUresult cuEventSynchronize(CUevent event) {
  return withContext(__func__, [&](CUctx_st &c) {
    if (!known(event)) return CUDA_ERROR_INVALID_HANDLE;
    if (event->shared) awaitShared(c, *event);
    CUresult r = wait(c, recordedBy(event));
    writeCounts(false);
    return r;
  });
}

CUresult cuEventElapsedTime(float *result, CUevent from, CUevent to) {
  return withContext(__func__, [&](CUctx_st &) {
    if (!result) return CUDA_ERROR_INVALID_VALUE;
    if (!known(from) || !known(to)) return CUDA_ERROR_INVALID_HANDLE;
    std::lock_guard<std::mutex> lock(engine().mutex);
    if (!from->recorded || !to->recorded || (from->flags | to->flags) & CU_EVENT_DISABLE_TIMING)
      return CUDA_ERROR_INVALID_HANDLE;
    if (!from->recorded->done || !to->recorded->done) return CUDA_ERROR_NOT_READY;
    *result = float(to->recorded->finished - from->recorded->finished);
    return CUDA_SUCCESS;
  });
}

CUresult cuIpcGetEventHandle(CUipcEventHandle *handle, CUevent event) {
  return withContext(__func__, [&](CUctx_st &) {
    if (!handle) return CUDA_ERROR_INVALID_VALUE;
    if (!known(event) || !event->shared) return CUDA_ERROR_INVALID_HANDLE;
    event->shared->name(handle->reserved);
    return CUDA_SUCCESS;
  });
}

CUresult cuIpcOpenEventHandle(CUevent *event, CUipcEventHandle handle) {
  return withContext(__func__, [&](CUctx_st &c) {
    if (!event) return CUDA_ERROR_INVALID_VALUE;
    std::shared_ptr<SharedEvent> shared = SharedEvent::open(handle.reserved);
    if (!shared) return CUDA_ERROR_INVALID_HANDLE;
    auto made = std::make_unique<CUevent_st>();
    made->context = &c;
    made->flags = CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING;
    made->shared = std::move(shared);
    Engine &e = engine();
    std::lock_guard<std::mutex> lock(e.mutex);
    e.events.insert(made.get());
    *event = made.release();
    return CUDA_SUCCESS;
  });
}
}
