package exchange

import (
	"math"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Operations of futex(2), without FUTEX_PRIVATE_FLAG: the two ends are two processes.
const (
	futexWaitOp = 0
	futexWakeOp = 1
)

// futexWait sleeps until the word is woken, if it still is `seen`, or for as long as most. It may return earlier, for
// no reason: callers look again.
func futexWait(word *atomic.Uint32, seen uint32, most time.Duration) {
	ts := unix.NsecToTimespec(most.Nanoseconds())
	// Every outcome (woken, changed before, timed out, interrupted) means the same to callers: look again.
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWaitOp, uintptr(seen),
		uintptr(unsafe.Pointer(&ts)), 0, 0)
}

// futexWake wakes all who sleep on the word, in any process.
func futexWake(word *atomic.Uint32) {
	_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWakeOp, math.MaxInt32, 0, 0, 0)
}
