package history

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"colonnade/coordinator/fsm"
	"colonnade/proto/clusterpb"
)

// DefaultPoints is how many points a series is told in if the caller does not say.
const DefaultPoints = 500

// Series returns what was observed of a job, or of one of its cells, between two steps: in the most detail that is at
// most `points` points and reaches back as far as is known. to 0 is the newest step; points 0 is DefaultPoints. A point
// at an end may stand for some steps beyond it. A job of which nothing is known has no points.
func (s *Store) Series(job string, cell *clusterpb.Cell, from, to uint64, points int) (*clusterpb.HistorySeries,
	error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of := seriesOf(cell)
	out := &clusterpb.HistorySeries{Cell: of.cell(), Width: 1}
	h := s.jobs[job]
	if s.off != nil || h == nil {
		return out, s.off
	}
	if points <= 0 {
		points = DefaultPoints
	}
	if newest := h.newest[of]; to == 0 || to > newest {
		to = newest
	}
	var coarser []*point
	for level := levels - 1; level >= 0 && from <= to; level-- {
		now, err := s.scan(job, h, of, level, from/width(level), to/width(level))
		if err != nil {
			return nil, err
		}
		if coarser != nil && (len(now) > points || !reaches(now, coarser, width(level+1))) {
			break
		}
		coarser, out.Points, out.Width = now, now, width(level)
	}
	return out, nil
}

// reaches says whether a level's points go back as far as those of the next coarser one, of the given width.
func reaches(fine, coarse []*point, wide uint64) bool {
	if len(coarse) == 0 || len(fine) == 0 {
		return len(coarse) == len(fine)
	}
	return fine[0].FirstStep/wide <= coarse[0].FirstStep/wide
}

// Cells returns the cells of a job that have series, in order of replica and column.
func (s *Store) Cells(job string) ([]*clusterpb.Cell, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*clusterpb.Cell
	if h := s.jobs[job]; h != nil {
		for _, of := range h.cells() {
			out = append(out, of.cell())
		}
	}
	return out, s.off
}

// cells are the series of single cells, in order.
func (h *history) cells() []series {
	return slices.SortedFunc(func(yield func(series) bool) {
		for of := range maps.Keys(h.newest) {
			if of != whole && !yield(of) {
				return
			}
		}
	}, func(a, b series) int {
		return cmp.Or(cmp.Compare(a.replica, b.replica), cmp.Compare(a.column, b.column))
	})
}

// Newest returns the generation that a job's history is of, and the newest step that it knows of.
func (s *Store) Newest(job string) (generation, step uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h := s.jobs[job]; h != nil {
		return h.generation, h.newest[whole]
	}
	return 0, 0
}

// History answers a request for a job's history, but for its evaluations.
func (s *Store) History(r *clusterpb.HistoryRequest) (*clusterpb.HistoryReply, error) {
	out := &clusterpb.HistoryReply{Job: r.Job}
	if r.Levels {
		return out, s.dump(out, r.FromStep)
	}
	cells := []*clusterpb.Cell{nil}
	if r.Cells {
		known, err := s.Cells(r.Job)
		if err != nil {
			return nil, err
		}
		cells = append(cells, known...)
	}
	for _, c := range cells {
		one, err := s.Series(r.Job, c, r.FromStep, r.ToStep, int(min(r.Points, keepJob)))
		if err != nil {
			return nil, err
		}
		out.Series = append(out.Series, one)
	}
	out.Generation, _ = s.Newest(r.Job)
	return out, nil
}

// dump adds all levels of all series of a job to a reply: the points with steps from one on.
func (s *Store) dump(out *clusterpb.HistoryReply, from uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.jobs[out.Job]
	if s.off != nil || h == nil {
		return s.off
	}
	out.Generation, out.SubmittedUnixNs = h.generation, h.submitted
	for _, of := range append([]series{whole}, h.cells()...) {
		for level := range levels {
			if h.newest[of] < from {
				continue
			}
			points, err := s.scan(out.Job, h, of, level, from/width(level), h.newest[of]/width(level))
			if err != nil {
				return err
			}
			out.Series = append(out.Series, &clusterpb.HistorySeries{Cell: of.cell(), Width: width(level), Points: points})
		}
	}
	return nil
}

// Merge takes in what another coordinator has of a job, as History with `levels` told it: of two points of the same
// steps the one with more observations, or of a newer generation, is kept, of the same observations the other's, whose
// means may be rounded otherwise. What is of another course than Begin said, or makes no sense, is refused.
func (s *Store) Merge(r *clusterpb.HistoryReply) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.jobs[r.Job]
	if s.off != nil || h == nil {
		return s.off
	}
	if h.line != (line{r.SubmittedUnixNs, r.Generation}) {
		return nil // one of the two is behind; it will be told again
	}
	for _, one := range r.Series {
		of, level := seriesOf(one.Cell), slices.IndexFunc(widths[:], func(w uint64) bool { return w == one.Width })
		if level < 0 || of != whole && (of.replica < 0 || of.column < 0) {
			return fmt.Errorf("%w: history of job %s: a series of width %d", fsm.ErrInvalid, r.Job, one.Width)
		}
		if _, known := h.newest[of]; !known && of != whole && len(h.newest) > mostCells {
			continue
		}
		for _, p := range one.Points {
			if !sane(p, level) {
				return fmt.Errorf("%w: history of job %s: a point of steps %d to %d, of width %d", fsm.ErrInvalid, r.Job,
					p.GetFirstStep(), p.GetLastStep(), one.Width)
			}
			if err := s.take(r.Job, h, of, level, p); err != nil {
				return err
			}
		}
	}
	return nil
}

// take is Merge of one point. s.mu is held.
func (s *Store) take(job string, h *history, of series, level int, p *point) error {
	k := keyOf(of, level, p.FirstStep/width(level))
	if k.index()+of.keep() <= h.newest[of]/width(level) {
		return nil
	}
	old, err := s.get(job, h, k)
	if err != nil {
		return err
	}
	if old == nil || p.Generation > old.Generation ||
		p.Generation == old.Generation && p.Observations >= old.Observations && !proto.Equal(p, old) {
		h.put(k, p)
	}
	return s.advance(job, h, of, p.LastStep)
}

// widths are those of the levels.
var widths = func() (w [levels]uint64) {
	for i := range w {
		w[i] = width(i)
	}
	return w
}()
