package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"colonnade/checkpoint"
	"colonnade/checkpoint/model"
	"colonnade/cudakern"
	"colonnade/proto/clusterpb"
	"colonnade/shard/job"
	"colonnade/shard/score"
	"colonnade/worker/data"
	"colonnade/worker/depot"
	"colonnade/worker/exchange"
)

// A part of an evaluation is an assignment like a job's generation, but for what it does: it loads the models, tests
// them on its images and reports the sums. The models stay ready for the next part for a while.

// keepModels is how long models are kept ready for another part.
const keepModels = 5 * time.Second

// partRun is a part being computed.
type partRun struct {
	run        *assignment
	evaluation uint64
	busy       bool // it goes on beside cells

	mu        sync.Mutex
	evaluator *evaluator // once it computes
}

// readyModels are those of an evaluation, between two parts.
type readyModels struct {
	evaluation uint64
	evaluator  *evaluator
	taken      chan struct{} // closed when they have another owner
}

// assignPart begins a part, after what this worker had of others has ended. h.mu is held.
func (h *host) assignPart(a *clusterpb.Assign) {
	old := h.runs[a.Job]
	if h.closed || old != nil && old.generation >= a.Generation || h.ended[a.Job] >= a.Generation {
		return
	}
	ctx, cancel := context.WithCancelCause(h.ctx)
	run := &assignment{job: a.Job, generation: a.Generation, cancel: cancel, quiet: make(chan struct{}),
		done: make(chan struct{}), phase: phaseReplace, since: time.Now()}
	before := h.part
	p := &partRun{run: run, evaluation: a.Part.Evaluation, busy: a.Part.Busy}
	h.runs[a.Job], h.part = run, p
	h.tasks.Go(func() {
		defer close(run.done)
		defer cancel(nil)
		if before != nil {
			before.run.cancel(errSuperseded)
			<-before.run.done
		}
		tally, err := h.evaluatePart(ctx, p, a)
		close(run.quiet)
		h.mu.Lock()
		if h.runs[run.job] == run {
			delete(h.runs, run.job)
		}
		if h.part == p {
			h.part = nil
		}
		h.ended[run.job] = max(h.ended[run.job], run.generation)
		h.mu.Unlock()
		h.tellPart(ctx, a, tally, err) // whoever hears of it finds this worker free
		if errors.Is(err, cudakern.ErrLost) {
			h.die(err)
		}
	})
}

// endParts ends what this worker computes of evaluations, cells coming, and what it keeps ready for more. The function
// it returns waits for that. h.mu is held.
func (h *host) endParts() (wait func()) {
	p := h.part
	if p != nil && p.busy {
		return func() {}
	}
	if p != nil {
		p.run.cancel(errRevoked)
	}
	return func() {
		if p != nil {
			<-p.run.done
		}
		if e := h.takeModels(); e != nil {
			h.release(e.evaluator)
		}
	}
}

// tellPart reports what a part came to, unless it was taken back.
func (h *host) tellPart(ctx context.Context, a *clusterpb.Assign, t *score.Tally, err error) {
	out := &clusterpb.PartEvaluated{Evaluation: a.Part.Evaluation}
	switch cause := context.Cause(ctx); {
	case err == nil:
		out.Sum = sumOf(t)
	case errors.Is(cause, errSuperseded), errors.Is(cause, errRevoked), h.ctx.Err() != nil:
		h.log.Info("part ended", "evaluation", a.Part.Evaluation, "generation", a.Generation, "cause", cause)
		return
	default:
		h.log.Error("part failed", "evaluation", a.Part.Evaluation, "generation", a.Generation, "err", err)
		var permanent permanentError
		out.Failed, out.Permanent = err.Error(), errors.As(err, &permanent)
	}
	h.report(&clusterpb.Report{Job: a.Job, Generation: a.Generation, Kind: &clusterpb.Report_Part{Part: out}})
}

// sumOf is a tally as it is reported.
func sumOf(t *score.Tally) *clusterpb.EvaluationSum {
	s := &clusterpb.EvaluationSum{Images: t.Images, Loss: t.Loss, Top1Errors: t.Top1, Top5Errors: t.Top5}
	for i, c := range t.ByClass {
		if c.Images > 0 {
			s.Classes = append(s.Classes, &clusterpb.ClassSum{Label: uint32(i), Images: c.Images, Loss: c.Loss,
				Top1Errors: c.Top1, Top5Errors: c.Top5})
		}
	}
	for _, c := range t.Cells() {
		s.Confused = append(s.Confused, &clusterpb.ConfusedSum{Label: uint32(c.Label), TakenFor: uint32(c.As),
			Images: c.Images})
	}
	return s
}

// Part says how far the part is that this worker computes; nil: there is none.
func (h *host) Part() *clusterpb.PartStatus {
	h.mu.Lock()
	p := h.part
	h.mu.Unlock()
	if p == nil {
		return nil
	}
	p.run.mu.Lock()
	out := &clusterpb.PartStatus{Evaluation: p.evaluation, Generation: p.run.generation, Phase: p.run.phase}
	p.run.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.evaluator != nil {
		out.Passes, out.Computing = p.evaluator.passes.Load(), true
	}
	return out
}

// evaluatePart computes a part. The models are kept ready after it, if nothing went wrong with them.
func (h *host) evaluatePart(ctx context.Context, p *partRun, a *clusterpb.Assign) (*score.Tally, error) {
	if ctx.Err() != nil { // taken back before its turn came
		return nil, context.Cause(ctx)
	}
	var e *evaluator
	if ready := h.takeModels(); ready != nil && ready.evaluation == p.evaluation {
		e = ready.evaluator
	} else {
		if ready != nil {
			h.release(ready.evaluator)
		}
		var err error
		if e, err = h.prepare(ctx, p.run, a); err != nil {
			return nil, err
		}
	}
	e.passes.Store(0)
	p.run.enter("test")
	p.mu.Lock()
	p.evaluator = e
	p.mu.Unlock()
	t, err := e.part(ctx, int(a.Part.First), int(a.Part.Images))
	p.mu.Lock()
	p.evaluator = nil
	p.mu.Unlock()
	if err != nil {
		h.release(e)
		return nil, err
	}
	h.keepModels(p.evaluation, e)
	return t, nil
}

// release gives models back.
func (h *host) release(e *evaluator) {
	if err := e.close(); err != nil {
		h.log.Warn("close what was tested", "err", err)
	}
}

// takeModels returns what is ready, which is the caller's then; nil: nothing is.
func (h *host) takeModels() *readyModels {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.ready
	if h.ready = nil; r != nil {
		close(r.taken)
	}
	return r
}

// keepModels keeps models ready until they are taken, or for a while. It is called by a task, so tasks are not waited
// for yet, or not in vain.
func (h *host) keepModels(evaluation uint64, e *evaluator) {
	r := &readyModels{evaluation: evaluation, evaluator: e, taken: make(chan struct{})}
	h.mu.Lock()
	h.ready = r
	h.mu.Unlock()
	h.tasks.Go(func() {
		idle := time.NewTimer(keepModels)
		defer idle.Stop()
		select {
		case <-r.taken:
			return
		case <-idle.C:
		case <-h.ctx.Done():
		}
		h.mu.Lock()
		mine := h.ready == r
		if mine {
			h.ready = nil
		}
		h.mu.Unlock()
		if mine {
			h.release(e)
		}
	})
}

// prepare makes a part's models ready to compute. What they need and this machine lacks, packs and checkpoints, it
// fetches.
func (h *host) prepare(ctx context.Context, run *assignment, a *clusterpb.Assign) (_ *evaluator, err error) {
	q := a.Part
	if len(q.Models) == 0 || q.Batch == 0 || q.Pack == nil {
		return nil, permanentError{errors.New("the part names no models, or no images")}
	}
	run.enter(phasePacks)
	images, err := h.imagesOf(ctx, run, a)
	if err != nil {
		return nil, err
	}
	e := &evaluator{images: images}
	defer func() {
		if err != nil {
			err = also(err, e.close())
		}
	}()
	var first *loadedModel
	for _, k := range q.Models {
		run.enter(phasePacks)
		m, trained, err := h.modelOf(ctx, run, a, k)
		if err != nil {
			return nil, err
		}
		if first == nil {
			first = m
		}
		if err := m.takes(images, q.Pack.Path, first); err != nil {
			return nil, permanentError{err}
		}
		source, err := m.sourceOf(images, trained, int(q.Views))
		if err != nil {
			return nil, permanentError{err}
		}
		run.enter(phaseBuild)
		open := func(s cudakern.Settings) (cudakern.Device, error) { return h.openAs(s, k.Checkpoint.Numerics) }
		p, err := newPredictor(h.ctx, m, source, int(q.Batch), h.threads, open) // it outlives the part
		e.models = append(e.models, p)
		if err != nil {
			if err = fmt.Errorf("build %s: %w", m.name, err); errors.Is(err, cudakern.ErrUnsupported) {
				err = permanentError{err}
			}
			return nil, err
		}
	}
	return newEvaluator(e.models, images, int(q.Views), int(q.Batch)), nil
}

// openAs opens this worker's device for a cell, which must compute under some numerics.
func (h *host) openAs(s cudakern.Settings, numerics string) (cudakern.Device, error) {
	d, err := h.open(s)
	if err != nil {
		return nil, err
	}
	if got := d.Info().Numerics; got != numerics {
		err := fmt.Errorf("this device computes under %s, the model was trained under %s", got, numerics)
		return nil, also(err, d.Close())
	}
	return d, nil
}

// imagesOf opens the pack that is tested on.
func (h *host) imagesOf(ctx context.Context, run *assignment, a *clusterpb.Assign) (*data.Pack, error) {
	q := a.Part.Pack
	want := &job.Pack{Path: q.Path, ID: q.Id, Images: int(q.Images), Channels: int(q.Channels), Height: int(q.Height),
		Width: int(q.Width), Classes: int(q.Classes)}
	p, err := openPack(want, func(want *job.Pack) (string, error) { return h.obtain(ctx, want, a.Peers, run.enter) })
	if err != nil {
		return nil, h.finally(ctx, fmt.Errorf("images to test on: %w", err))
	}
	return p, nil
}

// finally marks an error of packs that will be no better at the next try.
func (h *host) finally(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, depot.ErrLost) {
		return err
	}
	return permanentError{err}
}

// modelOf loads a model from its checkpoint, and says where its training pack lies.
func (h *host) modelOf(ctx context.Context, run *assignment, a *clusterpb.Assign, k *clusterpb.EvaluationModel) (
	_ *loadedModel, trained string, err error) {
	j, err := job.Decode(k.Spec)
	if err != nil {
		return nil, "", permanentError{fmt.Errorf("read job: %w", err)}
	}
	plan, err := j.Plan()
	if err != nil {
		return nil, "", permanentError{fmt.Errorf("plan job %s: %w", j.Name, err)}
	}
	if trained, err = h.obtain(ctx, j.Train, a.Peers, run.enter); err != nil {
		return nil, "", h.finally(ctx, fmt.Errorf("mean image of job %s: %w", j.Name, err))
	}
	about, err := model.AboutJob(j, trained)
	if err != nil {
		return nil, "", permanentError{err}
	}
	run.enter(phaseRestore)
	m := &loadedModel{name: fmt.Sprintf("%s step %d", j.Name, k.Checkpoint.GetStep()), job: j, about: about,
		state: model.NewState(plan)}
	for column := range plan.Columns {
		id := exchange.Cell{Column: column}
		at := slices.IndexFunc(k.Checkpoint.GetFiles(), func(f *clusterpb.CheckpointFile) bool {
			return cellOf(f.Cell) == id
		})
		if at < 0 {
			return nil, "", permanentError{fmt.Errorf("checkpoint %s has no file of cell %s", m.name, id)}
		}
		f := k.Checkpoint.Files[at]
		want, err := wanted(k.Checkpoint, f, id, plan)
		if err != nil {
			return nil, "", permanentError{err}
		}
		err = h.load(ctx, f, want, func(ctx context.Context, path string, want checkpoint.Want) error {
			return m.state.Load(ctx, column, path, want)
		})
		if err != nil && ctx.Err() == nil && unusable(err) {
			h.report(&clusterpb.Report{Job: j.Name, Generation: k.Checkpoint.Generation, Kind: &clusterpb.Report_Bad{
				Bad: &clusterpb.CheckpointBad{Step: k.Checkpoint.Step, Cell: cellPB(id), Reason: err.Error()}}})
			err = permanentError{fmt.Errorf("%s: %w; test another step: coordinator evaluate %s --step N", m.name, err,
				j.Name)}
		}
		if err != nil {
			return nil, "", err
		}
	}
	return m, trained, nil
}
