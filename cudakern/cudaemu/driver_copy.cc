// Copies and memsets. Which of them wait, and for what, follows the driver's documentation:
//   from pageable memory   the bytes are staged before the call returns; the copy itself may come later
//   to pageable memory     the call returns when the copy is made, even if it is called asynchronous
//   pinned memory          the plain call waits, the asynchronous one does not
//   device to device       nobody waits, nor for a memset
#include "engine.h"
#include "hostguard.h"
#include "uses.h"

#include <cstring>

using namespace emu;

namespace {

enum class Side { pageable, pinned, device };

// End is one end of a copy: rows of `width` bytes, `pitch` apart.
struct End {
  uint64_t address;
  size_t pitch;
  Side side = Side::pageable;
};

struct Shape {
  size_t width, rows = 1;
  size_t span(size_t pitch) const { return rows ? (rows - 1) * pitch + width : 0; }
};

Access here() {
  const Operation *op = currentOperation();
  return {op->id, full() ? &engine().operations : nullptr, op->label};
}

// place finds out what an end is. host: the caller says that it is host memory; device: that it is the device's.
CUresult place(const char *call, const char *what, End &end, Shape shape, bool host, bool device) {
  std::optional<Allocation> a = memory().find(end.address);
  if (!a && host) return CUDA_SUCCESS; // pageable
  size_t span = shape.span(end.pitch);
  std::string wrong;
  if (!a || !memory().contains(end.address, span))
    wrong = text("%s 0x%llx, %zu bytes: %s", what, (unsigned long long)end.address, span,
                 (a ? "runs over the end of an allocation of " + std::to_string(a->size) + " bytes"
                    : memory().describe(end.address)).c_str());
  else if (!device && (a->kind == Kind::Device || a->kind == Kind::Imported))
    wrong = text("%s 0x%llx is device memory, the call wants host memory", what, (unsigned long long)end.address);
  if (!wrong.empty()) {
    report(std::string(call) + ": " + wrong);
    return CUDA_ERROR_INVALID_VALUE;
  }
  end.side = a->kind == Kind::Pinned || a->kind == Kind::Registered ? Side::pinned : Side::device;
  return CUDA_SUCCESS;
}

// move makes the copy of one row; `staged` is the content of a pageable source.
Fault move(const End &to, const End &from, size_t row, size_t width, const uint8_t *staged) {
  uint64_t dst = to.address + row * to.pitch, src = from.address + row * from.pitch;
  if (to.side != Side::pageable && from.side != Side::pageable) {
    bool host = to.side == Side::pinned || from.side == Side::pinned;
    if (!host) return memory().copy(here(), dst, src, width);
  }
  const uint8_t *source = from.side == Side::pageable ? staged + row * width
                          : from.side == Side::pinned ? memory().bytes(src, width) : nullptr;
  uint8_t *target = to.side == Side::pageable ? reinterpret_cast<uint8_t *>(dst)
                    : to.side == Side::pinned ? memory().bytes(dst, width) : nullptr;
  if ((from.side == Side::pinned && !source) || (to.side == Side::pinned && !target))
    return {CUDA_ERROR_ILLEGAL_ADDRESS, currentOperation()->label + ": host memory was freed before the copy was made"};
  if (from.side == Side::pinned)
    if (Fault f = memory().touch(here(), src, width, false)) return f;
  if (to.side == Side::pinned)
    if (Fault f = memory().touch(here(), dst, width, true)) return f;
  if (to.side == Side::device) return memory().write(here(), dst, width, source);
  if (from.side == Side::device) return memory().read(here(), src, width, target);
  memmove(target, source, width);
  return {};
}

void noteUses(CUctx_st &c, const OperationRef &op, std::initializer_list<const End *> ends) {
  for (const End *end : ends) {
    if (end->side == Side::pageable) continue;
    if (Fault fault = noteUse(end->address, op)) {
      std::lock_guard<std::mutex> lock(engine().mutex);
      breakContext(c, fault.code, fault.text);
    }
  }
}

struct Copy {
  const char *call;
  CUstream stream = nullptr;
  bool async = false;
  std::vector<OperationRef> after;
  OperationRef made; // out
};

// copy enqueues a copy whose ends are placed, and waits for it where the driver would.
CUresult copy(CUctx_st &c, Copy &how, End to, End from, Shape shape) {
  if (!usable(c, how.stream)) return CUDA_ERROR_INVALID_HANDLE;
  if (!shape.width || !shape.rows) return CUDA_SUCCESS;
  auto staged = std::make_shared<std::vector<uint8_t>>();
  if (from.side == Side::pageable) {
    staged->resize(shape.width * shape.rows);
    for (size_t r = 0; r < shape.rows; r++)
      memcpy(staged->data() + r * shape.width, reinterpret_cast<const void *>(from.address + r * from.pitch),
             shape.width);
  }
  bool pageableTarget = to.side == Side::pageable;
  bool waits = pageableTarget || (!how.async && (to.side == Side::pinned || from.side == Side::pinned));
  std::function<Fault()> unchanged;
  if (!waits && from.side == Side::pinned) unchanged = watchSource(from.address, shape.span(from.pitch));
  bool guardsTarget = !waits && to.side == Side::pinned;
  if (guardsTarget)
    for (size_t r = 0; r < shape.rows; r++) spoilTarget(to.address + r * to.pitch, shape.width);
  Operation op;
  op.label = how.call;
  op.run = [=]() -> Fault {
    if (unchanged)
      if (Fault f = unchanged()) return f;
    for (size_t r = 0; r < shape.rows; r++)
      if (Fault f = move(to, from, r, shape.width, staged->data())) return f;
    return {};
  };
  how.made = submit(c, orLegacy(how.stream), std::move(op), std::move(how.after));
  noteUses(c, how.made, {&to, &from});
  if (waits) return wait(c, how.made);
  for (size_t r = 0; r < shape.rows; r++) {
    if (from.side == Side::pinned) guardHost(c, how.made, from.address + r * from.pitch, shape.width, false);
    if (guardsTarget) guardHost(c, how.made, to.address + r * to.pitch, shape.width, true);
  }
  return CUDA_SUCCESS;
}

uint64_t bits(const void *p) { return reinterpret_cast<uint64_t>(p); }

CUresult toDevice(const char *call, CUctx_st &c, CUdeviceptr dst, const void *src, size_t n, CUstream s, bool async) {
  End to{dst, n}, from{bits(src), n};
  if (!src && n) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult r = n ? place(call, "target", to, {n}, false, true) : CUDA_SUCCESS) return r;
  if (CUresult r = n ? place(call, "source", from, {n}, true, false) : CUDA_SUCCESS) return r;
  Copy how{call, s, async, {}, {}};
  return copy(c, how, to, from, {n});
}

CUresult toHost(const char *call, CUctx_st &c, void *dst, CUdeviceptr src, size_t n, CUstream s, bool async) {
  End to{bits(dst), n}, from{src, n};
  if (!dst && n) return CUDA_ERROR_INVALID_VALUE;
  if (CUresult r = n ? place(call, "target", to, {n}, true, false) : CUDA_SUCCESS) return r;
  if (CUresult r = n ? place(call, "source", from, {n}, false, true) : CUDA_SUCCESS) return r;
  Copy how{call, s, async, {}, {}};
  return copy(c, how, to, from, {n});
}

CUresult within(const char *call, CUctx_st &c, CUdeviceptr dst, CUdeviceptr src, size_t n, CUstream s, bool async,
                bool anywhere) {
  End to{dst, n}, from{src, n};
  if (CUresult r = n ? place(call, "target", to, {n}, anywhere, true) : CUDA_SUCCESS) return r;
  if (CUresult r = n ? place(call, "source", from, {n}, anywhere, true) : CUDA_SUCCESS) return r;
  Copy how{call, s, async, {}, {}};
  return copy(c, how, to, from, {n});
}

// betweenPeers is a copy from one context's device to another's. The plain call comes after all that is enqueued in
// the three contexts, and before all that is enqueued later.
CUresult betweenPeers(const char *call, CUctx_st &c, CUdeviceptr dst, CUcontext dstContext, CUdeviceptr src,
                      CUcontext srcContext, size_t n, CUstream s, bool async) {
  if (!alive(dstContext) || !alive(srcContext)) return CUDA_ERROR_INVALID_CONTEXT;
  End to{dst, n}, from{src, n};
  if (!n) return CUDA_SUCCESS;
  if (CUresult r = place(call, "target", to, {n}, false, true)) return r;
  if (CUresult r = place(call, "source", from, {n}, false, true)) return r;
  if (memory().find(dst)->device != dstContext->device->ordinal ||
      memory().find(src)->device != srcContext->device->ordinal) {
    report(std::string(call) + ": an address is of another device than its context");
    return CUDA_ERROR_INVALID_VALUE;
  }
  Copy how{call, s, async, {}, {}};
  if (!async) {
    std::lock_guard<std::mutex> lock(engine().mutex);
    for (CUctx_st *other : {&c, dstContext, srcContext}) {
      how.after.push_back(other->legacy.last);
      for (CUstream_st *stream : other->streams) how.after.push_back(stream->last);
    }
    std::erase_if(how.after, [](const OperationRef &op) { return !op; });
  }
  if (CUresult r = copy(c, how, to, from, {n})) return r;
  for (CUctx_st *other : {dstContext, srcContext}) {
    if (async || other == &c) continue;
    Operation after;
    after.label = call;
    submit(*other, nullptr, std::move(after), {how.made});
  }
  return CUDA_SUCCESS;
}

CUresult rectangle(const char *call, CUctx_st &c, const CUDA_MEMCPY2D *p, CUstream s, bool async) {
  if (!p) return CUDA_ERROR_INVALID_VALUE;
  for (CUmemorytype type : {p->srcMemoryType, p->dstMemoryType})
    if (type == CU_MEMORYTYPE_ARRAY) return CUDA_ERROR_NOT_SUPPORTED;
  if (p->srcXInBytes + p->WidthInBytes > p->srcPitch || p->dstXInBytes + p->WidthInBytes > p->dstPitch)
    if (p->Height > 1) return CUDA_ERROR_INVALID_VALUE;
  bool fromHost = p->srcMemoryType == CU_MEMORYTYPE_HOST, toHost = p->dstMemoryType == CU_MEMORYTYPE_HOST;
  bool fromAny = p->srcMemoryType == CU_MEMORYTYPE_UNIFIED, toAny = p->dstMemoryType == CU_MEMORYTYPE_UNIFIED;
  End to{(toHost ? bits(p->dstHost) : p->dstDevice) + p->dstY * p->dstPitch + p->dstXInBytes, p->dstPitch};
  End from{(fromHost ? bits(p->srcHost) : p->srcDevice) + p->srcY * p->srcPitch + p->srcXInBytes, p->srcPitch};
  Shape shape{p->WidthInBytes, p->Height};
  if (!shape.width || !shape.rows) return CUDA_SUCCESS;
  if (CUresult r = place(call, "target", to, shape, toHost || toAny, !toHost)) return r;
  if (CUresult r = place(call, "source", from, shape, fromHost || fromAny, !fromHost)) return r;
  Copy how{call, s, async, {}, {}};
  return copy(c, how, to, from, shape);
}

// fill is a memset: rows of `width` elements of `size` bytes.
CUresult fill(const char *call, CUctx_st &c, CUdeviceptr at, size_t pitch, uint32_t value, int size, size_t width,
              size_t rows, CUstream s) {
  if (!usable(c, s)) return CUDA_ERROR_INVALID_HANDLE;
  if (!width || !rows) return CUDA_SUCCESS;
  if (at % size || (rows > 1 && (pitch % size || pitch < width * size))) return CUDA_ERROR_INVALID_VALUE;
  End to{at, pitch};
  if (CUresult r = place(call, "target", to, {width * size, rows}, false, true)) return r;
  Operation op;
  op.label = call;
  op.run = [=]() -> Fault {
    for (size_t r = 0; r < rows; r++)
      if (Fault f = memory().set(here(), at + r * pitch, width, value, size)) return f;
    return {};
  };
  OperationRef made = submit(c, orLegacy(s), std::move(op));
  noteUses(c, made, {&to});
  return CUDA_SUCCESS;
}

} // namespace

extern "C" {

CUresult cuMemcpyHtoD(CUdeviceptr dst, const void *src, size_t n) {
  return withContext(__func__, [&](CUctx_st &c) { return toDevice("cuMemcpyHtoD", c, dst, src, n, nullptr, false); });
}
CUresult cuMemcpyHtoDAsync(CUdeviceptr dst, const void *src, size_t n, CUstream s) {
  return withContext(__func__, [&](CUctx_st &c) { return toDevice("cuMemcpyHtoDAsync", c, dst, src, n, s, true); });
}
CUresult cuMemcpyDtoH(void *dst, CUdeviceptr src, size_t n) {
  return withContext(__func__, [&](CUctx_st &c) { return toHost("cuMemcpyDtoH", c, dst, src, n, nullptr, false); });
}
CUresult cuMemcpyDtoHAsync(void *dst, CUdeviceptr src, size_t n, CUstream s) {
  return withContext(__func__, [&](CUctx_st &c) { return toHost("cuMemcpyDtoHAsync", c, dst, src, n, s, true); });
}
CUresult cuMemcpyDtoD(CUdeviceptr dst, CUdeviceptr src, size_t n) {
  return withContext(
      __func__, [&](CUctx_st &c) { return within("cuMemcpyDtoD", c, dst, src, n, nullptr, false, false); });
}
CUresult cuMemcpyDtoDAsync(CUdeviceptr dst, CUdeviceptr src, size_t n, CUstream s) {
  return withContext(__func__,
                     [&](CUctx_st &c) { return within("cuMemcpyDtoDAsync", c, dst, src, n, s, true, false); });
}
CUresult cuMemcpy(CUdeviceptr dst, CUdeviceptr src, size_t n) {
  return withContext(__func__, [&](CUctx_st &c) { return within("cuMemcpy", c, dst, src, n, nullptr, false, true); });
}
CUresult cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t n, CUstream s) {
  return withContext(__func__, [&](CUctx_st &c) { return within("cuMemcpyAsync", c, dst, src, n, s, true, true); });
}
CUresult cuMemcpyPeer(CUdeviceptr dst, CUcontext dstContext, CUdeviceptr src, CUcontext srcContext, size_t n) {
  return withContext(__func__, [&](CUctx_st &c) {
    return betweenPeers("cuMemcpyPeer", c, dst, dstContext, src, srcContext, n, nullptr, false);
  });
}
CUresult cuMemcpyPeerAsync(CUdeviceptr dst, CUcontext dstContext, CUdeviceptr src, CUcontext srcContext, size_t n,
                           CUstream s) {
  return withContext(__func__, [&](CUctx_st &c) {
    return betweenPeers("cuMemcpyPeerAsync", c, dst, dstContext, src, srcContext, n, s, true);
  });
}
CUresult cuMemcpy2D(const CUDA_MEMCPY2D *p) {
  return withContext(__func__, [&](CUctx_st &c) { return rectangle("cuMemcpy2D", c, p, nullptr, false); });
}
CUresult cuMemcpy2DUnaligned(const CUDA_MEMCPY2D *p) {
  return withContext(__func__, [&](CUctx_st &c) { return rectangle("cuMemcpy2DUnaligned", c, p, nullptr, false); });
}
CUresult cuMemcpy2DAsync(const CUDA_MEMCPY2D *p, CUstream s) {
  return withContext(__func__, [&](CUctx_st &c) { return rectangle("cuMemcpy2DAsync", c, p, s, true); });
}

// The twelve memsets differ in the element, in rows and in the stream. (cuda.h's macros turn the plain names that are
// put together here into the symbols with their version.)
#define MEMSET(name, type)                                                                                             \
  CUresult cuMemset##name(CUdeviceptr at, type value, size_t n) {                                                      \
    return withContext(__func__, [&](CUctx_st &c) {                                                                    \
      return fill("cuMemset" #name, c, at, 0, value, sizeof(type), n, 1, nullptr);                                     \
    });                                                                                                                \
  }                                                                                                                    \
  CUresult cuMemset##name##Async(CUdeviceptr at, type value, size_t n, CUstream s) {                                   \
    return withContext(__func__, [&](CUctx_st &c) {                                                                    \
      return fill("cuMemset" #name "Async", c, at, 0, value, sizeof(type), n, 1, s);                                   \
    });                                                                                                                \
  }
#define MEMSET2D(name, type)                                                                                           \
  CUresult cuMemset##name(CUdeviceptr at, size_t pitch, type value, size_t width, size_t rows) {                       \
    return withContext(__func__, [&](CUctx_st &c) {                                                                    \
      return fill("cuMemset" #name, c, at, pitch, value, sizeof(type), width, rows, nullptr);                          \
    });                                                                                                                \
  }                                                                                                                    \
  CUresult cuMemset##name##Async(CUdeviceptr at, size_t pitch, type value, size_t width, size_t rows, CUstream s) {    \
    return withContext(__func__, [&](CUctx_st &c) {                                                                    \
      return fill("cuMemset" #name "Async", c, at, pitch, value, sizeof(type), width, rows, s);                        \
    });                                                                                                                \
  }
MEMSET(D8, unsigned char)
MEMSET(D16, unsigned short)
MEMSET(D32, unsigned int)
MEMSET2D(D2D8, unsigned char)
MEMSET2D(D2D16, unsigned short)
MEMSET2D(D2D32, unsigned int)
#undef MEMSET
#undef MEMSET2D
}
