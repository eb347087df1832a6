package train

import (
	"context"
	"fmt"
	"slices"

	"colonnade/cudakern"
	"colonnade/worker/exchange"
)

// reducer sums gradients over the replicas of the cell's column. It has a goroutine and a stream of its own: a layer's
// gradients travel while the backward pass goes on to earlier layers. It speaks to other replicas of the column, the
// backward pass to other columns of the replica, so no link is shared between the two.
//
// A layer's gradients are taken as they lie on the device (all cells of a column have the same layouts) and cut in
// segments, those in one part for each replica. Part r of every segment is sent to replica r, which adds all of them in
// replica order, its own in its place, and sends the sum to the others. So whoever adds, however messages arrive, the
// sum is ((g0 + g1) + g2) + ..., and the bits depend on the number of replicas alone.
type reducer struct {
	b     *builder
	st    cudakern.Stream
	cells []exchange.Cell // of the column, by replica
	own   int             // this replica
	unit  int             // bytes of a number in device memory
	most  int             // bytes of a segment at most, and of a parameter
	small int             // that travels with others

	layers   []*reduction
	segments int            // of all layers
	adders   map[int]*adder // by numbers of a part
	scratch  []byte

	pending int         // layers posted in this step: all but those that are frozen, of which every replica knows
	posted  chan posted // to the goroutine: a layer's gradients are computed, or being computed on the builder's stream
	ended   chan error  // from it: a layer's sum is done, in the order they were posted
}

// posted is a layer whose gradients can be summed.
type posted struct {
	p     *pass
	layer *reduction
	ready cudakern.Event
}

// reduction is what there is to sum of one layer.
type reduction struct {
	name     string
	grads    []*wire
	segments []segment
}

// segment is a stretch of a layer's gradients: one piece of a parameter's, or the whole of several small ones.
type segment struct {
	pieces [][]byte
	bytes  int
	id     uint32
}

// adder sums parts of one length. Device memory is Plain: adding does not ask what lies where.
type adder struct {
	op        cudakern.Add
	sum, part *wire
}

// Sizes that segments are made by. A message has one part, so it fits one frame of the exchange, and a replica is never
// more than two messages ahead of another.
const (
	partBytes  = exchange.ChunkBytes
	smallBytes = 64 << 10 // parameters below travel together
)

// newReducer makes the reducer of a cell among the replicas of its column.
func (b *builder) newReducer(replicas []exchange.Cell, part, small int) (*reducer, error) {
	st, err := b.dev.NewStream()
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, func() { st.Close() })
	r := &reducer{b: b, st: st, cells: replicas, own: b.cell.Replica, small: small, adders: map[int]*adder{}}
	const probe = 64
	buf, err := b.dev.Alloc(cudakern.Shape{probe}, cudakern.Plain)
	if err != nil {
		return nil, err
	}
	r.unit = buf.Bytes() / probe
	r.most = max(part/r.unit, 1) * r.unit * len(replicas)
	buf.Free()
	return r, nil
}

// reduce appends the phase that hands a layer's gradients over to be summed.
func (b *builder) reduce(name string, params []*param) error {
	r := b.reducer
	if r == nil {
		return nil
	}
	l := &reduction{name: name}
	small := segment{}
	for _, q := range params {
		w, err := b.newWire(r.st, q.grad)
		if err != nil {
			return err
		}
		l.grads = append(l.grads, w)
		if len(w.host) < r.small {
			small.pieces = append(small.pieces, w.host)
			small.bytes += len(w.host)
			continue
		}
		for at := 0; at < len(w.host); at += r.most {
			piece := w.host[at:min(at+r.most, len(w.host))]
			l.segments = append(l.segments, segment{pieces: [][]byte{piece}, bytes: len(piece)})
		}
	}
	if small.bytes > 0 {
		l.segments = append(l.segments, small)
	}
	for i := range l.segments {
		s := &l.segments[i]
		s.id = reduceTag + uint32(2*r.segments)
		r.segments++
		if err := r.prepare(s); err != nil {
			return err
		}
	}
	r.layers = append(r.layers, l)
	b.back(same(name+" gradients to replicas"), func(p *pass) error {
		if !slices.ContainsFunc(params, func(q *param) bool { return !b.isFrozen(p.step, q) }) {
			return nil // nobody has computed them, and nobody waits for them
		}
		ready, err := b.st.Record()
		if err != nil {
			return err
		}
		r.posted <- posted{p, l, ready} // it has room for all layers
		r.pending++
		return nil
	}).as(Other)
	return nil
}

// prepare makes what a segment's sum needs.
func (r *reducer) prepare(s *segment) error {
	if len(s.pieces) > 1 && s.bytes > len(r.scratch) {
		r.scratch = make([]byte, s.bytes)
	}
	lo, hi := r.part(s, r.own)
	n := (hi - lo) / r.unit
	if n == 0 || r.adders[n] != nil {
		return nil
	}
	op, err := r.b.dev.NewAdd(cudakern.AddDesc{Shape: cudakern.Shape{n}, Layout: cudakern.Plain})
	if err != nil {
		return err
	}
	r.b.closers = append(r.b.closers, op.Close)
	a := &adder{op: op}
	for _, w := range []**wire{&a.sum, &a.part} {
		buf, err := r.b.alloc(cudakern.Shape{n}, cudakern.Plain)
		if err != nil {
			return err
		}
		if *w, err = r.b.newWire(r.st, buf); err != nil {
			return err
		}
	}
	r.adders[n] = a
	return nil
}

// part is where a replica's part of a segment begins and ends.
func (r *reducer) part(s *segment, replica int) (lo, hi int) {
	n, parts := s.bytes/r.unit, len(r.cells)
	return n * replica / parts * r.unit, n * (replica + 1) / parts * r.unit
}

// start begins a run of the cell: run must be called then, in a goroutine that ends with ctx.
func (r *reducer) start() {
	r.posted = make(chan posted, len(r.layers))
	r.ended = make(chan error, len(r.layers))
	r.pending = 0
}

// run sums what is posted until ctx ends. After an error nothing more is summed.
func (r *reducer) run(ctx context.Context) {
	var failed error
	for {
		select {
		case job := <-r.posted:
			if failed == nil {
				failed = r.sum(job)
			}
			r.ended <- failed // it has room for all layers of a step
		case <-ctx.Done():
			return
		}
	}
}

// wait is the phase that waits until the gradients of all layers that were posted are summed.
func (r *reducer) wait(p *pass) error {
	for ; r.pending > 0; r.pending-- {
		select {
		case err := <-r.ended:
			if err != nil {
				return err
			}
		case <-p.ctx.Done():
			return context.Cause(p.ctx)
		}
	}
	return nil
}

// sum replaces a layer's gradients by the sums over all replicas.
func (r *reducer) sum(job posted) error {
	l := job.layer
	if err := r.st.Wait(job.ready); err != nil {
		return fmt.Errorf("%s: %w", l.name, err)
	}
	for _, w := range l.grads {
		if err := w.out(); err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
	}
	for i := range l.segments {
		if err := r.segment(job.p, &l.segments[i]); err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
	}
	for _, w := range l.grads {
		if err := w.in(); err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
	}
	return r.st.Sync()
}

// segment sums one segment: every replica its part, in replica order.
func (r *reducer) segment(p *pass, s *segment) error {
	for i := 1; i < len(r.cells); i++ {
		to := (r.own + i) % len(r.cells)
		if lo, hi := r.part(s, to); lo < hi {
			if err := r.b.ex.Send(p.ctx, r.cells[to], r.tag(p, s.id), s.read(r.scratch, lo, hi)); err != nil {
				return err
			}
		}
	}
	lo, hi := r.part(s, r.own)
	if lo < hi {
		a := r.adders[(hi-lo)/r.unit]
		if err := r.add(p, a, s, lo, hi); err != nil {
			return err
		}
		for i := 1; i < len(r.cells); i++ {
			to := (r.own + i) % len(r.cells)
			if err := r.b.ex.Send(p.ctx, r.cells[to], r.tag(p, s.id+1), a.sum.host); err != nil {
				return err
			}
		}
	}
	for i := 1; i < len(r.cells); i++ {
		from := (r.own + i) % len(r.cells)
		lo, hi := r.part(s, from)
		if lo == hi {
			continue
		}
		into := s.place(r.scratch, lo, hi)
		if err := r.b.ex.Recv(p.ctx, r.cells[from], r.tag(p, s.id+1), into); err != nil {
			return err
		}
		if len(s.pieces) > 1 {
			s.write(lo, into)
		}
	}
	return nil
}

// add sums this replica's part into the segment, and leaves the sum with the adder too.
func (r *reducer) add(p *pass, a *adder, s *segment, lo, hi int) error {
	for i, cell := range r.cells {
		w := a.part
		if i == 0 {
			w = a.sum
		}
		if i == r.own {
			if err := r.st.Sync(); err != nil { // nobody may still be reading what is about to be overwritten
				return err
			}
			copy(w.host, s.read(r.scratch, lo, hi))
			if err := w.in(); err != nil {
				return err
			}
		} else if err := w.recv(p, cell, s.id); err != nil {
			return err
		}
		if i > 0 {
			if err := a.op.Run(r.st, a.sum.buf, a.part.buf); err != nil {
				return err
			}
		}
	}
	if err := a.sum.out(); err != nil {
		return err
	}
	s.write(lo, a.sum.host)
	return nil
}

func (r *reducer) tag(p *pass, id uint32) exchange.Tag {
	return exchange.Tag{Step: p.step, Exchange: p.tag + id}
}

// read gives bytes lo to hi of a segment: its own memory where they are in one piece, else a copy in scratch.
func (s *segment) read(scratch []byte, lo, hi int) []byte {
	if len(s.pieces) == 1 {
		return s.pieces[0][lo:hi]
	}
	s.each(lo, hi, func(at int, piece []byte) { copy(scratch[at:], piece) })
	return scratch[:hi-lo]
}

// place gives room for bytes lo to hi of a segment: where they belong, or scratch, from which write brings them there.
func (s *segment) place(scratch []byte, lo, hi int) []byte {
	if len(s.pieces) == 1 {
		return s.pieces[0][lo:hi]
	}
	return scratch[:hi-lo]
}

// write puts bytes into a segment from lo on.
func (s *segment) write(lo int, from []byte) {
	s.each(lo, lo+len(from), func(at int, piece []byte) { copy(piece, from[at:]) })
}

// each calls f with the pieces of bytes lo to hi, and where they are among those.
func (s *segment) each(lo, hi int, f func(at int, piece []byte)) {
	first := 0
	for _, piece := range s.pieces {
		from, to := max(lo-first, 0), min(hi-first, len(piece))
		if from < to {
			f(first+from-lo, piece[from:to])
		}
		first += len(piece)
	}
}
