package raftnode

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"colonnade/coordinator/fsm"
	"colonnade/proto/commandpb"
)

// adapter makes an fsm.State a raft.FSM: it decodes, applies and tells. An entry that cannot be applied stops the
// process: a node that skipped it would have silently forked from the others.
type adapter struct {
	mu      sync.Mutex
	state   *fsm.State
	changed chan struct{} // closed and replaced at every change
}

func newAdapter() *adapter { return &adapter{state: fsm.New(), changed: make(chan struct{})} }

// Apply implements raft.FSM; it returns an fsm.Result.
func (a *adapter) Apply(l *raft.Log) any {
	var c commandpb.Command
	if err := proto.Unmarshal(l.Data, &c); err != nil {
		panic(fmt.Sprintf("raft entry %d cannot be decoded: %v", l.Index, err))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	r, err := a.state.Apply(l.Index, &c)
	if err != nil {
		panic(fmt.Sprintf("raft entry %d cannot be applied: %v", l.Index, err))
	}
	a.notify()
	return r
}

func (a *adapter) notify() {
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *adapter) view() (fsm.View, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state.View(), a.changed
}

// Snapshot implements raft.FSM: it takes a view at once and leaves the writing for later.
func (a *adapter) Snapshot() (raft.FSMSnapshot, error) {
	v, _ := a.view()
	return snapshot{v}, nil
}

// Restore implements raft.FSM.
func (a *adapter) Restore(r io.ReadCloser) error {
	defer r.Close()
	s, err := fsm.Decode(r)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state = s
	a.notify()
	return nil
}

// snapshot is a view on its way to disk.
type snapshot struct{ view fsm.View }

// Persist implements raft.FSMSnapshot. The sink is cancelled on failure only: raft may have compacted the log once this
// has returned without an error.
func (s snapshot) Persist(sink raft.SnapshotSink) error {
	b, err := s.view.Encode()
	if err == nil {
		_, err = sink.Write(b)
	}
	if err != nil {
		return fmt.Errorf("write snapshot: %w", errors.Join(err, sink.Cancel()))
	}
	return sink.Close()
}

// Release implements raft.FSMSnapshot.
func (snapshot) Release() {}
