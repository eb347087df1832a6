package main

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"colonnade/coordinator/control"
	"colonnade/coordinator/fsm"
	"colonnade/coordinator/history"
	"colonnade/coordinator/rpc"
	"colonnade/proto/clusterpb"
)

const (
	historyFile = "history.db"
	recordEvery = time.Second     // what is seen is written down, and followers ask the leader what it has seen
	pullLimit   = 5 * time.Second // for the leader to answer one of them
)

// openHistory opens a node's training history; nil: there is none, which stops nothing else.
func openHistory(cfg nodeConfig) *history.Store {
	s, aside, err := history.Open(filepath.Join(cfg.directory, historyFile), time.Now)
	if aside != "" {
		cfg.log.Warn(aside)
	}
	if err != nil {
		cfg.log.Warn("no training history is kept; training goes on; mend this and start this coordinator again", "err", err)
		return nil
	}
	return s
}

// recorder is what keeps a node's history: the log's events and jobs, what the leader hears of cells, and, on a
// follower, what the leader has of them.
type recorder struct {
	*node
	asked  string          // the leader that was asked
	client *rpc.Client     // of that one
	active map[string]bool // jobs that were under way when it was
}

// keepHistory writes the history down until ctx ends.
func (n *node) keepHistory(ctx context.Context) {
	if n.history == nil {
		return
	}
	r := recorder{node: n}
	defer r.forget()
	tick := time.NewTicker(recordEvery)
	defer tick.Stop()
	for {
		r.follow(ctx)
		if err := n.history.Flush(); err != nil {
			n.cfg.log.Warn(err.Error())
			break
		}
		select {
		case <-tick.C:
			continue
		case <-ctx.Done():
		}
		break
	}
	if err := n.history.Close(); err != nil && !errors.Is(err, history.ErrOff) {
		n.cfg.log.Warn("training history is not closed", "err", err)
	}
}

// follow brings the history into line with the log, and with the leader's.
func (r *recorder) follow(ctx context.Context) {
	view, _ := r.raft.View()
	if view.Index == 0 || view.Index < r.history.LastEvent() {
		return // it has just started, and does not know yet what it knew before
	}
	r.history.AddEvents(r.control.Events(r.history.LastEvent()))
	active := map[string]bool{}
	for name, j := range view.Jobs {
		if j.Generation > 0 {
			_ = r.history.Begin(name, j.SubmittedUnixNs, j.Generation, control.Base(j)) // Flush says what is wrong
		}
		if j.State == fsm.Running || j.State == fsm.Stopping {
			active[name] = true
		}
	}
	r.history.Retain(func(job string) bool { return view.Jobs[job] != nil })
	leader := r.raft.LeaderAddress()
	if leader == "" || leader == r.raft.Address() {
		r.forget()
		return
	}
	todo := maps.Clone(active)
	maps.Copy(todo, r.active) // those that have just ended once more
	if leader != r.asked {
		for name := range view.Jobs {
			todo[name] = true
		}
	}
	if err := r.pull(ctx, leader, slices.Sorted(maps.Keys(todo))); err != nil {
		if r.asked != "" {
			r.cfg.log.Info("the leader's training history is out of reach; it is asked again", "leader", leader, "err", err)
		}
		r.forget()
		return
	}
	r.asked, r.active = leader, active
}

// forget ends what there is with the leader that was asked.
func (r *recorder) forget() {
	if r.client != nil {
		_ = r.client.Close()
	}
	r.asked, r.client = "", nil
}

// pull takes in what the leader has of jobs behind what this node has.
func (r *recorder) pull(ctx context.Context, leader string, jobs []string) error {
	if len(jobs) == 0 {
		return nil
	}
	if leader != r.asked || r.client == nil {
		r.forget()
		client, err := rpc.NewClient([]string{leader})
		if err != nil {
			return err
		}
		r.client = client
	}
	ctx, cancel := context.WithTimeout(ctx, pullLimit)
	defer cancel()
	for _, name := range jobs {
		_, newest := r.history.Newest(name)
		reply, err := clusterpb.NewOperatorClient(r.client).History(ctx, &clusterpb.HistoryRequest{Job: name,
			FromStep: newest, Levels: true})
		if status.Code(err) == codes.NotFound { // the leader is ahead of this node
			continue
		}
		if err != nil {
			return err
		}
		if err := r.history.Merge(reply); err != nil {
			return err
		}
	}
	return nil
}
