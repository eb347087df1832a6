package train

import (
	"context"
	"sync"
)

// copier has copies of the cell's state brought to safety while training goes on. All cells begin copies of the same
// steps: each says in every verdict how far its copies are, and so all know alike whether the last ones are over, and
// of which step every cell has a whole one. So two copies of each cell are enough: one that all have, and the next.
type copier struct {
	every uint64 // steps; 0: no copies
	soon  bool   // the first copy is due with the first step
	begun uint64 // step of the newest copy, the same in all cells; of the cell's goroutine alone
	copy  func(ctx context.Context, step, keep uint64) (whole bool, err error)
	todo  chan copyJob
	c     *Cell

	mu sync.Mutex
	at progress
}

type copyJob struct{ step, keep uint64 }

// progress is how far a cell's copies are, or those of several cells: of the one that is furthest behind.
type progress struct {
	tried uint64 // step of the newest copy that is over, whatever came of it
	whole uint64 // step of the newest whole copy since; 0: none in this generation
}

func (p *progress) behind(o progress) {
	p.tried, p.whole = min(p.tried, o.tried), min(p.whole, o.whole)
}

func newCopier(c *Cell, cfg Config) *copier {
	k := &copier{c: c, copy: cfg.Copy, todo: make(chan copyJob, 1)}
	if k.copy != nil {
		k.every = cfg.Job.CopyEvery()
	}
	return k
}

func (k *copier) progress() progress {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.at
}

// due begins a copy after a step, if one is due and all cells are done with the one before. What all cells know decides
// it, so all begin the same one.
func (k *copier) due(step uint64, all progress) error {
	if k.every == 0 || all.tried < k.begun || (step%k.every != 0 && !(k.soon && k.begun == 0)) {
		return nil
	}
	if k.c.mirror != nil {
		if err := k.c.mirror.write(step); err != nil {
			return err
		}
	}
	k.begun = step
	k.mu.Lock()
	// What not all cells have is given up with the next copy.
	k.at.whole = all.whole
	k.mu.Unlock()
	k.todo <- copyJob{step, all.whole} // does not wait: the one before is over
	return nil
}

// run makes copies until ctx ends.
func (k *copier) run(ctx context.Context) {
	for {
		select {
		case job := <-k.todo:
			whole, err := k.copy(ctx, job.step, job.keep)
			if err != nil && ctx.Err() == nil {
				k.c.log.Warn("no copy of the state on another host", "cell", k.c.id, "step", job.step, "err", err)
			}
			k.mu.Lock()
			k.at.tried = job.step
			if whole {
				k.at.whole = job.step
			}
			k.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}
