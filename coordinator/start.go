package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"colonnade/checkpoint/bearer"
	"colonnade/coordinator/fsm"
	"colonnade/coordinator/raftnode"
	"colonnade/coordinator/sched"
)

// startCmd is `coordinator start`.
type startCmd struct {
	Data      string   `required:"" placeholder:"DIR" help:"Directory of this coordinator's log and state."`
	Listen    string   `default:"${address}" placeholder:"ADDR" help:"Address for workers, operators and other coordinators."`
	Advertise string   `placeholder:"ADDR" help:"Address at which all others reach this coordinator, host:port. Default: the one it listens on."`
	HTTP      string   `name:"http" default:"${web}" placeholder:"ADDR" help:"Address of the dashboard, its API, /metrics, /healthz and /readyz; none: no such port."`
	HTTPToken string   `name:"http-token-file" placeholder:"FILE" help:"File with the token that the dashboard, the API and /metrics want; needed where --http is no loopback address."`
	HTTPHost  []string `name:"http-host" sep:"," placeholder:"NAME" help:"Names under which --http is reached, besides addresses, localhost and the machine's own: a request for another is refused."`
	Insecure  bool     `help:"Allow addresses other than loopback, without encryption."`
	Join      []string `sep:"," placeholder:"ADDR" help:"Become a member of the cluster of these coordinators, host:port, comma-separated, and stay one; any one of them will do. wait: wait until coordinator member add names this one. Without it, a new directory is a cluster of its own."`
	Cluster   string   `placeholder:"ID" help:"With --join: join no other cluster than this."`
	Restore   string   `placeholder:"FILE" help:"Make a new cluster of a backup, in a new directory."`
	LogLevel  string   `default:"info" enum:"debug,info,warn,error" help:"debug, info, warn or error."`

	ElectionTimeout  time.Duration `default:"${election}" help:"How long a leader may be silent before the others elect the next; the same on all coordinators. Raise it where disks or networks are slow."`
	SnapshotEntries  uint64        `default:"${snapshotEntries}" placeholder:"N" help:"New log entries after which the log is compacted into a snapshot."`
	SnapshotInterval time.Duration `default:"${snapshotEvery}" help:"How often to see whether there are so many."`
	HangGrace        time.Duration `default:"${hangGrace}" help:"How long a worker may be stuck in one phase of a step, or cells wait for each other, before its cells go to others. It is named at once. One that is silent is replaced when its lease of 3 s is over."`
	SpreadAfter      time.Duration `default:"${spreadAfter}" help:"How long a worker must have been there, and a job have run, before cells that share a worker move to the one that is free, at a step boundary; 0: never."`
	ForgetAfter      time.Duration `default:"${forgetAfter}" help:"How long a worker must have been lost to be forgotten, unless a job that is not done has files with it; 0: never."`
	TrailingEntries  uint64        `default:"${trailing}" placeholder:"N" help:"Log entries kept behind a snapshot, for coordinators that lag."`
}

// noAddress turns a port off.
const noAddress = "none"

// joinWait is --join of one that waits to be named.
const joinWait = "wait"

// Run runs a coordinator until it is interrupted.
func (c *startCmd) Run(con console) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return usagef("--log-level: %w; give debug, info, warn or error", err)
	}
	if err := c.check(); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(con.err, &slog.HandlerOptions{Level: level}))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cfg := nodeConfig{directory: c.Data, log: log, address: c.Advertise, join: c.Join, cluster: c.Cluster,
		raft: raftnode.Config{Election: c.ElectionTimeout, SnapshotEntries: c.SnapshotEntries,
			SnapshotEvery: c.SnapshotInterval, Trailing: c.TrailingEntries}}
	cfg.patience = sched.DefaultPatience
	cfg.patience.Grace = c.HangGrace
	cfg.rules = sched.DefaultRules
	cfg.rules.Spread, cfg.rules.Forget = c.SpreadAfter, c.ForgetAfter
	var err error
	if cfg.listener, err = listen("--listen", c.Listen, c.Insecure); err != nil {
		return err
	}
	defer cfg.listener.Close()
	if c.HTTP != noAddress {
		if cfg.http, err = listen("--http", c.HTTP, c.Insecure); err != nil {
			return err
		}
		defer cfg.http.Close()
		if cfg.token, err = bearer.Read(c.HTTPToken, c.HTTP, cfg.http.Addr()); err != nil {
			if errors.As(err, &bearer.Misuse{}) {
				return usageError{err}
			}
			return err
		}
		cfg.hosts = c.HTTPHost
		if name, err := os.Hostname(); err == nil {
			cfg.hosts = append(cfg.hosts, name)
		}
	}
	if c.Restore != "" {
		if err := c.restore(cfg); err != nil {
			return err
		}
	}
	n, err := newNode(cfg)
	if err != nil {
		return err
	}
	page := noAddress
	if cfg.http != nil {
		page = cfg.http.Addr().String()
	}
	log.Info("coordinator started", "node", n.raft.ID(), "data", c.Data, "listen", cfg.listener.Addr().String(),
		"http", page)
	log.Info("workers join with: worker run --data DIR --coordinator " + n.raft.Address())
	return n.Run(ctx)
}

// Bounds of what can be meant.
const (
	leastElection = 20 * time.Millisecond
	mostElection  = time.Minute
	leastSnapshot = 10 * time.Millisecond
)

// check refuses a command line that cannot be meant.
func (c *startCmd) check() error {
	for _, a := range c.Join {
		if a == joinWait && len(c.Join) == 1 {
			continue
		}
		if err := checkAddress("--join", a); err != nil {
			return err
		}
	}
	switch {
	case c.HTTPToken != "" && c.HTTP == noAddress:
		return usagef("--http-token-file without --http; give --http an address")
	case c.Cluster != "" && len(c.Join) == 0:
		return usagef("--cluster %s without --join; name the cluster's coordinators with --join", c.Cluster)
	case c.Restore != "" && len(c.Join) > 0:
		return usagef("--restore makes a new cluster, --join enters one; restore one coordinator, then join the others to it")
	case c.ElectionTimeout < leastElection || c.ElectionTimeout > mostElection:
		return usagef("--election-timeout %v; give between %v and %v", c.ElectionTimeout, leastElection, mostElection)
	case c.SnapshotEntries < 1:
		return usagef("--snapshot-entries %d; give 1 or more", c.SnapshotEntries)
	case c.SnapshotInterval < leastSnapshot:
		return usagef("--snapshot-interval %v; give %v or more", c.SnapshotInterval, leastSnapshot)
	case c.HangGrace <= 0:
		return usagef("--hang-grace %v; give more than 0", c.HangGrace)
	case c.ForgetAfter < 0:
		return usagef("--forget-after %v; give more than 0, or 0 for never", c.ForgetAfter)
	case c.SpreadAfter < 0:
		return usagef("--spread-after %v; give more than 0, or 0 for never", c.SpreadAfter)
	case c.TrailingEntries < 1:
		return usagef("--trailing-entries 0; give 1 or more")
	}
	if c.Advertise != "" {
		if err := checkAddress("--advertise", c.Advertise); err != nil {
			return err
		}
	}
	if address := cmp.Or(c.Advertise, c.Listen); everywhere(address) && (len(c.Join) > 0 || c.Advertise != "") {
		return usagef("others do not reach this coordinator at %s; give --advertise HOST:PORT", address)
	}
	return nil
}

// everywhere says whether an address stands for all of a machine's.
func everywhere(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return err == nil && (host == "" || ip != nil && ip.IsUnspecified())
}

// restore makes the data directory of a backup.
func (c *startCmd) restore(cfg nodeConfig) error {
	b, err := os.ReadFile(c.Restore)
	if err != nil {
		return fmt.Errorf("read backup: %w; make one with: coordinator backup FILE", err)
	}
	rc := cfg.raft
	rc.Directory, rc.Log, rc.Now = cfg.directory, cfg.log, time.Now
	rc.Address = raftnode.Address(cmp.Or(cfg.address, cfg.listener.Addr().String()))
	err = raftnode.Restore(rc, b)
	if errors.Is(err, fsm.ErrBackup) {
		err = fmt.Errorf("%w; give a file that coordinator backup has written", err)
	}
	if err != nil {
		return fmt.Errorf("--restore %s: %w", c.Restore, err)
	}
	return nil
}

// listen opens the address of a flag. One that others could reach is refused unless it is meant to be: nothing is
// encrypted yet.
func listen(flag, address string, insecure bool) (net.Listener, error) {
	if err := checkAddress(flag, address); err != nil {
		return nil, err
	}
	host, _, _ := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	if !insecure && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, usagef("%s %s is open to the network without encryption; use 127.0.0.1, or add --insecure", flag, address)
	}
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s %s: the port is in use; stop what uses it, or choose another %s", flag, address, flag)
	}
	if err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			err = op.Err // without the address again
		}
		return nil, fmt.Errorf("%s %s: %w; choose another %s", flag, address, err, flag)
	}
	return l, nil
}
