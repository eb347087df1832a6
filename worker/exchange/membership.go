package exchange

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"colonnade/cudakern"
)

// Group is one generation of a job: our cells and everyone else's.
type Group struct {
	Job        string
	Generation uint64
	PlanDigest [32]byte // must agree at both ends of every link
	Numerics   string   // likewise
	Version    uint32   // likewise: of what cells say to each other in a step
	Local      []Cell
	Peers      []Peer
	Carrier    Carrier // auto, peer, shm or grpc; empty: auto
	Address    string  // of this worker's own exchange service, which forced carriers need
	Largest    uint64  // bytes of the largest message of a step, for room in shared memory; 0: unknown, and no landings
	// Devices are those of the local cells that are on any: between two that can (cudakern.Lander), columns of a replica
	// hand buffers over without the host. They must be open until Join returns.
	Devices map[Cell]cudakern.Device
}

// Peer is a cell on another worker.
type Peer struct {
	Cell    Cell
	Worker  string // id
	Address string // of its exchange service
}

// Membership is a worker's part in one generation. Close it to leave.
type Membership struct {
	mesh   *Mesh
	group  Group
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	inboxes   map[[2]Cell]inlink   // by from and to
	outs      map[[2]Cell]outbox   // likewise
	awaited   map[[2]Cell]struct{} // links in that nobody has opened yet; under mesh.mu
	unsettled int                  // links in that are not up yet: also those whose carrier is not settled; under mesh.mu
	ready     chan struct{}        // closed when all links in are up

	ringsMu sync.Mutex
	rings   []*ring

	once sync.Once
	done chan struct{} // closed by the first failure, or by Close
	err  error         // why; set before done is closed
}

// outbox is the sending end of one link.
type outbox interface {
	send(ctx context.Context, tag Tag, data []byte) error
	sendBuffer(ctx context.Context, tag Tag, st cudakern.Stream, src cudakern.Buffer) (bool, error)
	finish(abort string) // sends what is queued and then says goodbye, or why it gives up
	carrier() Carrier
}

// inlink is the receiving end of one link.
type inlink interface {
	recv(ctx context.Context, m *Membership, tag Tag, into []byte) error
	recvBuffer(ctx context.Context, m *Membership, tag Tag, st cudakern.Stream, dst cudakern.Buffer, host []byte) (bool,
		error)
	drop() // frees what nobody took
}

// Exchanger returns a local cell's end of the exchange.
func (m *Membership) Exchanger(c Cell) Exchanger {
	if !slices.Contains(m.group.Local, c) {
		panic(fmt.Sprintf("exchange: cell %s is not local", c))
	}
	return &exchanger{m: m, cell: c}
}

// Done is closed when a link has failed, or by Close.
func (m *Membership) Done() <-chan struct{} { return m.done }

// Err says why Done is closed, or nil if it is not.
func (m *Membership) Err() error {
	select {
	case <-m.done:
		return m.err
	default:
		return nil
	}
}

// fail ends the membership with its first failure.
func (m *Membership) fail(err error) {
	m.once.Do(func() {
		m.err = err
		close(m.done)
	})
	m.pokeRings()
}

func (m *Membership) lost(c Cell, worker string, cause error) error {
	if cause == nil {
		cause = errors.New("it has left")
	}
	return &PeerError{Cell: c, Worker: worker, Cause: cause}
}

// Abort tells all peers why this worker gives up. The membership is of no use afterwards.
func (m *Membership) Abort(reason string) {
	if reason == "" {
		reason = "no reason given"
	}
	m.leave(reason)
}

// Close leaves: what was sent is delivered first, for as long as the mesh's timeout.
func (m *Membership) Close() error {
	m.leave("")
	return nil
}

func (m *Membership) leave(abort string) {
	m.mesh.remove(m)
	var wait sync.WaitGroup
	for _, o := range m.outs {
		wait.Go(func() { o.finish(abort) })
	}
	wait.Wait()
	m.fail(ErrClosed)
	m.cancel()
	m.tasks.Wait()
	m.dropAll()
	m.ringsMu.Lock()
	defer m.ringsMu.Unlock()
	for _, r := range m.rings {
		r.close()
	}
}

// dropAll frees what nobody took, and what local links hold.
func (m *Membership) dropAll() {
	for _, in := range m.inboxes {
		in.drop()
	}
}

// exchanger is one local cell's end.
type exchanger struct {
	m    *Membership
	cell Cell
}

func (e *exchanger) Send(ctx context.Context, to Cell, tag Tag, data []byte) error {
	out, ok := e.m.outs[[2]Cell{e.cell, to}]
	if !ok {
		return fmt.Errorf("send from cell %s: cell %s is not in the group", e.cell, to)
	}
	return out.send(ctx, tag, data)
}

func (e *exchanger) Recv(ctx context.Context, from Cell, tag Tag, into []byte) error {
	in, ok := e.m.inboxes[[2]Cell{from, e.cell}]
	if !ok {
		return fmt.Errorf("receive at cell %s: cell %s is not in the group", e.cell, from)
	}
	err := in.recv(ctx, e.m, tag, into)
	e.judge(err)
	return err
}

func (e *exchanger) Close() error { return e.m.Close() }
