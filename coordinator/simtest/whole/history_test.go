package whole

import (
	"context"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"colonnade/coordinator/rpc"
	"colonnade/proto/clusterpb"
)

// written is a cell's file of a step, reported by its worker; a reader asks for the newest checkpoint instead.
type written struct {
	job    string
	column int32
	step   uint64
	read   bool
}

// checkpointModel is one machine's account of a job of two columns, whose workers write a file of every tenth step, in
// order: the newest checkpoint is of the step that both have written.
var checkpointModel = porcupine.Model{
	Init: func() any { return [2]uint64{} },
	Step: func(state, in, out any) (bool, any) {
		now, x := state.([2]uint64), in.(written)
		if x.read && out == nil { // nobody has heard it
			return true, now
		}
		if x.read {
			return out.(uint64) == min(now[0], now[1]), now
		}
		now[x.column] = max(now[x.column], x.step)
		return true, now
	},
}

// ledger is what has been asked of the coordinators about checkpoints, by whom, and from when until when.
type ledger struct {
	mu  sync.Mutex
	all []porcupine.Operation
}

// begin notes that something is asked, and returns its place.
func (l *ledger) begin(client int, x written) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, porcupine.Operation{ClientId: client, Input: x, Call: time.Now().UnixNano(),
		Return: math.MaxInt64})
	return len(l.all) - 1
}

// end notes that it is answered. What never is may take effect at any time.
func (l *ledger) end(at int, out uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all[at].Output, l.all[at].Return = out, time.Now().UnixNano()
}

// read asks for a job's newest checkpoint again and again, through whatever leader there is, until the returned
// function is called.
func (c *whole) read(ctx context.Context, job string, l *ledger) func() {
	client, err := rpc.NewClient(coordinators(), c.dialler("10.0.2.9:1"))
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var tasks sync.WaitGroup
	tasks.Go(func() {
		operator := clusterpb.NewOperatorClient(client)
		for ctx.Err() == nil {
			at := l.begin(9, written{job: job, read: true})
			list, err := operator.ListCheckpoints(ctx, &clusterpb.GetJobRequest{Name: job})
			switch {
			case ctx.Err() != nil:
			case err != nil:
				c.t.Errorf("list checkpoints: %v", err)
				return
			default:
				newest := uint64(0)
				for _, m := range list.Checkpoints {
					newest = max(newest, m.Step)
				}
				l.end(at, newest)
			}
			select {
			case <-time.After(70 * time.Millisecond): // virtual
			case <-ctx.Done():
			}
		}
	})
	return func() { cancel(); tasks.Wait(); client.Close() }
}

// check wants what was asked and answered to be the history of one machine.
func (l *ledger) check(c *whole, job string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	reads, writes := 0, 0
	all := slices.DeleteFunc(l.all, func(o porcupine.Operation) bool { return o.Input.(written).job != job })
	for _, o := range all {
		if o.Input.(written).read {
			reads++
		} else if o.Return != math.MaxInt64 {
			writes++
		}
	}
	if reads < 20 || writes < 20 {
		c.t.Errorf("only %d reads and %d writes of checkpoints", reads, writes)
	}
	if !porcupine.CheckOperations(checkpointModel, all) {
		c.t.Errorf("the history of %d reads and %d writes of checkpoints is not that of one machine", reads, writes)
	}
	c.t.Logf("%d reads and %d writes of checkpoints", reads, writes)
}

// A checkpoint that is read, and then is not there, is no machine's history; nor is one that nobody has written whole.
func TestHistoriesThatAreNone(t *testing.T) {
	at := func(x written, out any, call, end int64) porcupine.Operation {
		return porcupine.Operation{Input: x, Output: out, Call: call, Return: end}
	}
	whole := []porcupine.Operation{at(written{step: 10}, nil, 0, 1), at(written{column: 1, step: 10}, nil, 0, 1)}
	read := written{read: true}
	for _, c := range []struct {
		what string
		ops  []porcupine.Operation
		ok   bool
	}{
		{"read when written", append(whole, at(read, uint64(10), 2, 3)), true},
		{"lost after it was acknowledged", append(whole, at(read, uint64(0), 2, 3)), false},
		{"half of it is there", []porcupine.Operation{whole[0], at(read, uint64(10), 2, 3)}, false},
		{"read, and gone again", []porcupine.Operation{whole[0], at(written{column: 1, step: 10}, nil, 0, 9),
			at(read, uint64(10), 2, 3), at(read, uint64(0), 4, 5)}, false},
	} {
		if porcupine.CheckOperations(checkpointModel, c.ops) != c.ok {
			t.Errorf("%s: want %v", c.what, c.ok)
		}
	}
}
