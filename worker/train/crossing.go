package train

import (
	"fmt"

	"colonnade/cudakern"
	"colonnade/shard"
	"colonnade/worker/exchange"
)

// Exchange ids within a step. Forward and backward crossings of plan exchange e are 2e and 2e+1; segment i of the
// gradients has reduceTag+2i for parts and the next one for sums; evaluation passes add evalTag and the batch, so that
// no two messages of one step share an id.
const (
	guardTag  = 1 << 16      // first over the column's replicas, then, plus 1, over the replica's columns
	knownTag  = guardTag + 2 // likewise
	scoreTag  = guardTag + 4
	reduceTag = 1 << 17
	evalTag   = 1 << 31
	evalShift = 8
)

// wire is a buffer's way to and from the carriers: its own bytes where the host can address them, else a host buffer
// the device copies to and from.
type wire struct {
	b    *builder
	st   cudakern.Stream // that the buffer is used on
	buf  cudakern.Buffer
	host []byte
	own  bool // host is the buffer's own memory
}

func (b *builder) newWire(st cudakern.Stream, buf cudakern.Buffer) (*wire, error) {
	if m, ok := buf.(cudakern.HostMapped); ok && !b.staged {
		return &wire{b: b, st: st, buf: buf, host: m.Mapped(), own: true}, nil
	}
	h, err := b.dev.AllocHost(buf.Bytes())
	if err != nil {
		return nil, err
	}
	b.hosts = append(b.hosts, h)
	return &wire{b: b, st: st, buf: buf, host: h.Bytes()}, nil
}

// peer is another column of the same replica.
func (b *builder) peer(column int) exchange.Cell {
	return exchange.Cell{Replica: b.cell.Replica, Column: column}
}

// out brings what the stream leaves in the buffer to the host.
func (w *wire) out() error {
	if !w.own {
		if err := w.b.dev.CopyOut(w.st, w.host, w.buf); err != nil {
			return err
		}
	}
	return w.st.Sync()
}

// in has the stream bring what the host holds into the buffer.
func (w *wire) in() error {
	if w.own {
		return nil
	}
	return w.b.dev.CopyIn(w.st, w.buf, w.host)
}

func (w *wire) send(p *pass, to exchange.Cell, id uint32) error {
	if err := w.out(); err != nil {
		return err
	}
	return w.b.ex.Send(p.ctx, to, exchange.Tag{Step: p.step, Exchange: p.tag + id}, w.host)
}

func (w *wire) recv(p *pass, from exchange.Cell, id uint32) error {
	if err := w.st.Sync(); err != nil { // nobody may still be reading what is about to be overwritten
		return err
	}
	if err := w.b.ex.Recv(p.ctx, from, exchange.Tag{Step: p.step, Exchange: p.tag + id}, w.host); err != nil {
		return err
	}
	return w.in()
}

// crossing is one column's part in the exchange before a layer. Maps travel in the layout they are computed in; both
// ends have it, since all cells of a job run under one numerics id.
type crossing struct {
	b       *builder
	ex      *shard.Exchange // nil: nothing crosses
	before  string
	cur     *value
	own     bool           // this column has a part in the layer
	to      []int          // columns that get our maps, in cyclic order behind this one
	from    []int          // columns whose maps we get, likewise
	remote  map[int]*value // their maps, and our part of their gradients
	partial *value         // buf: what another column found for our maps' gradient
	add     cudakern.Add
}

// newCrossing finds what this column sends and receives before a layer, and makes the buffers.
func (b *builder) newCrossing(lp *shard.LayerPlan, cur *value) (*crossing, error) {
	x := &crossing{b: b, cur: cur, before: lp.Layer.Name, remote: map[int]*value{},
		own: lp.Columns[b.column].Own.Count > 0}
	if lp.Exchange < 0 {
		return x, nil
	}
	x.ex = &b.plan.Exchanges[lp.Exchange]
	for i := 1; i < b.plan.Columns; i++ {
		other := (b.column + i) % b.plan.Columns
		for _, m := range x.ex.Moves {
			if m.From == b.column && m.To == other {
				x.to = append(x.to, other)
			}
			if m.To != b.column || m.From != other {
				continue
			}
			x.from = append(x.from, other)
			shape := cur.buf.Shape()
			if x.ex.Logits { // classes may divide unevenly
				shape = cudakern.Shape{b.batch, m.Shape.C}
			}
			v, err := b.newValue(shape, cur.buf.Layout())
			if err != nil {
				return nil, err
			}
			x.remote[other] = v
		}
	}
	if len(x.to) == 0 || x.ex.Logits {
		return x, nil
	}
	buf, err := b.alloc(cur.buf.Shape(), cur.buf.Layout())
	if err != nil {
		return nil, err
	}
	x.partial = &value{buf: buf}
	x.add, err = b.dev.NewAdd(cudakern.AddDesc{Shape: cur.buf.Shape(), Layout: cur.buf.Layout()})
	if err != nil {
		return nil, err
	}
	b.closers = append(b.closers, x.add.Close)
	return x, nil
}

func (x *crossing) forwardID() uint32  { return uint32(2 * x.ex.ID) }
func (x *crossing) backwardID() uint32 { return uint32(2*x.ex.ID + 1) }

// send appends the phase that hands our maps to the columns that need them.
func (x *crossing) send() error {
	if len(x.to) == 0 {
		return nil
	}
	w, err := x.b.newWire(x.b.st, x.cur.buf)
	if err != nil {
		return err
	}
	x.b.fwd(same(x.before+" send"), func(p *pass) error {
		for _, to := range x.to {
			if err := w.send(p, x.b.peer(to), x.forwardID()); err != nil {
				return err
			}
		}
		return nil
	}).as(Other)
	return nil
}

// wait appends the phase that waits for a column's maps.
func (x *crossing) wait(from int) error {
	w, err := x.b.newWire(x.b.st, x.remote[from].buf)
	if err != nil {
		return err
	}
	name := label{fmt.Sprintf("%s wait for column %d", x.before, from), x.before + " wait for maps"}
	x.b.fwd(name, func(p *pass) error { return w.recv(p, x.b.peer(from), x.forwardID()) }).as(Wait)
	return nil
}

// sendGradient appends the phase that hands a column our part of its maps' gradient.
func (x *crossing) sendGradient(to int) error {
	w, err := x.b.newWire(x.b.st, x.remote[to].grad)
	if err != nil {
		return err
	}
	x.b.back(same(x.before+" send gradient"), func(p *pass) error {
		return w.send(p, x.b.peer(to), x.backwardID())
	}).as(Other)
	return nil
}

// collect appends the phases that add the other columns' parts to our maps' gradient, in cyclic order behind our own.
// A column with no block of its own starts from the first part.
func (x *crossing) collect() error {
	if len(x.to) == 0 || x.ex.Logits {
		return nil
	}
	w, err := x.b.newWire(x.b.st, x.partial.buf)
	if err != nil {
		return err
	}
	for i, from := range x.to {
		name := label{fmt.Sprintf("%s wait for gradient of column %d", x.before, from), x.before + " wait for gradients"}
		x.b.back(name, func(p *pass) error { return w.recv(p, x.b.peer(from), x.backwardID()) }).as(Wait)
		first := i == 0 && !x.own
		x.b.back(same(x.before+" add gradient"), func(*pass) error {
			if first {
				return x.b.dev.Copy(x.b.st, x.cur.grad, x.partial.buf)
			}
			return x.add.Run(x.b.st, x.cur.grad, x.partial.buf)
		})
	}
	return nil
}
