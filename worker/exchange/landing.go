package exchange

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"colonnade/cudakern"
	"colonnade/proto/exchangepb"
)

// landing is memory of the receiver's device into which the sender's device copies messages: as many slots as a ring
// has. Between two workers it stands behind the link's ring, and a chunk in the ring's slot i may say that its payload
// is in slot i here.
type landing struct {
	dev       cudakern.Lander // of this end
	mem       cudakern.Landing
	slotBytes int

	// Of the receiving end of a link between workers.
	lock *os.File // the ring's, once it is unlinked: the sender has it locked for as long as it may write
	from Cell
	peer string // the sender's worker
}

// landingAlign is what slots begin at: good for any copy.
const landingAlign = 512

// Reasons for which there is no landing.
const (
	whyNoDevice   = "a device has no way to memory of another"
	whyOtherMaps  = "no maps cross between replicas"
	whyAskedOther = "another carrier was asked for"
	whyOldPeer    = "the peer's device or version does not know landings"
	whyUnsized    = "the largest message is not known"
)

// lander is the device of a local cell, if it can send to or receive from a cell straight.
func (g *Group) lander(local, other Cell) (dev cudakern.Lander, why string) {
	dev, ok := g.Devices[local].(cudakern.Lander)
	switch {
	case g.Carrier == CarrierGRPC || g.Carrier == CarrierSHM:
		return nil, whyAskedOther
	case local.Replica != other.Replica: // gradients are cut and added on the host
		return nil, whyOtherMaps
	case !ok:
		return nil, whyNoDevice
	case g.Largest == 0:
		return nil, whyUnsized
	}
	return dev, ""
}

// mustLand says whether a link has to have a landing.
func (g *Group) mustLand(a, b Cell) bool { return g.Carrier == CarrierPeer && a.Replica == b.Replica }

// noPeer says that landings were asked for and why there is none.
func noPeer(c Cell, worker, why string) error {
	return fmt.Errorf("no copies from device to device with cell %s on worker %s: %s; use --carrier auto on all "+
		"workers: %w", c, worker, why, ErrCarrier)
}

// newLanding makes a landing for messages of up to `largest` bytes.
func newLanding(dev cudakern.Lander, largest uint64) (*landing, error) {
	l := &landing{dev: dev, slotBytes: int(LandingBytes(largest) / ringSlots)}
	var err error
	l.mem, err = dev.NewLanding(ringSlots * l.slotBytes)
	return l, err
}

// LandingBytes is how much memory of its device a cell needs for every cell whose device sends to it straight, when the
// largest message has so many bytes.
func LandingBytes(largest uint64) int64 {
	return ringSlots * int64((largest+landingAlign-1)/landingAlign*landingAlign)
}

// put copies a buffer into a slot and waits until it is there.
func (l *landing) put(slot int, st cudakern.Stream, src cudakern.Buffer) error {
	if err := l.dev.Put(st, l.mem, slot*l.slotBytes, src); err != nil {
		return err
	}
	return st.Sync()
}

// take copies a slot into a buffer and waits until it may be written again.
func (l *landing) take(slot int, st cudakern.Stream, dst cudakern.Buffer) error {
	if err := l.dev.Take(st, dst, l.mem, slot*l.slotBytes); err != nil {
		return err
	}
	return st.Sync()
}

// wantsLanding fills in what a hello says about device memory.
func (o *outLink) wantsLanding(h *exchangepb.Hello) {
	dev, _ := o.m.group.lander(o.from, o.to)
	h.Device = dev != nil && h.Host != ""
}

// offerLanding makes a landing for a link that gets a ring, or says why not.
func (mem *Membership) offerLanding(in *inbox, hello *exchangepb.Hello) (l *landing, handle []byte, why string) {
	dev, why := mem.group.lander(in.link.to, in.from)
	switch {
	case dev == nil:
		return nil, nil, why
	case !hello.Device:
		return nil, nil, whyOldPeer
	}
	l, err := newLanding(dev, max(mem.group.Largest, hello.Largest))
	if err != nil {
		return nil, nil, err.Error()
	}
	if handle, err = l.mem.Handle(); err != nil {
		mem.mesh.closed(l)
		return nil, nil, err.Error()
	}
	l.from, l.peer = in.from, in.worker
	return l, handle, ""
}

// attach reaches the landing that a peer's answer offers, or says why there is none.
func (o *outLink) attach(hello *exchangepb.Hello) (l *landing, why string) {
	dev, why := o.m.group.lander(o.from, o.to)
	switch at := hello.Landing; {
	case dev == nil:
		return nil, why
	case at == nil:
		return nil, cmp.Or(hello.NoLanding, whyOldPeer)
	case at.SlotBytes == 0 || at.SlotBytes%landingAlign != 0 || at.SlotBytes > maxMessage:
		return nil, fmt.Sprintf("slots of %d bytes are none", at.SlotBytes)
	default:
		l = &landing{dev: dev, slotBytes: int(at.SlotBytes)}
		var err error
		if l.mem, err = dev.Attach(at.Handle); err != nil {
			return nil, err.Error()
		}
		if l.mem.Bytes() != ringSlots*l.slotBytes {
			o.m.mesh.closed(l)
			return nil, fmt.Sprintf("a landing of %d bytes has no %d slots of %d", l.mem.Bytes(), ringSlots, l.slotBytes)
		}
		return l, ""
	}
}

// ringReply is what a sender says to an offer: to one of a ring alone in plain words, as older versions do.
func ringReply(hello *exchangepb.Hello, noRing, noLanding string) ([]byte, error) {
	most := func(s string) string { return s[:min(len(s), 4096)] }
	if hello.Landing == nil {
		return []byte(most(noRing)), nil
	}
	return proto.Marshal(&exchangepb.RingReply{NoRing: most(noRing), NoLanding: most(noLanding)})
}

// readReply reads it at the end that offered.
func readReply(answer *exchangepb.Hello, reply []byte) (noRing, noLanding string) {
	if answer.Landing == nil {
		return string(reply), ""
	}
	var r exchangepb.RingReply
	if err := proto.Unmarshal(reply, &r); err != nil {
		return "its reply cannot be read: " + err.Error(), ""
	}
	return r.NoRing, r.NoLanding
}

// closed closes a landing that nobody else reaches, or an attached one.
func (m *Mesh) closed(l *landing) {
	if err := l.mem.Close(); err != nil {
		m.cfg.Log.Warn("give memory for copies from device to device back", "err", err)
	}
}

// keepEvery is how often a landing is looked at that its sender may still write to.
const keepEvery = 10 * time.Millisecond

// retire gives a landing back once its sender can write to it no more: it has let go of the lock, or is dead. A sender
// that sleeps may hold it for long; it must find what it wrote to, not memory of a newer generation.
func (m *Mesh) retire(l *landing) {
	if l.lock == nil || letGo(l.lock) {
		m.retired(l)
		return
	}
	m.keeping.Go(func() {
		tick := time.NewTicker(keepEvery)
		defer tick.Stop()
		said := time.Now().Add(m.cfg.Silence)
		for {
			select {
			case <-tick.C:
			case <-m.closing: // the process ends, and its memory with it
				l.lock.Close()
				return
			}
			if letGo(l.lock) {
				m.retired(l)
				return
			}
			if !said.IsZero() && time.Now().After(said) {
				m.cfg.Log.Warn("memory of the device is kept until a peer that does not go on has ended", "bytes", l.mem.Bytes(),
					"cell", l.from, "worker", l.peer)
				said = time.Time{}
			}
		}
	})
}

func (m *Mesh) retired(l *landing) {
	m.closed(l)
	if l.lock != nil {
		l.lock.Close()
	}
}

// hold locks a ring's file for as long as this end may write to what stands behind it. Locks are the open file's, so
// the kernel lets go when this process dies, whatever its id means elsewhere.
func hold(f *os.File) error {
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, wholeFile())
	if err != nil {
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return nil
}

// letGo says whether the other end has no lock on a ring's file, which is unlinked: it can get none any more then.
func letGo(f *os.File) bool {
	err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, wholeFile())
	return err == nil || !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES)
}

func wholeFile() *unix.Flock_t { return &unix.Flock_t{Type: unix.F_WRLCK} }
