package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// one does a run, or goes on with it, until it is done, ctx ends, or it has what it is for.
func (o options) one(ctx context.Context, w run) error {
	r, err := readRecord(o.file(w.name), w.name)
	if err != nil || w.finished(r) {
		return err
	}
	if kept, err := readRecord(o.keptFile(w.name), w.name); err != nil || w.finished(kept) && !o.again {
		return err
	}
	sample, err := os.ReadFile(filepath.Join(o.jobs, w.job+".yaml"))
	if err != nil {
		return err
	}
	text, err := w.text(string(sample), o.packs)
	if err != nil {
		return err
	}
	dir := filepath.Join(o.data, w.name)
	file := filepath.Join(dir, "job.yaml")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
		return err
	}
	for ctx.Err() == nil && !w.finished(r) {
		if err := o.try(ctx, w, r, dir, file); err != nil {
			return err
		}
	}
	return nil
}

// saveEvery is how often what is known of a run is written down.
const saveEvery = 10 * time.Second

// stopLimit is how long a run may take to stop at a step boundary, checkpoint included.
const stopLimit = 2 * time.Minute

// try starts everything and follows it to its end. Whatever the end was, what was seen is kept.
func (o options) try(ctx context.Context, w run, r *record, dir, file string) (err error) {
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	workers := 1
	if w.two {
		workers = 2
	}
	cmd := exec.Command(filepath.Join(o.programs, "coordinator"), "dev", "--json", "--resume", "--workers",
		strconv.Itoa(workers), "--threads", strconv.Itoa(max(o.threads, workers)), "--data", dir, file)
	cmd.Stderr, cmd.SysProcAttr = log, &syscall.SysProcAttr{Setpgid: true} // signals are ours to send, to all of them
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	began, before, steps := time.Now(), r.Seconds, r.Steps
	r.Machine, r.Commit = machine(), commit()
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	asked := make(chan struct{}, 1)
	finished := make(chan struct{})
	go func() { // stops it when it is asked to or ctx ends; gone when the program is
		defer close(finished)
		stopper(ctx, cmd.Process.Pid, asked, ended)
	}()
	killed, saveErr := o.follow(bufio.NewReaderSize(out, 1<<20), w, r, cmd.Process.Pid, asked, began, before)
	err = cmd.Wait()
	close(ended)
	<-finished
	r.Seconds = before + time.Since(began).Seconds()
	if !killed { // with the workers, which the program has waited for
		r.Processor += (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
		r.Processing += r.Steps - steps
	}
	if saveErr = errors.Join(saveErr, write(o.file(w.name), r)); saveErr != nil {
		return saveErr
	}
	if err != nil && !killed && ctx.Err() == nil && !w.finished(r) {
		return fmt.Errorf("coordinator dev: %w", err)
	}
	return nil
}

// stopper asks the program to stop once, and kills it and its workers if it does not.
func stopper(ctx context.Context, pid int, asked, ended <-chan struct{}) {
	select {
	case <-ended:
		return
	case <-asked:
	case <-ctx.Done():
	}
	_ = syscall.Kill(pid, syscall.SIGTERM) // it may have ended by itself
	limit := time.NewTimer(stopLimit)
	defer limit.Stop()
	select {
	case <-ended:
	case <-limit.C:
		_ = killAll(pid)
	}
}

// follow reads updates to their end, and says whether it has killed the run half way.
func (o options) follow(in *bufio.Reader, w run, r *record, pid int, asked chan<- struct{}, began time.Time,
	before float64) (killed bool, err error) {
	saved := began
	for {
		raw, readErr := in.ReadBytes('\n')
		var u update
		if len(raw) > 0 && json.Unmarshal(raw, &u) == nil && u.Job.Steps > 0 {
			r.take(u)
			r.Seconds = before + time.Since(began).Seconds()
			if time.Since(saved) > saveEvery {
				saved = time.Now()
				err = errors.Join(err, write(o.file(w.name), r))
			}
			if w.until && r.reached() > 0 {
				select {
				case asked <- struct{}{}:
				default: // it has been
				}
			}
			if w.kill && r.Kills == 0 && u.Job.Step >= u.Job.Steps/2 {
				r.Kills, killed = r.Kills+1, true
				err = errors.Join(err, write(o.file(w.name), r), killAll(pid))
			}
		}
		if readErr != nil {
			return killed, err
		}
	}
}

// killLimit is how long a killed process may take to be gone; a large one on a busy machine takes seconds.
const killLimit = time.Minute

// killAll kills a program and the workers that it started, which have groups of their own. It is stopped first, so that
// it starts none anew meanwhile. Behind it the workers have let go of their directories.
func killAll(pid int) error {
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return fmt.Errorf("stop process %d: %w", pid, err)
	}
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	all := []int{pid} // the parent first; its children are looked for while it lives, since they lose it with it
	for _, path := range stats {
		b, readErr := os.ReadFile(path)
		if readErr != nil {
			continue // it has ended
		}
		// PID (NAME) STATE PARENT ...: a name may have anything in it, so the fields are counted from its end.
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		child, convErr := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if convErr == nil && len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			all = append(all, child)
		}
	}
	for _, p := range all {
		err = errors.Join(err, syscall.Kill(p, syscall.SIGKILL))
	}
	limit := time.NewTimer(killLimit)
	defer limit.Stop()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for len(all) > 0 {
		if gone(all[0]) {
			all = all[1:]
			continue
		}
		select {
		case <-again.C:
		case <-limit.C:
			return errors.Join(err, fmt.Errorf("process %d was killed and is still there after %v", all[0], killLimit))
		}
	}
	return err
}

// gone says whether a process has ended, whoever is yet to ask how.
func gone(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || bytes.HasPrefix(b[bytes.LastIndexByte(b, ')')+1:], []byte(" Z"))
}
