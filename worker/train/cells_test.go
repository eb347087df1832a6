package train

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"colonnade/checkpoint/disktest"
	"colonnade/cudakern/ref"
	"colonnade/shard/job"
	"colonnade/worker/data"
	"colonnade/worker/exchange"
)

// twoColumns is a job of 12 steps, 4 an epoch, in two columns.
func twoColumns(t testing.TB, change func(*job.Job)) *job.Job {
	t.Helper()
	return makeJob(t, "tiny", 2, makePack(t, 32, 1, 12, 8, 1), makePack(t, 13, 1, 12, 8, 2), func(j *job.Job) {
		j.Recipe.Epochs = 3
		if change != nil {
			change(j)
		}
	})
}

const jobSteps = 12

// TestWhereCellsRunDoesNotReachTheBits trains over every carrier, with and without messages that come late.
func TestWhereCellsRunDoesNotReachTheBits(t *testing.T) {
	j := twoColumns(t, nil)
	want := setup{dev: ref.New(), job: j, root: t.TempDir()}.mustRun(t)
	if len(want.digest) != 2 || len(want.evals) != 3 {
		t.Fatalf("%d digests, %d evaluations", len(want.digest), len(want.evals))
	}
	for _, carrier := range []string{"local", "grpc", "shm", "workers"} {
		for _, delay := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s delayed %v", carrier, delay), func(t *testing.T) {
				got := setup{dev: ref.New(), job: j, root: t.TempDir(), carrier: carrier, delay: delay}.mustRun(t)
				if !maps.Equal(got.digest, want.digest) {
					t.Errorf("digests %x, want %x", got.digest, want.digest)
				}
				if !slices.Equal(got.evals, want.evals) {
					t.Errorf("evaluations %v, want %v", got.evals, want.evals)
				}
			})
		}
	}
}

// TestWatchingDoesNotDisturb trains without evaluation, with more checkpoints and with fewer: the bits stay.
func TestWatchingDoesNotDisturb(t *testing.T) {
	want := setup{dev: ref.New(), job: twoColumns(t, nil), root: t.TempDir()}.mustRun(t)
	trainPack := makePack(t, 32, 1, 12, 8, 1)
	for name, j := range map[string]*job.Job{
		"no evaluation": makeJob(t, "tiny", 2, trainPack, "", func(j *job.Job) { j.Recipe.Epochs = 3 }),
		"another test set": makeJob(t, "tiny", 2, trainPack, makePack(t, 40, 1, 12, 8, 5), func(j *job.Job) {
			j.Recipe.Epochs = 3
		}),
		"a checkpoint a step":   twoColumns(t, func(j *job.Job) { j.Checkpoint.Every = 1 }),
		"one checkpoint in all": twoColumns(t, func(j *job.Job) { j.Checkpoint.Every = 1000 }),
	} {
		got := setup{dev: ref.New(), job: j, root: t.TempDir()}.mustRun(t)
		if !maps.Equal(got.digest, want.digest) {
			t.Errorf("%s: digests %x, want %x", name, got.digest, want.digest)
		}
	}
}

// hooked is a source that says when a cell begins a step.
type hooked struct {
	Source
	begin func(step uint64)
}

func (h hooked) Train(step uint64) data.Batch {
	h.begin(step)
	return h.Source.Train(step)
}

// stopped runs the cells and asks one of them to stop in the step behind `at`: all stop after it.
func (s setup) stopped(t testing.TB, asked exchange.Cell, at uint64) *outcome {
	t.Helper()
	var cells map[exchange.Cell]*Cell
	s.started = func(c map[exchange.Cell]*Cell) { cells = c }
	s.source = func(id exchange.Cell, from Source) Source {
		return hooked{from, func(step uint64) {
			if id == asked && step == at {
				cells[id].RequestStop()
			}
		}}
	}
	got := s.mustRun(t)
	for id := range cells {
		if got.stopped[id] != at+1 {
			t.Errorf("cell %s stopped after step %d, want %d", id, got.stopped[id], at+1)
		}
	}
	return got
}

// TestOneCellAskedToStopStopsAll asks one cell at every step in turn; both stop after that step, with a checkpoint from
// which the job ends in the same state as without the stop.
func TestOneCellAskedToStopStopsAll(t *testing.T) {
	j := twoColumns(t, nil)
	want := setup{dev: ref.New(), job: j, root: t.TempDir()}.mustRun(t)
	for _, carrier := range []string{"local", "workers"} {
		for at := uint64(0); at < jobSteps; at += 5 {
			t.Run(fmt.Sprintf("%s in step %d", carrier, at+1), func(t *testing.T) {
				root := t.TempDir()
				got := setup{dev: ref.New(), job: j, root: root, carrier: carrier, delay: true}.
					stopped(t, exchange.Cell{Column: int(at) % 2}, at)
				if len(got.saved[at+1]) != 2 || len(got.digest) != 0 {
					t.Errorf("%d files of step %d, %d cells finished", len(got.saved[at+1]), at+1, len(got.digest))
				}
				resumed := setup{dev: ref.New(), job: j, root: root, from: at + 1, carrier: carrier}.mustRun(t)
				if !maps.Equal(resumed.digest, want.digest) {
					t.Errorf("resumed: digests %x, want %x", resumed.digest, want.digest)
				}
			})
		}
	}
}

func TestAStopInTheLastStepIsTheEnd(t *testing.T) {
	j := twoColumns(t, nil)
	want := setup{dev: ref.New(), job: j, root: t.TempDir()}.mustRun(t)
	var cells map[exchange.Cell]*Cell
	stopped := setup{dev: ref.New(), job: j, root: t.TempDir(), started: func(c map[exchange.Cell]*Cell) { cells = c },
		source: func(id exchange.Cell, s Source) Source {
			return hooked{s, func(step uint64) {
				if step == jobSteps-1 {
					cells[id].RequestStop()
				}
			}}
		}}.mustRun(t)
	if len(stopped.stopped) != 0 || !maps.Equal(stopped.digest, want.digest) {
		t.Errorf("stopped %v, digests %x, want the end %x", stopped.stopped, stopped.digest, want.digest)
	}
}

// failing is an exchanger that breaks in one step.
type failing struct {
	exchange.Exchanger
	step uint64
	from *exchange.Cell // nil: whoever it is
	err  error
}

func (f failing) Recv(ctx context.Context, from exchange.Cell, tag exchange.Tag, into []byte) error {
	if tag.Step == f.step && (f.from == nil || *f.from == from) {
		return f.err
	}
	return f.Exchanger.Recv(ctx, from, tag, into)
}

// TestAnErrorInOneCellEndsAll breaks one cell: the other ends too, and says why in the words of the first.
func TestAnErrorInOneCellEndsAll(t *testing.T) {
	broken := errors.New("the device fell off the bus")
	for _, carrier := range []string{"local", "grpc", "workers"} {
		t.Run(carrier, func(t *testing.T) {
			dev := ref.New()
			got := setup{dev: dev, job: twoColumns(t, nil), root: t.TempDir(), carrier: carrier,
				exchanger: func(id exchange.Cell, ex exchange.Exchanger) exchange.Exchanger {
					if id.Column == 1 {
						return failing{ex, 4, nil, broken}
					}
					return ex
				}}.run(t)
			err := got.errs[exchange.Cell{Column: 1}]
			if !errors.Is(err, broken) || !strings.Contains(err.Error(), "cell r0c1 after step 4: ") {
				t.Errorf("the broken cell: %v", err)
			}
			var where *CellError
			if !errors.As(err, &where) || where.Cell.Column != 1 || where.Step != 4 {
				t.Errorf("the broken cell is %v", where)
			}
			err = got.errs[exchange.Cell{}]
			told := errors.Is(err, exchange.ErrPeerLost) && strings.Contains(err.Error(), broken.Error())
			if err == nil || carrier == "workers" && !told {
				t.Errorf("the other cell: %v", err)
			}
			if len(got.digest)+len(got.stopped) > 0 {
				t.Errorf("finished %v, stopped %v", got.digest, got.stopped)
			}
			if n := dev.Live(); n != 0 {
				t.Errorf("%d things are still alive on the device", n)
			}
		})
	}
}

// TestDivergenceIsOneVerdict makes the loss overflow: all cells end in the same step, before anyone updates.
func TestDivergenceIsOneVerdict(t *testing.T) {
	j := twoColumns(t, func(j *job.Job) { j.Recipe.Rate = 1e30 })
	got := setup{dev: ref.New(), job: j, root: t.TempDir(), carrier: "workers"}.run(t)
	after := map[uint64]bool{}
	for id, err := range got.errs {
		if !errors.Is(err, ErrDiverged) || !strings.Contains(err.Error(), "lower recipe.rate") {
			t.Errorf("cell %s: %v", id, err)
		}
		after[got.statuses[id].Step] = true
	}
	if len(after) != 1 || len(got.digest) > 0 {
		t.Errorf("the cells ended after steps %v", after)
	}
}

func TestCancellingIsNoFailedSave(t *testing.T) {
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	j := twoColumns(t, func(j *job.Job) { j.Checkpoint.Every = 1 })
	got := setup{dev: ref.New(), job: j, root: t.TempDir(), context: ctx,
		source: func(_ exchange.Cell, s Source) Source {
			return hooked{s, func(step uint64) {
				if step == 5 {
					cancel(enough)
				}
			}}
		}}.run(t)
	for id, err := range got.errs {
		if !errors.Is(err, enough) {
			t.Errorf("cell %s: got %v, want %v", id, err, enough)
		}
	}
	if len(got.failed) > 0 {
		t.Errorf("reported as failed saves: %v", got.failed)
	}
}

// TestAFailedSaveDoesNotStopTraining puts a file where the checkpoints' directory has to be. Training goes on to its
// end, which then waits, trying again, until the file is gone.
func TestAFailedSaveDoesNotStopTraining(t *testing.T) {
	j := twoColumns(t, nil)
	want := setup{dev: ref.New(), job: j, root: t.TempDir()}.mustRun(t)
	synctest.Test(t, func(t *testing.T) {
		root := t.TempDir()
		block := filepath.Join(root, j.Name)
		if err := os.WriteFile(block, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		ends := map[exchange.Cell]int{} // failed saves of the last step
		began := time.Now()
		got := setup{dev: ref.New(), job: j, root: root, report: func(e Event) {
			mu.Lock()
			defer mu.Unlock()
			if f, ok := e.(SaveFailed); ok && f.Step == jobSteps {
				if ends[f.Cell]++; ends[f.Cell] == 4 && len(ends) == 2 {
					os.Remove(block)
				}
			}
		}}.mustRun(t)
		if !maps.Equal(got.digest, want.digest) || len(got.saved) != 1 || len(got.saved[jobSteps]) != 2 {
			t.Errorf("digests %x, want %x; saved %v", got.digest, want.digest, got.saved)
		}
		steps := map[uint64]bool{}
		for _, f := range got.failed {
			steps[f.Step] = true
			if !strings.Contains(f.Err.Error(), block) {
				t.Errorf("%v does not name the file", f.Err)
			}
		}
		for _, step := range []uint64{3, 6, 9, jobSteps} {
			if !steps[step] {
				t.Errorf("no word of the failed save of step %d", step)
			}
		}
		if took := time.Since(began); took < 7*time.Second || took > 16*time.Second {
			t.Errorf("four attempts with doubled pauses took %v", took)
		}
	})
}

// TestAFullDisk trains with checkpoints on a file system that has no room for them.
func TestAFullDisk(t *testing.T) {
	root := t.TempDir()
	disktest.Small(t, root, 64)
	ctx, cancel := context.WithCancelCause(context.Background())
	enough := errors.New("enough")
	got := setup{dev: ref.New(), job: twoColumns(t, nil), root: root, context: ctx, report: func(e Event) {
		if f, ok := e.(SaveFailed); ok && f.Step == jobSteps {
			cancel(enough)
		}
	}}.run(t)
	for id, err := range got.errs {
		if !errors.Is(err, enough) || got.statuses[id].Step != jobSteps {
			t.Errorf("cell %s ended after step %d: %v", id, got.statuses[id].Step, err)
		}
	}
	if len(got.failed) < 4 || !errors.Is(got.failed[0].Err, syscall.ENOSPC) {
		t.Errorf("failed saves: %v", got.failed)
	}
	var left []string
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			left = append(left, path)
		}
		return err
	})
	if err != nil || len(left) > 0 {
		t.Errorf("half-written files are left: %v, %v", left, err)
	}
}

// TestNoMemoryForASnapshot denies cells the memory that a checkpoint is copied to, until they have asked some times:
// each checkpoint that is not written for it is reported, training goes on, and the last one is tried again.
func TestNoMemoryForASnapshot(t *testing.T) {
	for name, denied := range map[string]int{"at first": 1, "to the end": jobSteps} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			asked := map[exchange.Cell]int{}
			got := setup{dev: ref.New(), job: twoColumns(t, nil), root: t.TempDir(),
				started: func(cells map[exchange.Cell]*Cell) {
					for id, c := range cells {
						c.saver.close() // what it began with
						last := c.job.Steps()
						c.reserve = func(bytes int) ([]byte, error) {
							mu.Lock()
							defer mu.Unlock()
							if asked[id]++; asked[id] <= denied && (c.step < last || asked[id] == 1) {
								return nil, syscall.ENOMEM
							}
							return reserve(bytes)
						}
					}
				}}.mustRun(t)
			want := setup{dev: ref.New(), job: twoColumns(t, nil), root: t.TempDir()}.mustRun(t)
			if !maps.Equal(got.digest, want.digest) || len(got.digest) != 2 {
				t.Errorf("digests %v, undisturbed they are %v", got.digest, want.digest)
			}
			if len(got.failed) < 2 || len(got.saved[jobSteps]) != 2 {
				t.Errorf("failed saves: %v; of the last step there are %v", got.failed, got.saved[jobSteps])
			}
			for _, f := range got.failed {
				if !errors.Is(f.Err, ErrNoRoom) || !errors.Is(f.Err, syscall.ENOMEM) {
					t.Errorf("step %d: %v", f.Step, f.Err)
				}
			}
		})
	}
}

// TestEveryPhaseIsNamedAndTimed wants a step's phases in the status, and nothing of the evaluation among them.
func TestEveryPhaseIsNamedAndTimed(t *testing.T) {
	j := twoColumns(t, func(j *job.Job) { j.Recipe.Epochs = 6 }) // so that there is more than the first step's report
	got := setup{dev: ref.New(), job: j, root: t.TempDir()}.mustRun(t)
	for id, s := range got.statuses {
		for _, phase := range []string{"data", "input", "loss", "guard", "update", "conv1", "conv1/w weights", "pool1",
			"pool1 gradient", fmt.Sprintf("conv2 wait for column %d", 1-id.Column), "snapshot"} {
			if _, ok := s.PhaseSeconds[phase]; !ok {
				t.Errorf("cell %s: phase %q is not timed", id, phase)
			}
		}
		for phase, seconds := range s.PhaseSeconds {
			if seconds < 0 || strings.Contains(phase, "evaluate") || strings.Contains(phase, "test data") {
				t.Errorf("cell %s: phase %q took %g s", id, phase, seconds)
			}
		}
		if t.Failed() {
			t.Logf("cell %s: %v", id, slices.Sorted(maps.Keys(s.PhaseSeconds)))
		}
	}
}
