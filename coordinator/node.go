package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"colonnade/checkpoint/cli"
	"colonnade/coordinator/control"
	"colonnade/coordinator/history"
	"colonnade/coordinator/port"
	"colonnade/coordinator/raftnode"
	"colonnade/coordinator/rpc"
	"colonnade/coordinator/sched"
	"colonnade/coordinator/web"
	"colonnade/proto/clusterpb"
)

// nodeConfig is what a coordinator node is made of.
type nodeConfig struct {
	directory string
	listener  net.Listener // workers, operators and other coordinators
	http      net.Listener // nil: none
	token     string       // that the HTTP port wants; empty: none
	hosts     []string     // names of the HTTP port, besides addresses and localhost
	log       *slog.Logger
	address   string   // that others reach this node at; empty: the listener's
	join      []string // coordinators of the cluster to join; nil: a new directory is a cluster of its own
	cluster   string   // id of the only cluster to join; empty: any
	raft      raftnode.Config
	patience  sched.Patience // zero: as usual
	rules     sched.Rules    // zero: as usual
}

// node is a coordinator node: raft and its state, the leader's loop, and the ways in.
type node struct {
	cfg     nodeConfig
	port    *port.Port
	raft    *raftnode.Node
	control *control.Control
	history *history.Store // nil: it could not be opened
	service *rpc.Server
	grpc    *grpc.Server
	web     *web.Server
	leader  *rpc.Client // to whoever leads, for the HTTP port; it asks this node first
}

// newNode opens the directory and starts raft. Run does the rest; it must be called, since it closes what is open.
func newNode(cfg nodeConfig) (*node, error) {
	if cfg.address == "" {
		cfg.address = cfg.listener.Addr().String()
	}
	p := port.New(cfg.listener, cfg.log)
	rc := cfg.raft
	rc.Directory, rc.Address, rc.Log, rc.Now = cfg.directory, raftnode.Address(cfg.address), cfg.log, time.Now
	rc.Streams, rc.Join = peerStreams{p.Peers()}, cfg.join != nil
	r, err := raftnode.New(rc)
	if err != nil {
		return nil, err
	}
	if cfg.rules == (sched.Rules{}) {
		cfg.rules = sched.DefaultRules
	}
	past := openHistory(cfg)
	told := control.Config{Node: r, Rules: cfg.rules, Patience: cfg.patience, Now: time.Now, Log: cfg.log,
		Cluster: r.Cluster(), Name: r.ID()}
	if past != nil { // an interface that holds a nil would not be nil
		told.History = past
	}
	c := control.New(told)
	n := &node{cfg: cfg, port: p, raft: r, control: c, history: past,
		service: &rpc.Server{Control: c, Node: r, State: r, Past: past, Version: cli.Version(), Log: cfg.log}}
	n.grpc = grpc.NewServer(append(n.service.Options(),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 2 * time.Second, Timeout: 2 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}))...)
	n.service.Register(n.grpc)
	if n.leader, err = rpc.NewClient([]string{cfg.address}); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	operator := clusterpb.NewOperatorClient(n.leader)
	n.web = web.New(web.Config{Operator: operator, Files: &pictures{client: operator}, Events: c.Events, Token: cfg.token,
		Hosts: cfg.hosts, Log: cfg.log, Past: func(ctx context.Context, r *clusterpb.HistoryRequest) (
			*clusterpb.HistoryReply, error) {
			return n.service.History(ctx, r)
		}, Local: func(ctx context.Context) (*clusterpb.StatusReply, error) {
			return n.service.Status(ctx, &clusterpb.StatusRequest{Local: true})
		}})
	return n, nil
}

// peerStreams are the connections between coordinators, on the port they share with everyone.
type peerStreams struct{ net.Listener }

// Dial implements raftnode.Streams.
func (peerStreams) Dial(address raftnode.Address, timeout time.Duration) (net.Conn, error) {
	conn, err := net.DialTimeout("tcp", string(address), timeout)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write([]byte{port.Peer}); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// Run serves until ctx ends, which is no error.
func (n *node) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := n.control.Run(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		return nil
	})
	g.Go(func() error { return n.port.Run(ctx) })
	g.Go(func() error {
		if err := n.grpc.Serve(n.port.Others()); err != nil && ctx.Err() == nil {
			return fmt.Errorf("serve workers and operators: %w", err)
		}
		return nil
	})
	g.Go(func() error { return n.keepMembership(ctx) })
	g.Go(func() error { n.keepHistory(ctx); return nil })
	g.Go(func() error {
		select {
		case <-n.raft.Broken():
			return n.raft.Failure()
		case <-ctx.Done():
			return nil
		}
	})
	page := &http.Server{Handler: n.web.Handler(), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute,
		ErrorLog:    slog.NewLogLogger(n.cfg.log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx }}
	if n.cfg.http != nil {
		g.Go(func() error {
			if err := page.Serve(n.cfg.http); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve http: %w", err)
			}
			return nil
		})
		g.Go(func() error {
			n.web.Run(ctx)
			return nil
		})
	}
	g.Go(func() error {
		<-ctx.Done()
		n.raft.HandOver(context.WithoutCancel(ctx))
		n.grpc.Stop()
		return page.Close()
	})
	return errors.Join(g.Wait(), n.leader.Close(), n.raft.Close())
}
