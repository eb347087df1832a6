package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"colonnade/coordinator/control"
	"colonnade/coordinator/raftnode"
	"colonnade/coordinator/rpc"
	"colonnade/coordinator/sched"
	"colonnade/proto/clusterpb"
)

// nodeConfig is what a coordinator node is made of.
type nodeConfig struct {
	directory string
	listener  net.Listener // workers and operators
	http      net.Listener // nil: none
	log       *slog.Logger
}

// node is a coordinator node: raft and its state, the leader's loop, and the ways in.
type node struct {
	cfg     nodeConfig
	raft    *raftnode.Node
	control *control.Control
	service *rpc.Server
	grpc    *grpc.Server
}

// newNode opens the directory and starts raft. Run does the rest; it must be called, since it closes what is open.
func newNode(cfg nodeConfig) (*node, error) {
	peers, err := net.Listen("tcp", "127.0.0.1:0") // a node that is its whole cluster has no peers
	if err != nil {
		return nil, fmt.Errorf("listen for other coordinators: %w", err)
	}
	r, err := raftnode.New(raftnode.Config{Directory: cfg.directory, Address: "127.0.0.1:0",
		Streams: raftnode.Loopback{Listener: peers}, Log: cfg.log, Now: time.Now})
	if err != nil {
		return nil, errors.Join(err, ignoreClosed(peers.Close()))
	}
	c := control.New(control.Config{Node: r, Rules: sched.DefaultRules, Now: time.Now, Log: cfg.log})
	n := &node{cfg: cfg, raft: r, control: c,
		service: &rpc.Server{Control: c, Node: r, Version: version(), Log: cfg.log}}
	n.grpc = grpc.NewServer(append(n.service.Options(),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 2 * time.Second, Timeout: 2 * time.Second}))...)
	n.service.Register(n.grpc)
	return n, nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
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
	g.Go(func() error {
		if err := n.grpc.Serve(n.cfg.listener); err != nil {
			return fmt.Errorf("serve workers and operators: %w", err)
		}
		return nil
	})
	web := &http.Server{Handler: n.handler(), ReadHeaderTimeout: 5 * time.Second}
	if n.cfg.http != nil {
		g.Go(func() error {
			if err := web.Serve(n.cfg.http); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve http: %w", err)
			}
			return nil
		})
	}
	g.Go(func() error {
		<-ctx.Done()
		n.grpc.Stop()
		return web.Close()
	})
	return errors.Join(g.Wait(), n.raft.Close())
}

// handler is the HTTP port: for machines that watch over the coordinator.
func (n *node) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if n.raft.Leader() == "" {
			http.Error(w, "no leader", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		s, err := n.service.Status(r.Context(), &clusterpb.StatusRequest{})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = printProto(w, s) // whom it cannot be told does not listen
	})
	return mux
}

// version is the program's version control revision, if the build recorded one.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return "unversioned"
}
