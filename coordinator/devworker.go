package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	workerRestarts = 100              // in one run; a worker that dies more often does not just have bad luck
	workerPause    = time.Second      // before a restart
	workerStop     = 10 * time.Second // for a worker to end when asked, before it is killed
	quickDeath     = 5 * time.Second  // a worker that dies sooner, at its first start, cannot run here
)

// keepWorker runs one worker and starts it again when it dies, until ctx ends.
func (d *dev) keepWorker(ctx context.Context, number int, address string) error {
	for i := 0; ; i++ {
		began := time.Now()
		logs := filepath.Join(d.Data, "logs", fmt.Sprintf("worker-%d.log", number))
		before := size(logs)
		err := d.runWorker(ctx, number, address)
		if ctx.Err() != nil {
			return nil
		}
		if i >= workerRestarts || i == 0 && time.Since(began) < quickDeath {
			return fmt.Errorf("worker %d %w%s; see %s", number, err, lastLine(logs, before), logs)
		}
		d.node.cfg.log.Warn("worker ended and is started again", "worker", number, "err", err)
		pause := time.NewTimer(workerPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil
		}
	}
}

// workerArgs are the arguments of one of the workers, which are numbered from 1.
func (d *dev) workerArgs(number int, address string) []string {
	threads := d.Threads*number/d.Workers - d.Threads*(number-1)/d.Workers // as even as whole threads go
	return []string{"run", "--coordinator", address, "--device", d.Device,
		"--data", filepath.Join(d.Data, "worker-"+strconv.Itoa(number)),
		"--checkpoints", filepath.Join(d.Data, "checkpoints"),
		"--name", "worker-" + strconv.Itoa(number), "--carrier", d.Carrier, "--with-parent",
		"--threads", strconv.Itoa(max(threads, 1))}
}

// runWorker runs one worker process until it ends; when ctx ends it is asked to.
func (d *dev) runWorker(ctx context.Context, number int, address string) error {
	log, err := d.openLog(fmt.Sprintf("worker-%d", number))
	if err != nil {
		return err
	}
	defer log.Close()
	// The worker reads its standard input to notice that we are gone: the pipe breaks however we end.
	cmd := exec.CommandContext(ctx, d.workers, d.workerArgs(number, address)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = workerStop
	// An interrupt from the terminal is for us alone: the workers go on until the job has stopped.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start worker: %w", err)
	}
	defer in.Close()
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("ended: %w", err)
	}
	return fmt.Errorf("ended by itself")
}

// size is a log's, 0 if there is none.
func size(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// lastLine is the end of what a log says since it had so many bytes, for a message.
func lastLine(path string, since int64) string {
	b, err := os.ReadFile(path)
	if err != nil || int64(len(b)) < since {
		return ""
	}
	text := strings.TrimSpace(string(b[since:]))
	if text == "" {
		return ""
	}
	return ": " + strings.TrimPrefix(text[strings.LastIndexByte(text, '\n')+1:], "worker: ")
}
