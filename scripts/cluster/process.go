// Package cluster runs Colonnade's programs as processes of this machine, as a whole system that may be disturbed: a
// network of namespaces whose links can be cut and slowed, processes that are killed, stopped and started again.
package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Process is a running program whose output goes into a file.
type Process struct {
	Log  string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Ended says how the process ended; empty while it runs.
func (p *Process) Ended() string {
	select {
	case <-p.done:
		return p.cmd.ProcessState.String()
	default:
		return ""
	}
}

// Pid is the process's number.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Kill ends the process as a power cut would, and waits for its end.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // it may have ended by itself
	<-p.done
}

// Signal sends a signal; one that has ended gets none.
func (p *Process) Signal(s syscall.Signal) { _ = p.cmd.Process.Signal(s) }

// Launcher starts processes that die with this one. They all come from one thread, since that is what the kernel ties
// them to, and what has a network namespace.
type Launcher struct {
	work chan func()
	wg   sync.WaitGroup
}

// NewLauncher makes a launcher; Close ends it.
func NewLauncher() *Launcher {
	l := &Launcher{work: make(chan func())}
	l.wg.Go(l.run)
	return l
}

func (l *Launcher) run() {
	runtime.LockOSThread() // for good: the thread ends with the goroutine, whatever namespace it is in by then
	if unix.Gettid() == os.Getpid() {
		// The first thread's network is what others take for that of the process: leave it as it is.
		var wg sync.WaitGroup
		wg.Go(l.run)
		wg.Wait()
		runtime.UnlockOSThread()
		return
	}
	for f := range l.work {
		f()
	}
}

// Close ends the launcher, and with it every process that it has started.
func (l *Launcher) Close() {
	close(l.work)
	l.wg.Wait()
}

// do runs a function on the launcher's thread.
func (l *Launcher) do(f func() error) error {
	err := make(chan error, 1)
	l.work <- func() { err <- f() }
	return <-err
}

// Start starts a program in a node's network; its output is appended to the file log.
func (l *Launcher) Start(n Node, log, program string, args ...string) (*Process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p := &Process{Log: log, cmd: exec.Command(program, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = f, f
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := l.do(func() error { return n.within(p.cmd.Start) }); err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is in ProcessState
		close(p.done)
	}()
	return p, nil
}
