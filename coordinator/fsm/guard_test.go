package fsm

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"colonnade/proto/commandpb"
)

// veto is the report of a spike.
func veto(job string, generation, step uint64, c *commandpb.Cell) *commandpb.Command {
	return &commandpb.Command{Kind: &commandpb.Command_VetoStep{VetoStep: &commandpb.VetoStep{Job: job,
		Generation: generation, Step: step, Cell: c, Cause: Spike, Loss: 90, Limit: 7, Reason: "loss 90 is a spike"}}}
}

// decide resumes a job with a decision on the batch that it paused for.
func decide(job string, skip, accept bool) *commandpb.Command {
	r := resume(job, -1)
	r.GetResumeJob().SkipBatch, r.GetResumeJob().AcceptBatch = skip, accept
	return r
}

// A veto pauses a job with its cause; the batch is then skipped, accepted, or tried once more.
func TestVetoPauses(t *testing.T) {
	paused := func() []*commandpb.Command {
		return after(committed(2, 4), veto("j", 1, 6, cell(0, 1)), veto("j", 1, 6, cell(0, 1)))
	}
	l := applyAll(t, paused())
	j := l.View().Jobs["j"]
	if j.State != Paused || j.Reason != "loss 90 is a spike" || len(j.Placement) > 0 || j.EndedUnixNs == 0 ||
		len(j.Vetoes) != 1 || Named(j).GetVetoed().GetStep() != 6 || CellName(Named(j).Vetoed.Cell) != "r0c1" {
		t.Fatalf("job %v", j)
	}
	e := l.View().Events
	if text := e[len(e)-1].Text; e[len(e)-1].Kind != "guard" || !strings.Contains(text, "loss 90 is a spike") ||
		!strings.Contains(text, "coordinator job resume j --skip-batch") {
		t.Errorf("event %q", text)
	}
	for name, c := range map[string]struct {
		command           *commandpb.Command
		skipped, accepted []uint64
	}{
		"skip": {decide("j", true, false), []uint64{6}, nil}, "accept": {decide("j", false, true), nil, []uint64{6}},
		"again": {resume("j", -1), nil, nil},
	} {
		j := applyAll(t, after(paused(), c.command)).View().Jobs["j"]
		if j.State != Queued || !slices.Equal(StepsOf(j, VetoSkipped), c.skipped) ||
			!slices.Equal(StepsOf(j, VetoAccepted), c.accepted) || len(Usable(j)) != 2 ||
			(Named(j) == nil) == (name == "again") {
			t.Errorf("%s: job %v", name, j)
		}
	}
	if j := applyAll(t, after(paused(), stop("j", false))).View().Jobs["j"]; j.State != Stopped {
		t.Errorf("stopped while paused, it is %s", j.State)
	}
}

// A veto of a job that skips batches goes back to a checkpoint, not to memory, and is no failure, whether its report
// comes first or that of a link that broke.
func TestVetoSkips(t *testing.T) {
	skip := with(veto("j", 1, 6, cell(0, 1)), (*commandpb.Command).GetVetoStep,
		func(v *commandpb.VetoStep) { v.Skip = true })
	for name, history := range map[string][]*commandpb.Command{
		"first":  after(committed(2, 4), skip),
		"second": after(committed(2, 4), release("j", 1, "peer lost"), skip),
	} {
		l := applyAll(t, history)
		j := l.View().Jobs["j"]
		if j.State != Recovering || !j.AvoidMemory || j.Failures != 0 ||
			!slices.Equal(StepsOf(j, VetoSkipped), []uint64{6}) || Named(j) != nil || len(Usable(j)) != 2 {
			t.Errorf("%s: job %v", name, j)
		}
	}
	asked := applyAll(t, after(committed(2, 4), stop("j", false), skip)).View().Jobs["j"]
	if asked.State != Stopped || !slices.Equal(StepsOf(asked, VetoSkipped), []uint64{6}) {
		t.Errorf("asked to stop before: job %v", asked)
	}
	// What lies behind the step was computed with it.
	behind := with(veto("j", 1, 4, cell(0, 1)), (*commandpb.Command).GetVetoStep,
		func(v *commandpb.VetoStep) { v.Skip = true })
	if j := applyAll(t, after(committed(2, 4), behind)).View().Jobs["j"]; len(Usable(j)) != 1 {
		t.Errorf("checkpoints %v behind a skipped step", j.Checkpoints)
	}
}

func TestVetoRefusals(t *testing.T) {
	skipped := after(committed(2), with(veto("j", 1, 3, cell(0, 0)), (*commandpb.Command).GetVetoStep,
		func(v *commandpb.VetoStep) { v.Skip = true }), assign("j", 2, 2, place(2, "w0", "w1")...))
	infinite := with(veto("j", 1, 3, cell(0, 0)), (*commandpb.Command).GetVetoStep,
		func(v *commandpb.VetoStep) { v.Cause, v.Loss = "loss-not-finite", 0 })
	for name, c := range map[string]struct {
		history []*commandpb.Command
		command *commandpb.Command
		want    error
	}{
		"of an older generation": {running(), veto("j", 0, 3, cell(0, 0)), ErrStale},
		"of a queued job":        {begin(), veto("j", 0, 3, cell(0, 0)), ErrJobState},
		"of no job":              {running(), veto("k", 1, 3, cell(0, 0)), ErrNoJob},
		"by no cell":             {running(), veto("j", 1, 3, cell(0, 2)), ErrInvalid},
		"of no step":             {running(), veto("j", 1, 0, cell(0, 0)), ErrInvalid},
		"of a step behind":       {running(), veto("j", 1, 11, cell(0, 0)), ErrInvalid},
		"with a loss of NaN": {running(), with(veto("j", 1, 3, cell(0, 0)), (*commandpb.Command).GetVetoStep,
			func(v *commandpb.VetoStep) { v.Loss = math.NaN() }), ErrInvalid},
		"of a skipped step":        {skipped, veto("j", 2, 3, cell(0, 0)), ErrInvalid},
		"skip nothing":             {after(committed(2), stop("j", true)), decide("j", true, false), ErrNoVeto},
		"skip and accept":          {after(running(), veto("j", 1, 3, cell(0, 0))), decide("j", true, true), ErrInvalid},
		"accept what is no number": {after(running(), infinite), decide("j", false, true), ErrNoVeto},
		"twice":                    {after(running(), veto("j", 1, 3, cell(0, 0))), veto("j", 1, 3, cell(0, 0)), ErrJobState},
	} {
		l := applyAll(t, c.history)
		if err := l.try(c.command); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// applyAll is the state that a history leads to. What is refused in it, such as a report that comes twice, is refused.
func applyAll(t *testing.T, history []*commandpb.Command) *vetoLog {
	t.Helper()
	l := &vetoLog{log: &log{State: New()}, t: t}
	for _, c := range history {
		if err := l.try(c); err != nil && !errors.Is(err, ErrJobState) {
			t.Fatalf("%v: %v", c, err)
		}
	}
	return l
}

type vetoLog struct {
	*log
	t *testing.T
}

func (l *vetoLog) try(c *commandpb.Command) error { return l.apply(l.t, c) }
