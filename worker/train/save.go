package train

import (
	"context"
	"fmt"
	"sync"
	"time"

	"colonnade/checkpoint"
)

// saver writes checkpoints while training goes on: the trainer waits for the copy into the one snapshot, and for an
// earlier save that has not ended yet; a goroutine of the cell's run does the rest.
type saver struct {
	c    *Cell
	root string
	meta checkpoint.Meta // but for the step
	snap *snapshot       // nil: there has been no memory for it yet
	free chan struct{}   // holds a token while snap may be written
	todo chan saveJob
	last error // of the newest save; read by whoever holds the token
	back *background
}

// saveJob is a snapshot on its way to disk.
type saveJob struct {
	started time.Time
	stall   time.Duration
}

func newSaver(c *Cell, cfg Config) *saver {
	s := &saver{c: c, root: cfg.Directory,
		meta: checkpoint.Meta{Job: cfg.Job.Name, Generation: cfg.Generation, Replica: cfg.Cell.Replica,
			Column: cfg.Cell.Column, PlanDigest: cfg.Plan.Digest(), Numerics: cfg.Device.Info().Numerics},
		free: make(chan struct{}, 1), todo: make(chan saveJob), back: newBackground()}
	s.free <- struct{}{}
	return s
}

// save copies the state after `step` finished steps and hands it to the writing goroutine.
func (s *saver) save(ctx context.Context, step uint64) error {
	s.c.enter("snapshot")
	began := s.c.now()
	if err := s.wait(ctx); err != nil {
		return err
	}
	if s.last = s.room(); s.last != nil {
		s.c.log.Warn("checkpoint was not written", "cell", s.c.id, "step", step, "err", s.last)
		s.c.report(SaveFailed{Cell: s.c.id, Step: step, Err: s.last})
		s.free <- struct{}{}
		return nil
	}
	if err := s.c.take(s.snap, step); err != nil {
		s.free <- struct{}{}
		return fmt.Errorf("snapshot of step %d: %w", step, err)
	}
	if err := s.c.soundCopy(s.snap.memory, s.snap.step); err != nil {
		s.free <- struct{}{}
		return err
	}
	now := s.c.now()
	select {
	case s.todo <- saveJob{started: now, stall: now.Sub(began)}:
		return nil
	case <-ctx.Done():
		s.free <- struct{}{}
		return context.Cause(ctx)
	}
}

// room makes the snapshot, if there is none yet. Whoever calls it holds the token, or the cell is not running.
func (s *saver) room() (err error) {
	if s.snap == nil {
		s.snap, err = s.c.newSnapshot()
	}
	return err
}

// close gives the snapshot's memory back.
func (s *saver) close() {
	if s.snap != nil {
		s.snap.free()
		s.snap = nil
	}
}

// wait waits for the end of an earlier save, which makes haste from then on, and takes the token.
func (s *saver) wait(ctx context.Context) error {
	s.back.hurry.Store(true)
	defer s.back.hurry.Store(false)
	select {
	case <-s.free:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run writes snapshots until ctx ends.
func (s *saver) run(ctx context.Context) {
	var back sync.WaitGroup
	defer back.Wait()
	back.Go(func() { s.back.run(ctx) })
	for {
		select {
		case job := <-s.todo:
			s.write(ctx, job)
			s.free <- struct{}{}
		case <-ctx.Done():
			return
		}
	}
}

// write makes the snapshot a durable file and reports what came of it.
func (s *saver) write(ctx context.Context, job saveJob) {
	meta := s.meta
	meta.Step, meta.Losses = s.snap.step, s.snap.losses
	info, err := checkpoint.Write(ctx, s.root, meta, s.snap.tensors,
		func(piece func()) { s.back.do(ctx, piece) })
	s.last = err
	if err != nil {
		if ctx.Err() != nil {
			return // the run is over: that is no fault of the disk's
		}
		s.c.log.Warn("checkpoint was not written", "cell", s.c.id, "step", meta.Step, "err", err)
		s.c.report(SaveFailed{Cell: s.c.id, Step: meta.Step, Err: err})
		return
	}
	s.c.report(Saved{Cell: s.c.id, Step: meta.Step, Info: info, PlanDigest: meta.PlanDigest,
		Took: s.c.now().Sub(job.started), Stall: job.stall})
}

// Pauses before the last save is tried again: doubled from the first to the longest.
const (
	firstRetry   = time.Second
	longestRetry = time.Minute
)

// drain waits for the last save: a job may not end, or stop, on a state that is not on disk. One that failed is tried
// again until it succeeds or the run is ended from outside: the work is done, only the disk is in the way.
func (s *saver) drain(ctx context.Context) error {
	s.c.enter("save")
	for pause := firstRetry; ; pause = min(2*pause, longestRetry) {
		if err := s.wait(ctx); err != nil {
			return err
		}
		if s.last == nil {
			s.free <- struct{}{}
			return nil
		}
		s.c.enter("wait to save again")
		again := time.NewTimer(pause)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return context.Cause(ctx)
		}
		s.c.enter("save")
		if s.snap == nil || s.snap.step != s.c.step { // there was no memory to copy it
			s.free <- struct{}{}
			if err := s.save(ctx, s.c.step); err != nil {
				return err
			}
			continue
		}
		select {
		case s.todo <- saveJob{started: s.c.now()}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Digest is the SHA-256 of the cell's state in canonical order: see checkpoint.Digest. The cell must not be running.
func (c *Cell) Digest() ([32]byte, error) {
	err := c.saver.room()
	if err == nil {
		err = c.take(c.saver.snap, c.step)
	}
	if err != nil {
		return [32]byte{}, fmt.Errorf("digest: %w", err)
	}
	return checkpoint.Digest(c.saver.snap.tensors), nil
}

// Restore loads the cell's state from a checkpoint file, which must be the one want describes.
func (c *Cell) Restore(ctx context.Context, path string, want checkpoint.Want) error {
	if err := c.saver.room(); err != nil {
		return fmt.Errorf("cell %s: %w", c.id, err)
	}
	byName := make(map[string]checkpoint.Tensor, len(c.saver.snap.tensors))
	for _, t := range c.saver.snap.tensors {
		byName[t.Name] = t
	}
	meta, err := checkpoint.Load(ctx, path, want, func(name string, shape []int) ([]float32, error) {
		t, ok := byName[name]
		if !ok {
			return nil, fmt.Errorf("tensor %s does not belong to cell %s: %w", name, c.id, checkpoint.ErrMismatch)
		}
		return t.Data, nil
	})
	if err != nil {
		return fmt.Errorf("cell %s: %w", c.id, err)
	}
	c.saver.snap.step, c.saver.snap.losses = meta.Step, append(c.saver.snap.losses[:0], meta.Losses...)
	return c.put(c.saver.snap)
}
