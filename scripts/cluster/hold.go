package cluster

import (
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// holdLimit is how long a thread that computes is looked for.
const holdLimit = 20 * time.Second

// HoldComputing stops one thread of a worker's process in the middle of its device's computing, as a kernel that never
// returns would: the process lives on, its session and its links too. The thread is stopped as a debugger stops it
// (ptrace), so nothing in the program is made for this. What it returns lets the thread go on, and must be called; the
// error says why a thread cannot be stopped here.
func HoldComputing(pid int, program string) (release func(), err error) {
	lo, hi, err := textOfGo(program)
	if err != nil {
		return nil, err
	}
	done, held := make(chan struct{}), make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { // whoever stops a thread must be one himself
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		tid, err := stopOutside(pid, lo, hi)
		held <- err
		if err != nil {
			return
		}
		<-done
		_ = unix.PtraceDetach(tid) // a process that was killed meanwhile has nobody to let go
	})
	if err := <-held; err != nil {
		return nil, err
	}
	return sync.OnceFunc(func() {
		close(done)
		wg.Wait()
	}), nil
}

// textOfGo is where a program's code in Go lies. All else that a thread of it runs is the engine's.
func textOfGo(program string) (lo, hi uint64, err error) {
	f, err := elf.Open(program)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil {
		return 0, 0, fmt.Errorf("symbols of %s: %w", program, err)
	}
	for _, s := range symbols {
		switch s.Name {
		case "runtime.text":
			lo = s.Value
		case "runtime.etext":
			hi = s.Value
		}
	}
	if f.Type != elf.ET_EXEC || lo == 0 || hi <= lo {
		return 0, 0, errors.New("the worker program is not where its symbols say: its code cannot be told from the engine's")
	}
	return lo, hi, nil
}

// stopOutside stops a process's busiest thread at a moment when it is outside of the code from lo to hi and computes.
func stopOutside(pid int, lo, hi uint64) (tid int, err error) {
	for deadline := time.Now().Add(holdLimit); time.Now().Before(deadline); {
		if tid, err = busiest(pid); err != nil {
			return 0, err
		}
		if err := unix.PtraceSeize(tid); err != nil {
			return 0, fmt.Errorf("seize thread %d: %w", tid, err)
		}
		if err := unix.PtraceInterrupt(tid); err != nil {
			return 0, fmt.Errorf("interrupt thread %d: %w", tid, err)
		}
		var ws syscall.WaitStatus
		if _, err := syscall.Wait4(tid, &ws, unix.WALL, nil); err != nil {
			return 0, fmt.Errorf("wait for thread %d: %w", tid, err)
		}
		var regs syscall.PtraceRegs
		if err := syscall.PtraceGetRegs(tid, &regs); err != nil {
			return 0, fmt.Errorf("registers of thread %d: %w", tid, err)
		}
		if pc := regs.PC(); (pc < lo || pc >= hi) && !inSystemCall(pid, tid) {
			return tid, nil
		}
		if err := unix.PtraceDetach(tid); err != nil {
			return 0, fmt.Errorf("let thread %d go: %w", tid, err)
		}
		<-time.After(time.Millisecond) // the next moment
	}
	return 0, fmt.Errorf("no thread of process %d computes", pid)
}

// inSystemCall says whether a stopped thread is in a system call: it waits rather than computes.
func inSystemCall(pid, tid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/syscall", pid, tid))
	return err == nil && !strings.HasPrefix(string(b), "-1") && !strings.HasPrefix(string(b), "running")
}

// busiest is the thread that has had most of the processor.
func busiest(pid int) (tid int, err error) {
	stats, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return 0, err
	}
	most := -1
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if len(fields) < 13 {
			continue
		}
		ticks, _ := strconv.Atoi(fields[11]) // user time
		if n, _ := strconv.Atoi(filepath.Base(filepath.Dir(path))); ticks > most {
			most, tid = ticks, n
		}
	}
	if tid == 0 {
		return 0, fmt.Errorf("process %d has no threads", pid)
	}
	return tid, nil
}
