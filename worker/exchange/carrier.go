package exchange

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"colonnade/proto/exchangepb"
)

// Carrier says which carrier links use.
type Carrier string

// Carriers, the fastest first behind auto.
const (
	CarrierAuto  Carrier = "auto"  // the fastest that works for each pair of cells
	CarrierLocal Carrier = "local" // hand-over within a worker; cannot be forced, since it depends on the placement
	CarrierPeer  Carrier = "peer"  // from device to device on one host; forced: maps take no other way
	CarrierSHM   Carrier = "shm"   // shared memory between workers of one host; forced: even within a worker
	CarrierGRPC  Carrier = "grpc"  // gRPC; forced: even within a worker
)

// ErrCarrier means that the carrier that was asked for cannot be had between two workers.
var ErrCarrier = errors.New("carrier cannot be had")

// noSHM says that shared memory was asked for and why there is none.
func noSHM(c Cell, worker, why string) error {
	return fmt.Errorf("no shared memory with cell %s on worker %s: %s; use --carrier auto on all workers: %w", c, worker,
		why, ErrCarrier)
}

// Reasons for which there is no shared memory.
const (
	whyForced  = "its peer takes gRPC only"
	whyHost    = "the two run on different hosts"
	whyUnknown = "the peer's version does not know it"
)

// wantsRing fills in what a hello says about shared memory, of the host's and of devices'.
func (o *outLink) wantsRing(h *exchangepb.Hello) {
	defer o.wantsLanding(h)
	if o.m.group.Carrier != CarrierGRPC {
		h.Host, h.Largest = o.m.mesh.cfg.Host, o.m.group.Largest
	}
}

// offer makes a ring for a link that is welcome, and a landing behind it, or says why not.
func (m *Mesh) offer(mem *Membership, in *inbox, hello *exchangepb.Hello) (*ring, *exchangepb.Hello) {
	no := func(why string) (*ring, *exchangepb.Hello) {
		return nil, &exchangepb.Hello{NoRing: why, NoLanding: why}
	}
	switch {
	case mem.group.Carrier == CarrierGRPC || hello.Host == "":
		return no(whyForced)
	case hello.Host != m.cfg.Host:
		return no(whyHost)
	}
	land, handle, why := mem.offerLanding(in, hello)
	largest := hello.Largest
	if land != nil { // the ring has little to carry
		largest = min(largest, ChunkBytes)
	}
	r, nonce, err := makeRing(m.cfg.Rings, m.cfg.Worker, largest)
	if err != nil {
		if land != nil {
			m.closed(land)
		}
		return no(err.Error())
	}
	answer := &exchangepb.Hello{Ring: &exchangepb.Ring{Path: r.path, Nonce: nonce, SlotBytes: uint64(r.slotBytes)},
		NoLanding: why}
	if land != nil {
		r.land, r.over = land, m.retire
		answer.Landing = &exchangepb.Landing{Handle: handle, SlotBytes: uint64(land.slotBytes)}
	}
	return r, answer
}

// answer decides about the offer in a peer's answer. A ring that was offered must be replied to. whyRing and whyLanding
// say why the one or the other is not used.
func (o *outLink) answer(hello *exchangepb.Hello) (r *ring, whyRing, whyLanding string) {
	switch {
	case o.m.group.Carrier == CarrierGRPC:
		return nil, "gRPC was asked for", ""
	case hello.Ring == nil:
		return nil, cmp.Or(hello.NoRing, whyUnknown), ""
	}
	r, err := openRing(hello.Ring.Path, hello.Ring.Nonce, hello.Ring.SlotBytes)
	if err != nil {
		return nil, err.Error(), ""
	}
	if r.land, whyLanding = o.attach(hello); r.land != nil {
		r.over = o.m.mesh.closed
	}
	return r, "", whyLanding
}

// settle is the receiving end's part when the sender has replied to the offer: what was offered is used, or it is not.
func (m *Mesh) settle(mem *Membership, in *inbox, offered *ring, answer *exchangepb.Hello, reply []byte) error {
	noRing, noLanding := readReply(answer, reply)
	if noRing == "" && !offered.proven(answer.Ring.Nonce) {
		noRing = "the peer has mapped another file"
	}
	if noRing != "" {
		offered.close()
		switch {
		case mem.group.Carrier == CarrierSHM:
			return noSHM(in.from, in.worker, noRing)
		case mem.group.mustLand(in.from, in.link.to):
			return noPeer(in.from, in.worker, noRing)
		}
		m.linkUp(mem)
		return nil
	}
	if noLanding != "" && offered.land != nil { // the peer has none of it
		m.closed(offered.land)
		offered.land = nil
	}
	offered.unlink()
	if offered.land == nil && mem.group.mustLand(in.from, in.link.to) {
		offered.close()
		return noPeer(in.from, in.worker, cmp.Or(noLanding, answer.NoLanding))
	}
	in.ring = offered
	mem.use(offered)
	m.linkUp(mem)
	return nil
}

// linkUp says that one more link into a membership stands.
func (m *Mesh) linkUp(mem *Membership) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if mem.unsettled--; mem.unsettled == 0 {
		close(mem.ready)
	}
}

// use has a ring poked by the membership's end, and closed by leaving.
func (m *Membership) use(r *ring) {
	m.ringsMu.Lock()
	m.rings = append(m.rings, r)
	m.ringsMu.Unlock()
	select {
	case <-m.done:
		r.poke()
	default:
	}
}

// pokeRings wakes whoever sleeps in shared memory.
func (m *Membership) pokeRings() {
	m.ringsMu.Lock()
	defer m.ringsMu.Unlock()
	for _, r := range m.rings {
		r.poke()
	}
}

// Carriers says, for people, over which carriers a local cell sends: "shm", or "local 1, shm 2" if there are several.
func (m *Membership) Carriers(c Cell) string {
	links := map[Carrier]int{}
	for key, out := range m.outs {
		if key[0] == c {
			links[out.carrier()]++
		}
	}
	names := slices.SortedFunc(maps.Keys(links), func(a, b Carrier) int { return cmp.Compare(a.rank(), b.rank()) })
	var out []string
	for _, n := range names {
		if len(names) == 1 {
			return string(n)
		}
		out = append(out, fmt.Sprintf("%s %d", n, links[n]))
	}
	return strings.Join(out, ", ")
}

func (c Carrier) rank() int {
	return slices.Index([]Carrier{CarrierLocal, CarrierPeer, CarrierSHM, CarrierGRPC}, c)
}
