package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"colonnade/checkpoint/cli"
	"colonnade/checkpoint/doctor"
	"colonnade/proto/clusterpb"
	"colonnade/worker/arena"
	"colonnade/worker/buddy"
	"colonnade/worker/depot"
	"colonnade/worker/exchange"
	"colonnade/worker/session"
)

// runCmd is `worker run`.
type runCmd struct {
	Coordinator []string      `required:"" sep:"," placeholder:"ADDR" help:"Coordinators, host:port, comma-separated: any of the cluster's; the worker learns where the others are."`
	Device      string        `default:"cpu" help:"Device to drive: see worker devices."`
	AllGPUs     bool          `name:"all-gpus" help:"Drive every GPU there is, each by a worker of its own that this one starts; their directories are below --data."`
	TF32        bool          `name:"tf32" help:"Compute products on a GPU's tensor cores, less exactly: jobs say so in their numerics, and do not go on from one arithmetic to the other."`
	Threads     int           `default:"${threads}" help:"Threads of this worker's processor, shared out among the cells it runs; the result is the same with any number. Default: all cores this process may use."`
	Data        string        `required:"" placeholder:"DIR" help:"Directory of this worker: its identity and, unless --checkpoints says otherwise, its checkpoints."`
	Checkpoints string        `placeholder:"DIR" help:"Directory of checkpoints; shared between workers if they share a file system. Default: DATA/checkpoints."`
	Packs       string        `placeholder:"DIR" help:"Where to look for a job's packs, by identity, when they are not at the job's own path. Default: DATA/packs."`
	Listen      string        `default:"127.0.0.1:0" help:"Address for the exchange with other workers."`
	Advertise   string        `placeholder:"ADDR" help:"Address other workers reach this one at. Default: the one it listens on."`
	Insecure    bool          `help:"Allow --listen on an address other than loopback, without encryption."`
	Name        string        `help:"Name for people. Default: host name and process id."`
	Wait        time.Duration `default:"10s" help:"How long to look for a coordinator at the start; 0 for ever. Once one has answered, a worker never gives up."`
	Carrier     string        `default:"auto" enum:"auto,peer,shm,grpc" help:"Carrier of the exchange: auto takes the fastest for each pair of cells; peer copies from GPU to GPU of one host, or not at all; shm (shared memory of one host) and grpc are used even within one worker, or not at all."`
	Shm         string        `placeholder:"DIR" help:"Directory for memory shared with workers of this host, when /dev/shm is missing or too small."`
	HTTP        string        `name:"http" default:"none" placeholder:"ADDR" help:"Address of /metrics, /healthz and /readyz; none: no such port."`
	HTTPToken   string        `name:"http-token-file" placeholder:"FILE" help:"File with the token that /metrics wants; needed where --http is no loopback address."`
	TraceSteps  string        `placeholder:"FILE|URL" help:"Write spans of steps, phases and crossings, as OTLP in JSON: a line a batch to a file, or to a collector at http://HOST:4318; otlp: where OTEL_EXPORTER_OTLP_ENDPOINT says."`
	TraceEvery  int           `default:"1" placeholder:"N" help:"Only of every Nth step."`
	LogLevel    slog.Level    `default:"info" help:"debug, info, warn or error."`
	Arenas      string        `default:"auto" placeholder:"DIR" help:"Where cells' states lie while they train, to outlive this process: a directory of memory, which workers of one host share; auto: /dev/shm, else --shm, else below --data; none: in this process."`
	HostID      string        `hidden:"" help:"What this worker's machine is called, in place of the running kernel's id: for tests."`
	WithParent  bool          `hidden:"" help:"Exit when standard input ends: the process that started this one is gone."`
}

// errParentGone ends a worker whose parent has died.
var errParentGone = errors.New("the process that started this worker is gone")

// Run is the life of a worker.
func (c *runCmd) Run(ctx context.Context, con console) error {
	log := slog.New(newLogTap(slog.NewTextHandler(con.err, &slog.HandlerOptions{Level: c.LogLevel})))
	if err := checkListen(c.Listen, c.Advertise, c.Insecure); err != nil {
		return err
	}
	if err := checkThreads(c.Threads); err != nil {
		return err
	}
	for _, a := range c.Coordinator {
		if err := checkAddress("--coordinator", a); err != nil {
			return err
		}
	}
	if c.AllGPUs {
		return c.runAll(ctx, con, log)
	}
	id, release, err := claimDirectory(c.Data)
	if err != nil {
		return err
	}
	defer release()
	open, err := findDevice(c.Device)
	if err != nil {
		return err
	}
	open = withTF32(open, c.TF32)
	device, err := describe(open, c.Threads)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("listen for other workers: %w; choose another --listen", err)
	}
	if c.Shm != "" { // peers open what is in it by its whole name
		if c.Shm, err = filepath.Abs(c.Shm); err == nil {
			err = os.MkdirAll(c.Shm, 0o755)
		}
		if err != nil {
			return fmt.Errorf("directory for shared memory: %w; choose another --shm", err)
		}
	}
	if c.Checkpoints == "" {
		c.Checkpoints = filepath.Join(c.Data, "checkpoints")
	}
	if c.Packs == "" {
		c.Packs = filepath.Join(c.Data, "packs")
	}
	if c.Checkpoints, err = filepath.Abs(c.Checkpoints); err != nil {
		return fmt.Errorf("checkpoint directory: %w", err)
	}
	if c.Advertise == "" {
		c.Advertise = listener.Addr().String()
	}
	h := &host{open: open, threads: c.Threads, root: c.Checkpoints, packs: c.Packs, worker: id,
		address: listener.Addr().String(), carrier: exchange.Carrier(c.Carrier), log: log,
		runs: map[string]*assignment{}, ended: map[string]uint64{}, finished: map[string]bool{}, arenas: c.openArenas(log),
		copies: buddy.New(doctor.MemoryLeft), buddies: buddy.NewClient()}
	return c.serve(ctx, con, h, device, listener)
}

// serve runs the exchange, the session and the cells until one of them, or ctx, ends.
func (c *runCmd) serve(ctx context.Context, con console, h *host, device *clusterpb.Device,
	listener net.Listener) error {
	log := h.log
	page, err := c.openPort(h, device)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if c.WithParent {
		go func() { // ends with the process: reading standard input cannot be interrupted
			_, _ = io.Copy(io.Discard, con.in)
			cancel(errParentGone)
		}()
	}
	mesh := exchange.New(exchange.Config{Worker: h.worker, Rings: c.rings(log), Log: log})
	defer mesh.Close()
	door := buddy.NewDoor(h.copies)
	defer door.Close()
	server := mesh.NewServer(grpc.Creds(door))
	exchange.RegisterFiles(server, c.Checkpoints)
	buddy.Register(server, h.copies)
	depot.Register(server, h.holds)
	defer h.buddies.Close()

	h.ctx, h.mesh = ctx, mesh
	health, measuring := measureGPU(ctx, device, log)
	defer measuring()
	s := session.New(session.Config{Coordinators: c.Coordinator, FirstTimeout: c.Wait, Log: log, Handler: h,
		Register: c.registration(h.worker, device), Logs: logsOf(log), Health: health.take})
	h.report, h.answer = s.Report, s.Answer
	h.lost = func(err error) { giveUp(s, cancel, err) }
	watching := watchGPU(ctx, cancel, device, log)
	defer watching()

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := server.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			return fmt.Errorf("serve the exchange: %w", err)
		}
		return nil
	})
	page.health, page.connected, page.pending = health, s.Connected, s.Pending
	g.Go(func() error { return page.serve(ctx, log) })
	if h.spans != nil {
		g.Go(func() error { return h.spans.Run(ctx) })
	}
	g.Go(func() error {
		err := s.Run(ctx)
		if errors.Is(err, session.ErrUnreachable) {
			err = fmt.Errorf("%w; start one with: coordinator start --data DIR", err)
		}
		return err
	})
	g.Go(func() error {
		<-ctx.Done()
		cancel(context.Cause(ctx)) // ends the cells, which are the host's
		h.wait()
		if s.Pending() == 0 { // else the coordinator may not know of the end yet
			h.forgetFinished()
		}
		server.Stop()
		return nil
	})
	log.Info("worker started", "id", h.worker, "device", device.Name, "model", device.Model,
		"numerics", device.Numerics, "threads", c.Threads, "listen", h.address)
	return g.Wait()
}

// rings are the directories of memory shared with workers of this host, without what workers that died left there.
func (c *runCmd) rings(log *slog.Logger) []string {
	rings := []string{exchange.SharedMemory}
	if c.Shm != "" {
		rings = append(rings, c.Shm)
	}
	for _, path := range exchange.ReapRings(rings) {
		log.Info("removed shared memory of a worker that died", "path", path)
	}
	return rings
}

// registration is what the coordinator is told of this worker.
func (c *runCmd) registration(id string, device *clusterpb.Device) *clusterpb.Register {
	machine := c.HostID
	if machine == "" {
		machine = machineID()
	}
	return &clusterpb.Register{Machine: machine, Worker: id, Name: c.called(), Host: hostName(), Address: c.Advertise,
		Version: cli.Version(), Checkpoints: c.Checkpoints, Incarnation: randomID(), Device: device, Memory: true,
		Evaluates: true}
}

// called is the worker's name for people.
func (c *runCmd) called() string {
	return cmp.Or(c.Name, fmt.Sprintf("%s/%d", hostName(), os.Getpid()))
}

// hostName is what this machine is called.
func hostName() string {
	host, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return host
}

// openArenas opens the store of cells' states.
func (c *runCmd) openArenas(log *slog.Logger) *arena.Store {
	cfg := arena.Config{Log: log, Data: filepath.Join(c.Data, "arenas")}
	switch {
	case c.Arenas == "none":
		cfg.Data = ""
	case c.Arenas != "auto":
		cfg.Shared = []string{c.Arenas}
	case c.Shm != "":
		cfg.Shared = []string{exchange.SharedMemory, c.Shm}
	default:
		cfg.Shared = []string{exchange.SharedMemory}
	}
	return arena.Open(cfg)
}

// randomID is an id nobody else has; it names things and reaches no weight.
func randomID() string {
	var b [8]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	return hex.EncodeToString(b[:])
}
