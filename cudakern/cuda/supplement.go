//go:build cuda && cgo

package cuda

/*
#include <stdlib.h>
#include <string.h>
#include <cuda.h>

enum { CK_ARGUMENTS = 32 };

// What happens on a thread of the caller's: the context is current for this one call and no longer.
#define CK_WITH_CONTEXT(ctx, call) \
	CUresult rc = cuCtxPushCurrent(ctx), back; \
	CUcontext popped; \
	if (rc != CUDA_SUCCESS) return rc; \
	rc = (call); \
	back = cuCtxPopCurrent(&popped); \
	return rc != CUDA_SUCCESS ? rc : back

static CUresult ck_wait_stream(CUcontext ctx, CUstream s) { CK_WITH_CONTEXT(ctx, cuStreamSynchronize(s)); }
static CUresult ck_wait_event(CUcontext ctx, CUevent e) { CK_WITH_CONTEXT(ctx, cuEventSynchronize(e)); }

// Memory that others may use is given back behind all that is enqueued.
static CUresult ck_free_landing(CUcontext ctx, CUdeviceptr at) {
	CK_WITH_CONTEXT(ctx, (rc = cuCtxSynchronize()) != CUDA_SUCCESS ? rc : cuMemFree(at));
}
static CUresult ck_ipc_handle(CUcontext ctx, CUipcMemHandle *h, CUdeviceptr at) {
	CK_WITH_CONTEXT(ctx, cuIpcGetMemHandle(h, at));
}
static CUresult ck_ipc_close(CUcontext ctx, CUdeviceptr at) {
	CK_WITH_CONTEXT(ctx, (rc = cuCtxSynchronize()) != CUDA_SUCCESS ? rc : cuIpcCloseMemHandle(at));
}

// cells are n arguments of 8 bytes each, of which the driver reads as many as the parameter has.
static CUresult ck_launch(CUfunction f, const unsigned *size, unsigned shared, CUstream s, unsigned long long *cells,
    int n) {
	void *at[CK_ARGUMENTS];
	for (int i = 0; i < n; i++) at[i] = cells + i;
	return cuLaunchKernel(f, size[0], size[1], size[2], size[3], size[4], size[5], shared, s, at, NULL);
}

// PTX is compiled by the driver, which says in a log what it refuses.
static CUresult ck_load(CUmodule *m, const void *image, char *log, size_t bytes) {
	CUjit_option what[] = {CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES};
	void *with[] = {log, (void *)bytes};
	return cuModuleLoadDataEx(m, image, 2, what, with);
}
*/
import "C"

import (
	"strings"
	"unsafe"

	"gorgonia.org/cu"
)

// What gorgonia.org/cu lacks. Its handles are structs of one C pointer; raw takes the pointer out.
func rawContext(c cu.CUContext) C.CUcontext { return *(*C.CUcontext)(unsafe.Pointer(&c)) }
func rawStream(s cu.Stream) C.CUstream      { return *(*C.CUstream)(unsafe.Pointer(&s)) }
func rawEvent(e cu.Event) C.CUevent         { return *(*C.CUevent)(unsafe.Pointer(&e)) }
func rawFunction(f cu.Function) C.CUfunction {
	return *(*C.CUfunction)(unsafe.Pointer(&f))
}

// called is the error of a call of the supplement.
func called(rc C.CUresult, call, detail string) error {
	if rc == C.CUDA_SUCCESS {
		return nil
	}
	return &Error{Call: call, Detail: detail, Code: int(rc)}
}

// codeName is the driver's name of a code: CUDA_ERROR_OUT_OF_MEMORY.
func codeName(code int) string {
	var s *C.char
	if C.cuGetErrorName(C.CUresult(code), &s) == C.CUDA_SUCCESS && s != nil {
		return C.GoString(s)
	}
	if s, ok := knownCodes[code]; ok {
		return s
	}
	return "CUDA_ERROR"
}

// knownCodes are names for where there is no driver to ask.
var knownCodes = map[int]string{codeOutOfMemory: "CUDA_ERROR_OUT_OF_MEMORY",
	codeNotInitialized: "CUDA_ERROR_NOT_INITIALIZED",
	codeStubLibrary:    "CUDA_ERROR_STUB_LIBRARY", codeNoDevice: "CUDA_ERROR_NO_DEVICE",
	codeNotFound: "CUDA_ERROR_NOT_FOUND"}

// waitStream and waitEvent block the calling thread, not the device's, until what is enqueued is done. They may be
// called from any goroutine: one call of C is on one thread.
func waitStream(c cu.CUContext, s cu.Stream) error {
	return called(C.ck_wait_stream(rawContext(c), rawStream(s)), "cuStreamSynchronize", "")
}

func waitEvent(c cu.CUContext, e cu.Event) error {
	return called(C.ck_wait_event(rawContext(c), rawEvent(e)), "cuEventSynchronize", "")
}

// loadModule gives the driver a PTX image; log is what it says against it.
func loadModule(image string) (m cu.Module, log string, err error) {
	text := C.CString(image)
	defer C.free(unsafe.Pointer(text))
	const bytes = 8 << 10
	room := C.calloc(1, bytes)
	defer C.free(room)
	rc := C.ck_load((*C.CUmodule)(unsafe.Pointer(&m)), unsafe.Pointer(text), (*C.char)(room), bytes-1)
	return m, strings.TrimSpace(C.GoString((*C.char)(room))), called(rc, "cuModuleLoadDataEx", "")
}

// mostArguments is how many a kernel takes.
const mostArguments = C.CK_ARGUMENTS

// startKernel enqueues a kernel. gorgonia.org/cu's own Function.Launch stores pointers in memory that it has not
// cleared: what was there before looks like a Go pointer to the collector at times, which ends the process ("found bad
// pointer in Go heap").
func startKernel(f cu.Function, grid, block dim, shared int, s cu.Stream, cells []uint64) error {
	size := [6]C.uint{C.uint(grid.X), C.uint(grid.Y), C.uint(grid.Z), C.uint(block.X), C.uint(block.Y), C.uint(block.Z)}
	return called(C.ck_launch(rawFunction(f), &size[0], C.uint(shared), rawStream(s),
		(*C.ulonglong)(unsafe.Pointer(unsafe.SliceData(cells))), C.int(len(cells))), "cuLaunchKernel", "")
}

// allowShared lets a kernel have so much dynamic shared memory: more than 48 KiB must be asked for.
func allowShared(f cu.Function, bytes int) error {
	return called(C.cuFuncSetAttribute(rawFunction(f), C.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, C.int(bytes)),
		"cuFuncSetAttribute", "dynamic shared memory")
}

// allocPinned allocates host memory that copies need not stage, for every context of the process.
func allocPinned(n int) (unsafe.Pointer, error) {
	var p unsafe.Pointer
	rc := C.cuMemHostAlloc(&p, C.size_t(n), C.CU_MEMHOSTALLOC_PORTABLE)
	return p, called(rc, "cuMemHostAlloc", sizeOf(int64(n)))
}

// ipcBytes is the size of the driver's handle of an allocation.
const ipcBytes = C.sizeof_CUipcMemHandle

// freeLanding gives an allocation back, from any thread.
func freeLanding(c cu.CUContext, at cu.DevicePtr) error {
	return called(C.ck_free_landing(rawContext(c), C.CUdeviceptr(at)), "cuMemFree", "")
}

// ipcHandle is how other processes reach an allocation; ipcOpen reaches another's, on the device's thread; ipcClose
// lets it go, from any.
func ipcHandle(c cu.CUContext, at cu.DevicePtr) (out [ipcBytes]byte, err error) {
	var h C.CUipcMemHandle
	err = called(C.ck_ipc_handle(rawContext(c), &h, C.CUdeviceptr(at)), "cuIpcGetMemHandle", "")
	return *(*[ipcBytes]byte)(unsafe.Pointer(&h)), err
}

func ipcOpen(handle [ipcBytes]byte) (cu.DevicePtr, error) {
	var at C.CUdeviceptr
	h := *(*C.CUipcMemHandle)(unsafe.Pointer(&handle))
	err := called(C.cuIpcOpenMemHandle(&at, h, C.CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS), "cuIpcOpenMemHandle", "")
	return cu.DevicePtr(at), err
}

func ipcClose(c cu.CUContext, at cu.DevicePtr) error {
	return called(C.ck_ipc_close(rawContext(c), C.CUdeviceptr(at)), "cuIpcCloseMemHandle", "")
}

// busID is the PCI address as NVML and lspci write it, "" if the driver does not say.
func busID(d cu.Device) string {
	var b [32]C.char
	if C.cuDeviceGetPCIBusId(&b[0], C.int(len(b)), C.CUdevice(d)) != C.CUDA_SUCCESS {
		return ""
	}
	return C.GoString(&b[0])
}
