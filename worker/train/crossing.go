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
	settleTag = guardTag + 6
	reduceTag = 1 << 17
	evalTag   = 1 << 31
	evalShift = 8

	settledTag = guardTag + 8 // as guardTag
)

// wire is a buffer's way to and from the carriers: its own bytes where the host can address them, else a host buffer
// that the device copies to and from. Where the copies have streams of their own, the stream that computes goes on
// meanwhile.
type wire struct {
	b        *builder
	st       cudakern.Stream // that the buffer is used on
	up, down cudakern.Stream // that it is copied on; st itself where there are none for it
	buf      cudakern.Buffer
	host     []byte
	own      bool           // host is the buffer's own memory
	read     cudakern.Event // on st: the last use of what came in before; nil: it was before the pass began
}

// openStreams makes the streams that copy. They are closed last, behind what uses them.
func (b *builder) openStreams() (err error) {
	for _, st := range []*cudakern.Stream{&b.up, &b.down} {
		made, err := b.dev.NewStream()
		if err != nil {
			return err
		}
		*st = made
		b.closers = append(b.closers, func() { _ = made.Close() })
	}
	return nil
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
	w := &wire{b: b, st: st, up: st, down: st, buf: buf, host: h.Bytes()}
	if st == b.st { // others belong to other goroutines
		w.up, w.down = b.up, b.down
	}
	return w, nil
}

// peer is another column of the same replica.
func (b *builder) peer(column int) exchange.Cell {
	return exchange.Cell{Replica: b.cell.Replica, Column: column}
}

// out brings what the stream leaves in the buffer to the host.
func (w *wire) out() error {
	if w.own {
		return w.st.Sync()
	}
	if err := follow(w.down, w.st); err != nil {
		return err
	}
	if err := w.b.dev.CopyOut(w.down, w.host, w.buf); err != nil {
		return err
	}
	return w.down.Sync()
}

// free has what is copied into the buffer from now on wait for what uses it.
func (w *wire) free() error {
	if w.up == w.st {
		return nil
	}
	read := w.read
	if read == nil {
		read = w.b.begun
	}
	return w.up.Wait(read)
}

// in has the stream find in the buffer what the host holds.
func (w *wire) in() error {
	if w.own {
		return nil
	}
	if err := w.free(); err != nil {
		return err
	}
	if err := w.b.dev.CopyIn(w.up, w.buf, w.host); err != nil {
		return err
	}
	return follow(w.st, w.up)
}

// follow has what is enqueued on a stream from now on wait for what another one has been given.
func follow(st, other cudakern.Stream) error {
	if st == other {
		return nil
	}
	e, err := other.Record()
	if err != nil {
		return err
	}
	return st.Wait(e)
}

// used says that what came in has been used by what is enqueued now, and may be overwritten behind that.
func (w *wire) used() (err error) {
	w.read, err = w.st.Record()
	return err
}

// send hands what the stream leaves in the buffer to other columns: from device to device where there is a way, else
// through the host, to which it is brought at most once.
func (w *wire) send(p *pass, id uint32, columns ...int) error {
	direct, ok := w.b.ex.(exchange.BufferExchanger)
	ok = ok && !w.own && !w.b.staged
	if ok {
		if err := follow(w.down, w.st); err != nil {
			return err
		}
	}
	tag, brought := exchange.Tag{Step: p.step, Exchange: p.tag + id}, false
	for _, column := range columns {
		to := w.b.peer(column)
		if ok {
			if sent, err := direct.SendBuffer(p.ctx, to, tag, w.down, w.buf); err != nil {
				return err
			} else if sent {
				continue
			}
		}
		if !brought {
			brought = true
			if err := w.out(); err != nil {
				return err
			}
		}
		if err := w.b.ex.Send(p.ctx, to, tag, w.host); err != nil {
			return err
		}
	}
	return nil
}

func (w *wire) recv(p *pass, from exchange.Cell, id uint32) error {
	busy := w.st // nobody may still be reading what is about to be overwritten: here the buffer itself,
	if !w.own {
		busy = w.up // and here the host's memory
	}
	if err := busy.Sync(); err != nil {
		return err
	}
	tag := exchange.Tag{Step: p.step, Exchange: p.tag + id}
	if direct, ok := w.b.ex.(exchange.BufferExchanger); ok && !w.own {
		if err := w.free(); err != nil {
			return err
		}
		if landed, err := direct.RecvBuffer(p.ctx, from, tag, w.up, w.buf, w.host); err != nil {
			return err
		} else if landed {
			return follow(w.st, w.up)
		}
		return w.in()
	}
	if err := w.b.ex.Recv(p.ctx, from, tag, w.host); err != nil {
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
	x.b.fwd(same(x.before+" send"), func(p *pass) error { return w.send(p, x.forwardID(), x.to...) }).as(Other)
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
		return w.send(p, x.backwardID(), to)
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
			var err error
			if first {
				err = x.b.dev.Copy(x.b.st, x.cur.grad, x.partial.buf)
			} else {
				err = x.add.Run(x.b.st, x.cur.grad, x.partial.buf)
			}
			if err != nil {
				return err
			}
			return w.used()
		})
	}
	return nil
}
