package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"colonnade/proto/clusterpb"
	"colonnade/scripts/browser"
)

// Size of the recorded terminal, in columns and lines.
const columns, lines = 80, 24

// watched is how long the recording looks at a job.
const watched = 12 * time.Second

// recording is a terminal's output as asciicast version 2: a line of JSON for the terminal, then one for each output,
// with its time in seconds.
type recording struct {
	out   *os.File
	began time.Time
}

func (r *recording) line(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = r.out.Write(append(text, '\n'))
	return err
}

func (r *recording) Write(p []byte) (int, error) {
	return len(p), r.line([]any{time.Since(r.began).Seconds(), "o", string(p)})
}

// record has an operator look at the cluster: its state, its queue, and a job that goes on while a worker is killed.
func record(ctx context.Context, r *browser.Rig, path string) (err error) {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() {
		if e := out.Close(); err == nil {
			err = e
		}
	}()
	rec := &recording{out, time.Now()}
	if err := rec.line(map[string]any{"version": 2, "width": columns, "height": lines, "timestamp": time.Now().Unix(),
		"title": "Colonnade: a job is watched, a worker is killed"}); err != nil {
		return err
	}
	for _, args := range [][]string{{"status"}, {"queue"}} {
		if err := typeOn(ctx, rec, r, args...); err != nil {
			return err
		}
	}
	j, err := r.Await(ctx, first, "has workers", func(j *clusterpb.Job) bool { return len(j.Placement) > 0 })
	if err != nil {
		return err
	}
	killed, done := -1, make(chan struct{})
	kill := time.AfterFunc(watched/3, func() {
		defer close(done)
		for i := range r.Workers {
			if j.Placement[0].WorkerName == fmt.Sprintf("worker-%d", i+1) {
				r.Workers[i].Kill()
				killed = i
			}
		}
	})
	err = typeOn(ctx, rec, r, "watch", first)
	if !kill.Stop() {
		<-done
	}
	if err == nil && killed >= 0 {
		err = r.StartWorker(killed)
	}
	return err
}

// typeOn runs a command of the coordinator's program on a terminal of its own, and interrupts what does not end.
func typeOn(ctx context.Context, rec *recording, r *browser.Rig, args ...string) error {
	text := "$ coordinator"
	for _, a := range args {
		text += " " + a
	}
	if _, err := rec.Write([]byte(text + "\r\n")); err != nil {
		return err
	}
	ours, theirs, err := terminal()
	if err != nil {
		return fmt.Errorf("open a terminal: %w", err)
	}
	defer ours.Close()
	cmd := exec.Command(filepath.Join(r.Programs(), "coordinator"), args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	cmd.Env = append(os.Environ(), "COLONNADE_COORDINATOR="+r.Addresses(), "TERM=xterm-256color")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return err
	}
	stop := time.AfterFunc(watched, func() { _ = cmd.Process.Signal(os.Interrupt) })
	defer stop.Stop()
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })()
	_, _ = io.Copy(rec, ours) // ends with an error when the last of theirs is closed
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w", text, err)
	}
	return ctx.Err()
}

// terminal opens a pair of ends: what is written to theirs is read from ours.
func terminal() (ours, theirs *os.File, err error) {
	ours, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	fd := int(ours.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: lines})
	}
	if err == nil {
		theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		ours.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}
