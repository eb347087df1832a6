package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"colonnade/coordinator/rpc"
	"colonnade/proto/clusterpb"
	"colonnade/worker/arena"
)

// Config is what a cluster is made of.
type Config struct {
	Dir          string // of everything; exists
	Memory       string // directory of memory, for cells' states; exists
	Coordinator  string // program
	Worker       string // program
	Coordinators int
	Workers      int
	Apart        bool     // workers have no memory in common, as if on hosts of their own
	Flags        []string // of every coordinator
	WorkerFlags  []string
	Pages        []string // addresses of the coordinators' HTTP ports; nil: they have none
}

// Cluster is coordinators and workers, as processes, a node each: first the coordinators, then the workers.
type Cluster struct {
	Config
	Coordinators []*Process // nil before the first start
	Workers      []*Process
	Client       clusterpb.OperatorClient

	launcher  *Launcher
	network   *Network
	addresses []string // of coordinators
	conn      *rpc.Client
	stores    []*arena.Store
	watches   map[string][]*arena.Watch // by job, one a store
	id        string
}

// New makes a cluster of which nothing runs yet.
func New(cfg Config, l *Launcher, w *Network) (*Cluster, error) {
	c := &Cluster{Config: cfg, launcher: l, network: w, Coordinators: make([]*Process, cfg.Coordinators),
		Workers: make([]*Process, cfg.Workers), watches: map[string][]*arena.Watch{}}
	for i := range c.Coordinators {
		port := 7400
		if !w.inside {
			var err error
			if port, err = FreePort(); err != nil {
				return nil, err
			}
		}
		c.addresses = append(c.addresses, fmt.Sprintf("%s:%d", w.Nodes[i].Address, port))
	}
	for i := range c.Workers {
		dir := c.MemoryOf(i)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		if i > 0 && !c.Apart {
			dir = ""
		}
		s := arena.Config{Data: filepath.Join(c.WorkerDir(i), "arenas"), Log: slog.New(slog.DiscardHandler)}
		if dir != "" {
			s.Shared = []string{dir}
		}
		if err := os.MkdirAll(c.WorkerDir(i), 0o755); err != nil {
			return nil, err
		}
		c.stores = append(c.stores, arena.Open(s))
	}
	conn, err := rpc.NewClient(c.addresses)
	if err != nil {
		return nil, err
	}
	c.conn, c.Client = conn, clusterpb.NewOperatorClient(conn)
	return c, nil
}

// Addresses are those of all coordinators, as programs take them.
func (c *Cluster) Addresses() string { return strings.Join(c.addresses, ",") }

// MemoryOf is the directory of memory of a worker's host.
func (c *Cluster) MemoryOf(worker int) string {
	if !c.Apart {
		worker = 0
	}
	return filepath.Join(c.Memory, fmt.Sprintf("host-%d", worker+1))
}

// CoordinatorDir is the data directory of a coordinator.
func (c *Cluster) CoordinatorDir(i int) string {
	return filepath.Join(c.Dir, fmt.Sprintf("coordinator-%d", i+1))
}

// WorkerDir is the data directory of a worker.
func (c *Cluster) WorkerDir(i int) string { return filepath.Join(c.Dir, fmt.Sprintf("worker-%d", i+1)) }

// StartCoordinator starts a coordinator, or starts it again, unless it runs.
func (c *Cluster) StartCoordinator(i int) error {
	if p := c.Coordinators[i]; p != nil && p.Ended() == "" {
		return nil
	}
	page := "none"
	if c.Pages != nil {
		page = c.Pages[i]
	}
	args := []string{"start", "--data", c.CoordinatorDir(i), "--listen", c.addresses[i], "--http", page}
	if c.network.inside {
		args = append(args, "--insecure")
	}
	if i > 0 {
		args = append(args, "--join", c.addresses[0])
	}
	p, err := c.launcher.Start(c.network.Nodes[i], c.CoordinatorDir(i)+".log", c.Coordinator,
		append(args, c.Flags...)...)
	if err == nil {
		c.Coordinators[i] = p
	}
	return err
}

// StartWorker starts a worker, or starts it again in its old directory, unless it runs.
func (c *Cluster) StartWorker(i int) error {
	if p := c.Workers[i]; p != nil && p.Ended() == "" {
		return nil
	}
	n := c.network.Nodes[len(c.Coordinators)+i]
	args := []string{"run", "--coordinator", c.Addresses(), "--data", c.WorkerDir(i), "--arenas", c.MemoryOf(i),
		"--name", fmt.Sprintf("worker-%d", i+1), "--wait", "0", "--listen", n.Address + ":0"}
	if c.network.inside {
		args = append(args, "--insecure")
	}
	if c.Apart {
		args = append(args, "--host-id", fmt.Sprintf("host-%d", i+1))
	}
	p, err := c.launcher.Start(n, c.WorkerDir(i)+".log", c.Worker, append(args, c.WorkerFlags...)...)
	if err == nil {
		c.Workers[i] = p
	}
	return err
}

// Start starts everything and waits until all coordinators vote and all workers are connected.
func (c *Cluster) Start(ctx context.Context) error {
	for i := range c.Coordinators {
		if err := c.StartCoordinator(i); err != nil {
			return err
		}
	}
	if err := c.Until(ctx, "all coordinators vote", func(ctx context.Context) bool {
		r, err := c.Client.ListMembers(ctx, &clusterpb.ListMembersRequest{})
		voters := 0
		for _, m := range r.GetMembers() {
			if m.Role != "joining" {
				voters++
			}
		}
		return err == nil && voters == len(c.Coordinators)
	}); err != nil {
		return err
	}
	for i := range c.Workers {
		if err := c.StartWorker(i); err != nil {
			return err
		}
	}
	return c.Until(ctx, "all workers are connected", func(ctx context.Context) bool {
		s, err := c.Client.Status(ctx, &clusterpb.StatusRequest{})
		connected := 0
		for _, w := range s.GetWorkers() {
			if w.State == "connected" {
				connected++
			}
		}
		c.id = s.GetCluster()
		return err == nil && connected == len(c.Workers)
	})
}

// Until asks every 20 ms, a second at most each, until what is asked holds.
func (c *Cluster) Until(ctx context.Context, what string, holds func(context.Context) bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		one, cancel := context.WithTimeout(ctx, time.Second)
		ok := holds(one)
		cancel()
		if ok {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waited in vain until %s: %w", what, ctx.Err())
		}
	}
}

// Leader is the coordinator that leads; -1 if none is found within the context's time.
func (c *Cluster) Leader(ctx context.Context) int {
	r, err := c.Client.ListMembers(ctx, &clusterpb.ListMembersRequest{})
	if err != nil {
		return -1
	}
	for _, m := range r.Members {
		for i, a := range c.addresses {
			if m.Role == "leader" && m.Address == a {
				return i
			}
		}
	}
	return -1
}

// InMemory is the newest step of a job that all of so many cells hold, whoever has them; 0 if some cell holds none. One
// goroutine at a time may ask, after Start.
func (c *Cluster) InMemory(job string, cells int) uint64 {
	if c.watches[job] == nil {
		for _, s := range c.stores {
			c.watches[job] = append(c.watches[job], s.Watch(c.id, job))
		}
	}
	newest := map[[2]int]uint64{}
	for _, w := range c.watches[job] {
		for cell, step := range w.Newest() {
			newest[cell] = max(newest[cell], step)
		}
	}
	if len(newest) < cells {
		return 0
	}
	least := ^uint64(0)
	for _, step := range newest {
		least = min(least, step)
	}
	return least
}

// Arenas are the files of cells' states that there are on any host.
func (c *Cluster) Arenas() (files []string) {
	for _, pattern := range []string{filepath.Join(c.Memory, "host-*", "*", "*.arena"),
		filepath.Join(c.Dir, "worker-*", "arenas", "*.arena")} {
		found, _ := filepath.Glob(pattern) // the pattern is sound
		files = append(files, found...)
	}
	return files
}

// Close ends all processes, as a power cut would.
func (c *Cluster) Close() {
	all := append(append([]*Process(nil), c.Coordinators...), c.Workers...)
	for _, p := range all {
		if p != nil {
			_ = p.cmd.Process.Kill() // it may have ended
		}
	}
	for _, p := range all {
		if p != nil {
			<-p.done
		}
	}
	for _, all := range c.watches {
		for _, w := range all {
			w.Close()
		}
	}
	c.conn.Close()
}
