package raftnode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"

	"colonnade/coordinator/fsm"
	"colonnade/proto/commandpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// alone is the configuration of a node that is its whole cluster.
func alone(t *testing.T, dir string) Config {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return Config{Directory: dir, Address: "127.0.0.1:0", Streams: Loopback{l}, Log: slog.New(slog.DiscardHandler),
		Now: time.Now}
}

// lead starts a node and waits until it leads.
func lead(t *testing.T, cfg Config) *Node {
	t.Helper()
	n, err := New(cfg)
	must(t, err)
	t.Cleanup(func() { n.Close() })
	for leads := range n.Leadership() {
		if leads {
			break
		}
	}
	must(t, n.Barrier(t.Context()))
	return n
}

func submit(job string) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_SubmitJob{SubmitJob: &commandpb.SubmitJob{Job: job,
		Spec:  []byte("spec"),
		Steps: 1, Replicas: 1, Columns: 1, Keep: 1}}}
}

func encoded(t *testing.T, n *Node) []byte {
	t.Helper()
	v, _ := n.View()
	v.Index = 0 // raft's own entries move it on one node earlier than on another
	b, err := v.Encode()
	must(t, err)
	return b
}

func TestNodeRestartsFromItsDisk(t *testing.T) {
	dir := t.TempDir()
	n := lead(t, alone(t, dir))
	if !n.IsLeader() || n.Leader() != n.ID() || n.Term() == 0 {
		t.Errorf("leader %q, self %q, term %d", n.Leader(), n.ID(), n.Term())
	}
	_, changed := n.View()
	r, err := n.Apply(t.Context(), submit("one"))
	must(t, err)
	if v, _ := n.View(); v.Jobs["one"] == nil || v.Index != r.Index {
		t.Fatalf("view at %d, applied at %d: %v", v.Index, r.Index, v.Jobs)
	}
	select {
	case <-changed:
	default:
		t.Error("the view's channel is open after a change")
	}
	if _, err := n.Apply(t.Context(), submit("one")); !errors.Is(err, fsm.ErrJobExists) {
		t.Errorf("refusal: %v", err)
	}
	before, id, term := encoded(t, n), n.ID(), n.Term()
	must(t, n.Close())
	must(t, n.Close())

	n = lead(t, alone(t, dir))
	if n.ID() != id || n.Term() <= term {
		t.Errorf("id %s became %s; term %d became %d", id, n.ID(), term, n.Term())
	}
	if !bytes.Equal(encoded(t, n), before) {
		t.Error("the state is another after a restart")
	}
	if nodes, err := n.Nodes(); err != nil || len(nodes) != 1 || string(nodes[0].ID) != id {
		t.Errorf("cluster is %v, %v", nodes, err)
	}
}

func TestSnapshotCompactsAndRestores(t *testing.T) {
	dir := t.TempDir()
	cfg := alone(t, dir)
	cfg.Trailing = 3
	n := lead(t, cfg)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			if _, err := n.Apply(context.Background(), submit(fmt.Sprintf("job-%02d", i))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	must(t, n.Snapshot(t.Context()))
	must(t, n.Snapshot(t.Context())) // nothing new: no error
	first, err := n.store.FirstIndex()
	must(t, err)
	if first < 40 {
		t.Errorf("after the snapshot the log still begins at %d", first)
	}
	_, err = n.Apply(t.Context(), submit("after"))
	must(t, err)
	before := encoded(t, n)
	must(t, n.Close())

	n = lead(t, alone(t, dir))
	if !bytes.Equal(encoded(t, n), before) {
		t.Error("the state is another after a restart from a snapshot")
	}
	if v, _ := n.View(); len(v.Jobs) != 51 {
		t.Errorf("%d jobs", len(v.Jobs))
	}
}

func TestDirectoryInUse(t *testing.T) {
	dir := t.TempDir()
	n := lead(t, alone(t, dir))
	_, err := New(alone(t, dir))
	if !errors.Is(err, ErrInUse) || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(),
		"choose another --data") {
		t.Errorf("second node: %v", err)
	}
	_, err = n.Apply(t.Context(), submit("one"))
	must(t, err) // the first is none the worse
	must(t, n.Close())
	lead(t, alone(t, dir))
}

// New fails with one line that says what to do, and leaves nothing behind.
func TestNewRefuses(t *testing.T) {
	made := func(t *testing.T, dir string) { // with two snapshots and entries behind them
		cfg := alone(t, dir)
		cfg.Trailing = 1
		n := lead(t, cfg)
		for i := range 9 {
			_, err := n.Apply(t.Context(), submit(fmt.Sprint(i)))
			must(t, err)
			if i == 4 || i == 6 {
				must(t, n.Snapshot(t.Context()))
			}
		}
		must(t, n.Close())
	}
	snapshots := func(t *testing.T, dir string) []string {
		found, err := filepath.Glob(filepath.Join(dir, "snapshots", "*", "state.bin"))
		must(t, err)
		if len(found) != 2 {
			t.Fatalf("snapshots %v", found)
		}
		slices.SortFunc(found, func(a, b string) int { return modified(t, a).Compare(modified(t, b)) })
		return found
	}
	for _, tt := range []struct {
		name string
		do   func(t *testing.T, dir string) string // returns the directory to use
		want error
		text string
	}{
		{"a file in the way", func(t *testing.T, dir string) string {
			must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
			return filepath.Join(dir, "file")
		}, nil, "choose another --data"},
		{"not writable", func(t *testing.T, dir string) string {
			return "/proc/self/colonnade"
		}, os.ErrNotExist, "choose another --data"},
		{"lock is a directory", func(t *testing.T, dir string) string {
			must(t, os.Mkdir(filepath.Join(dir, "lock"), 0o700))
			return dir
		}, nil, "choose another --data"},
		{"no id, but a log", func(t *testing.T, dir string) string {
			made(t, dir)
			must(t, os.Remove(filepath.Join(dir, "node.id")))
			return dir
		}, ErrCorruptLog, "node.id is missing or empty"},
		{"an empty id, but a log", func(t *testing.T, dir string) string {
			made(t, dir)
			must(t, os.WriteFile(filepath.Join(dir, "node.id"), []byte("\n"), 0o600))
			return dir
		}, ErrCorruptLog, "node.id is missing or empty"},
		{"a damaged entry", func(t *testing.T, dir string) string {
			made(t, dir)
			put(t, filepath.Join(dir, logFile), bucketLogs, indexKey(10), []byte("x"))
			return dir
		}, ErrCorruptLog, "entry 10"},
		{"a gap in the log", func(t *testing.T, dir string) string {
			made(t, dir)
			s := open(t, filepath.Join(dir, logFile))
			last, err := s.LastIndex()
			must(t, err)
			must(t, s.Close())
			put(t, filepath.Join(dir, logFile), bucketLogs, indexKey(last-1), nil)
			return dir
		}, ErrCorruptLog, "log not found"},
		{"all snapshots damaged", func(t *testing.T, dir string) string {
			made(t, dir)
			for _, path := range snapshots(t, dir) {
				must(t, os.Truncate(path, 5))
			}
			return dir
		}, nil, "failed to load any existing snapshots"},
		{"the newest snapshot damaged, and the log compacted up to it", func(t *testing.T, dir string) string {
			made(t, dir)
			must(t, os.Truncate(snapshots(t, dir)[1], 5))
			return dir
		}, ErrCorruptLog, "log not found"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := alone(t, tt.do(t, t.TempDir()))
			n, err := New(cfg)
			if err == nil {
				t.Fatalf("node %s is up", n.ID())
			}
			if (tt.want != nil && !errors.Is(err, tt.want)) || !strings.Contains(err.Error(), tt.text) ||
				strings.Contains(err.Error(), "\n") {
				t.Errorf("%q, want %v with %q", err, tt.want, tt.text)
			}
		})
	}
}

func modified(t *testing.T, path string) time.Time {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	return info.ModTime()
}

func TestClosedNode(t *testing.T) {
	n := lead(t, alone(t, t.TempDir()))
	must(t, n.Close())
	if _, err := n.Apply(t.Context(), submit("one")); !errors.Is(err, ErrNotLeader) {
		t.Errorf("apply: %v", err)
	}
	if err := n.Barrier(t.Context()); !errors.Is(err, ErrNotLeader) {
		t.Errorf("barrier: %v", err)
	}
	if err := n.Snapshot(t.Context()); !errors.Is(err, ErrNotLeader) {
		t.Errorf("snapshot: %v", err)
	}
}

// Commands that a node is closed under are answered, and what was answered as done is in the log.
func TestCloseUnderCommands(t *testing.T) {
	for round := range 5 {
		dir := t.TempDir()
		n := lead(t, alone(t, dir))
		var mu sync.Mutex
		var wg sync.WaitGroup
		acked := map[string]bool{}
		started := make(chan struct{}, 100)
		for i := range 20 {
			wg.Go(func() {
				for k := 0; ; k++ {
					name := fmt.Sprintf("job-%d-%d", i, k)
					_, err := n.Apply(context.Background(), submit(name))
					if err != nil {
						if !errors.Is(err, ErrNotLeader) {
							t.Error(err)
						}
						return
					}
					mu.Lock()
					acked[name] = true
					mu.Unlock()
					select {
					case started <- struct{}{}:
					default:
					}
				}
			})
		}
		for range 1 + round*20 {
			<-started
		}
		must(t, n.Close())
		wg.Wait()
		n = lead(t, alone(t, dir))
		v, _ := n.View()
		for name := range acked {
			if v.Jobs[name] == nil {
				t.Fatalf("job %s was acknowledged and is gone", name)
			}
		}
		must(t, n.Close())
	}
}

func TestApplyUnderContext(t *testing.T) {
	n := lead(t, alone(t, t.TempDir()))
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("operator went home")
	cancel(why)
	if _, err := n.Apply(ctx, submit("one")); !errors.Is(err, why) {
		t.Errorf("apply: %v", err)
	}
	if err := n.Barrier(ctx); !errors.Is(err, why) {
		t.Errorf("barrier: %v", err)
	}
	must(t, n.Barrier(t.Context()))
	if v, _ := n.View(); v.Jobs["one"] != nil {
		t.Error("a command under an ended context was written")
	}
}

func TestCommandsAreStamped(t *testing.T) {
	cfg := alone(t, t.TempDir())
	cfg.Now = func() time.Time { return time.Unix(0, 123456789) }
	n := lead(t, cfg)
	_, err := n.Apply(t.Context(), submit("one"))
	must(t, err)
	if v, _ := n.View(); v.Jobs["one"].SubmittedUnixNs != 123456789 {
		t.Errorf("submitted at %d", v.Jobs["one"].SubmittedUnixNs)
	}
	if _, err := n.Apply(t.Context(), submit("\xff")); err == nil || errors.Is(err, ErrNotLeader) {
		t.Errorf("a command that cannot be encoded: %v", err)
	}
}

// An entry that cannot be applied stops the process: a node that skipped it would have forked from the others.
func TestAdapterStopsOnWhatItCannotApply(t *testing.T) {
	for name, data := range map[string][]byte{"no command": {0xff}, "unknown kind": {8, 1}, "newer version": {8, 9}} {
		func() {
			defer func() {
				if p := recover(); p == nil || !strings.Contains(fmt.Sprint(p), "raft entry 7") {
					t.Errorf("%s: panic %v", name, p)
				}
			}()
			newAdapter().Apply(&raft.Log{Index: 7, Data: data})
		}()
	}
}

func TestLogsArePassedOn(t *testing.T) {
	var b bytes.Buffer
	n := &Node{cfg: Config{Log: slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug}))}}
	l := n.logger()
	l.Info("entering follower state")
	l.Error("failed to vote", "why", "disk")
	got := b.String()
	if !strings.Contains(got, "level=DEBUG msg=\"raft: entering follower state\"") ||
		!strings.Contains(got, "level=WARN msg=\"raft: failed to vote: why=disk\"") {
		t.Errorf("log is\n%s", got)
	}
}
