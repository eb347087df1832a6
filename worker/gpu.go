package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"colonnade/cudakern"
	"colonnade/cudakern/cuda"
	"colonnade/proto/clusterpb"
	"colonnade/shard"
	"colonnade/shard/job"
	"colonnade/worker/exchange"
	"colonnade/worker/session"
	"colonnade/worker/train"
)

// withTF32 opens devices with tensor cores at work.
func withTF32(open func(cudakern.Settings) (cudakern.Device, error), on bool) func(cudakern.Settings) (cudakern.Device,
	error) {
	return func(s cudakern.Settings) (cudakern.Device, error) {
		s.TF32 = on
		return open(s)
	}
}

// errDeviceLost ends a worker whose device has died.
var errDeviceLost = errors.New("the device is lost")

// lastWords is how long a worker that must end waits for the coordinator to take note of why.
const lastWords = 2 * time.Second

// giveUp ends the worker once the coordinator knows why, or has not answered for long enough. What ran here then goes
// on elsewhere, as after any death.
func giveUp(s *session.Session, cancel context.CancelCauseFunc, err error) {
	for until := time.Now().Add(lastWords); s.Pending() > 0 && time.Now().Before(until); {
		time.Sleep(10 * time.Millisecond)
	}
	cancel(fmt.Errorf("%w: %w; look at nvidia-smi and the kernel's log for Xid, then start this worker again",
		errDeviceLost, err))
}

// die lets nothing more begin here and ends the worker.
func (h *host) die(err error) {
	h.mu.Lock()
	already := h.closed
	h.closed = true
	h.mu.Unlock()
	if already {
		return
	}
	h.log.Error("this worker ends", "err", err)
	h.lost(err)
}

// watchGPU tells of Xid errors of the GPU that the worker drives, and ends the worker with the GPU. What it returns
// waits for the watching to end, which it does with ctx.
func watchGPU(ctx context.Context, cancel context.CancelCauseFunc, device *clusterpb.Device, log *slog.Logger) (
	wait func()) {
	if !isGPU(device.Name) {
		return func() {}
	}
	uuid := ""
	for _, g := range cuda.List().GPUs {
		if g.Name == device.Name {
			uuid = g.UUID
			for _, w := range g.Warnings {
				log.Warn("health of the GPU", "device", g.Name, "uuid", g.UUID, "warning", w)
			}
		}
	}
	wait, err := cuda.Watch(ctx, uuid, func(xid uint64, lost bool) {
		log.Error("Xid error of the GPU", "device", device.Name, "uuid", uuid, "xid", xid, "lost", lost)
		if lost {
			cancel(fmt.Errorf("%w: %s (%s) with Xid %d; reset it or restart the machine, then start this worker again",
				errDeviceLost, device.Name, uuid, xid))
		}
	})
	if err != nil {
		log.Info("the GPU's health is not watched", "device", device.Name, "why", err)
		return func() {}
	}
	return wait
}

// fits says what memory the cells of an assignment need where it is scarce, before any is taken, and refuses what is
// not to be had.
func (h *host) fits(j *job.Job, plan *shard.Plan, a *clusterpb.Assign, packs *packs, devices cellDevices) error {
	var whole int64
	for _, pc := range a.Cells {
		id := cellOf(pc)
		sizer, ok := devices[id].(cudakern.Sizer)
		if !ok {
			continue
		}
		need, err := sizer.Needs(func(d cudakern.Device) error {
			c, err := train.New(train.Config{Job: j, Plan: plan, Cell: id, Cells: allCells(a), Device: d,
				Exchanger: train.NewAlone(), Source: packs.source(j, plan, id.Replica), Directory: h.root,
				Report: func(train.Event) {}, Now: time.Now, Log: h.log})
			if err != nil {
				return err
			}
			return c.Close()
		})
		if err != nil {
			return fmt.Errorf("cell %s: %w", id, err)
		}
		if _, ok := devices[id].(cudakern.Lander); ok { // what other columns put straight into the device's memory
			need += int64(plan.Columns-1) * exchange.LandingBytes(largest(j, plan))
		}
		whole += need
		if err := sizer.Fits(whole); err != nil {
			return fmt.Errorf("cell %s: %w; give recipe.batch a smaller value, the job more columns, or this worker fewer cells",
				id, err)
		}
		h.log.Info("memory of the device", "job", a.Job, "cell", id, "device", devices[id].Info().Name, "needs", gib(need),
			"free", gib(devices[id].Info().Memory))
	}
	return nil
}

// runAll starts a worker for each GPU and waits until all have ended. One that dies leaves the others as they are.
func (c *runCmd) runAll(ctx context.Context, con console, log *slog.Logger) error {
	if c.Device != "cpu" {
		return usageError{errors.New("--all-gpus and --device; give one of them")}
	}
	if !strings.HasSuffix(c.Listen, ":0") {
		return usageError{fmt.Errorf("--all-gpus with --listen %s: several workers cannot share a port; end it in :0",
			c.Listen)}
	}
	driver := cuda.List()
	if driver.Error != "" {
		return fmt.Errorf("--all-gpus: %s", driver.Error)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("--all-gpus: %w", err)
	}
	if len(models(driver)) > 1 {
		log.Info(severalKinds, "models", strings.Join(models(driver), ", "))
	}
	var wait sync.WaitGroup
	failed := make([]error, len(driver.GPUs))
	for i, g := range driver.GPUs {
		wait.Go(func() { failed[i] = c.child(i).runChild(ctx, con, self, g, max(c.Threads/len(driver.GPUs), 1), log) })
	}
	wait.Wait()
	var all error
	for _, err := range failed {
		all = also(all, err)
	}
	return all
}

func models(d cuda.Driver) (out []string) {
	seen := map[string]bool{}
	for _, g := range d.GPUs {
		if !seen[g.Model] {
			seen[g.Model] = true
			out = append(out, g.Model)
		}
	}
	return out
}

// runChild runs the worker of one GPU until it ends. It ends with this process, whose standard input it holds the other
// end of.
func (c *runCmd) runChild(ctx context.Context, con console, self string, g cuda.GPU, threads int,
	log *slog.Logger) error {
	cmd := exec.CommandContext(ctx, self, c.childArguments(g, threads)...)
	cmd.Stdout, cmd.Stderr = con.out, con.err
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = childPatience
	alive, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("start the worker of %s: %w", g.Name, err)
	}
	defer alive.Close()
	log.Info("started a worker", "device", g.Name, "uuid", g.UUID, "model", g.Model, "pid", cmd.Process.Pid)
	err = cmd.Wait()
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		log.Error("the worker of a GPU has ended", "device", g.Name, "err", err)
		return fmt.Errorf("the worker of %s: %w", g.Name, err)
	}
	return nil
}

// child is the command line of the worker of GPU i, as far as it is another than this one's: the port of its --http is
// i further on.
func (c *runCmd) child(i int) *runCmd {
	one := *c
	host, port, err := net.SplitHostPort(c.HTTP)
	if n, nerr := strconv.Atoi(port); err == nil && nerr == nil && n > 0 {
		one.HTTP = net.JoinHostPort(host, strconv.Itoa(n+i))
	}
	return &one
}

// childPatience is how long a worker may take to end when it has been asked to.
const childPatience = 20 * time.Second

// childArguments are the command line of one GPU's worker.
func (c *runCmd) childArguments(g cuda.GPU, threads int) []string {
	or := func(dir, otherwise string) string {
		if dir != "" {
			return dir
		}
		return filepath.Join(c.Data, otherwise)
	}
	device := g.UUID
	if device == "" {
		device = g.Name
	}
	args := []string{"run", "--coordinator", strings.Join(c.Coordinator, ","), "--device", device,
		"--threads", fmt.Sprint(threads), "--data", filepath.Join(c.Data, strings.ReplaceAll(g.Name, ":", "-")),
		"--checkpoints", or(c.Checkpoints, "checkpoints"), "--packs", or(c.Packs, "packs"), "--listen", c.Listen,
		"--wait", c.Wait.String(), "--carrier", c.Carrier, "--log-level", c.LogLevel.String(), "--with-parent"}
	if c.Advertise != "" {
		args = append(args, "--advertise", c.Advertise)
	}
	if c.HTTP != noAddress && c.HTTP != "" {
		args = append(args, "--http", c.HTTP)
	}
	if c.HTTPToken != "" {
		args = append(args, "--http-token-file", c.HTTPToken)
	}
	if c.TraceSteps != "" {
		args = append(args, "--trace-steps", c.TraceSteps, "--trace-every", strconv.Itoa(c.TraceEvery))
	}
	if c.Insecure {
		args = append(args, "--insecure")
	}
	if c.Shm != "" {
		args = append(args, "--shm", c.Shm)
	}
	if c.TF32 {
		args = append(args, "--tf32")
	}
	if c.Name != "" {
		args = append(args, "--name", c.Name+"/"+g.Name)
	}
	return args
}
