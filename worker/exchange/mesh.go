package exchange

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"colonnade/proto/exchangepb"
)

// Config is what a mesh is made of.
type Config struct {
	Worker  string        // id of this worker
	Silence time.Duration // after which a silent peer counts as lost; 0: DefaultSilence
	Log     *slog.Logger
	Host    string            // who has the same shares its memory; empty: the kernel's boot id
	Rings   []string          // directories for shared memory, tried in order; nil: SharedMemory
	Dial    []grpc.DialOption // in front of the mesh's own; for tests

	// Delay, if set, is called before every data frame is sent; for tests.
	Delay func(ctx context.Context, from, to Cell, tag Tag)
}

// DefaultSilence is how long a link may be silent. Senders speak eight times as often.
const DefaultSilence = 2 * time.Second

// Transport sizes, measured as the best for this traffic: large windows, large socket buffers.
const (
	windowBytes = 64 << 20
	socketBytes = 1 << 20
)

// Mesh is a worker's end of the exchange, over all jobs.
type Mesh struct {
	exchangepb.UnimplementedExchangeServer
	cfg Config

	mu      sync.Mutex
	members map[string]*Membership // by job: the newest joined
	conns   map[string]*connection // by address

	keeping sync.WaitGroup // landings that their senders may still write to
	closing chan struct{}  // closed by Close
}

// connection is shared by all links to one worker.
type connection struct {
	*grpc.ClientConn
	links int
}

// New makes a mesh. Register it with the worker's gRPC server, and Close it at the end.
func New(cfg Config) *Mesh {
	if cfg.Silence == 0 {
		cfg.Silence = DefaultSilence
	}
	if cfg.Host == "" {
		cfg.Host = bootID()
	}
	if cfg.Rings == nil {
		cfg.Rings = []string{SharedMemory}
	}
	return &Mesh{cfg: cfg, members: map[string]*Membership{}, conns: map[string]*connection{},
		closing: make(chan struct{})}
}

// ServerOptions are what a gRPC server that carries a mesh must be made with.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.StaticStreamWindowSize(windowBytes), grpc.StaticConnWindowSize(windowBytes),
		grpc.ReadBufferSize(socketBytes), grpc.WriteBufferSize(socketBytes), grpc.MaxRecvMsgSize(2 * ChunkBytes)}
}

// NewServer returns a server that carries the mesh, with more options if there are any. The caller serves and stops
// it.
func (m *Mesh) NewServer(more ...grpc.ServerOption) *grpc.Server {
	s := grpc.NewServer(append(ServerOptions(), more...)...)
	m.Register(s)
	return s
}

// Register adds the mesh's service to a server.
func (m *Mesh) Register(s *grpc.Server) { exchangepb.RegisterExchangeServer(s, m) }

// Close closes the connections to other workers. All memberships must have been closed. Memory of devices that a peer
// may still write to, which has neither let go of it nor died, stays until the process ends.
func (m *Mesh) Close() error {
	close(m.closing)
	m.keeping.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	var err error
	for _, c := range m.conns {
		err = errors.Join(err, c.Close())
	}
	clear(m.conns)
	return err
}

// conn returns the connection to a worker's address, and what to call when the link that uses it has ended: workers
// come back at other addresses, and what they leave behind must not pile up.
func (m *Mesh) conn(address string) (c *grpc.ClientConn, release func(), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	shared, ok := m.conns[address]
	if !ok {
		opts := append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, m.cfg.Dial...)
		opts = append(opts, grpc.WithStaticStreamWindowSize(windowBytes), grpc.WithStaticConnWindowSize(windowBytes),
			grpc.WithReadBufferSize(socketBytes), grpc.WithWriteBufferSize(socketBytes),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: connectBackoff, MinConnectTimeout: time.Second}))
		made, err := grpc.NewClient(address, opts...)
		if err != nil {
			return nil, nil, fmt.Errorf("dial worker at %s: %w", address, err)
		}
		shared = &connection{ClientConn: made}
		m.conns[address] = shared
	}
	shared.links++
	return shared.ClientConn, func() { m.release(address, shared) }, nil
}

func (m *Mesh) release(address string, shared *connection) {
	m.mu.Lock()
	shared.links--
	last := shared.links == 0 && m.conns[address] == shared
	if last {
		delete(m.conns, address)
	}
	m.mu.Unlock()
	if !last {
		return
	}
	if err := shared.Close(); err != nil {
		m.cfg.Log.Warn("close connection to worker", "address", address, "err", err)
	}
}

// ErrStale means that a peer already runs a newer generation of the job: this one is over.
var ErrStale = errors.New("a newer generation is running")

// ErrDisagree means that a peer has another plan or other arithmetic.
var ErrDisagree = errors.New("peers disagree")

// ErrVersions means that a peer's cells say other things to each other in a step than ours: its program is older, or
// newer.
var ErrVersions = fmt.Errorf("%w: workers are of two versions", ErrDisagree)

// versions says how a peer's version differs from a group's own, and what to do; nil: it does not. Programs from before
// there were versions of a step say 1 where they begin a link, and nothing where they answer.
func (g *Group) versions(worker string, theirs uint32) error {
	if theirs == g.Version {
		return nil
	}
	age := "older"
	if theirs > g.Version {
		age = "newer"
	}
	return fmt.Errorf("%w: worker %s is %s (it exchanges steps by version %d, this one by %d); run the same version on "+
		"all workers of job %s, then: coordinator job resume %s", ErrVersions, worker, age, theirs, g.Version, g.Job, g.Job)
}

// Join links our cells with all others of the generation and returns when every link is up. An earlier membership of
// the same job must have been closed.
func (m *Mesh) Join(ctx context.Context, g Group) (*Membership, error) {
	mctx, cancel := context.WithCancel(context.Background())
	mem := &Membership{mesh: m, group: g, ctx: mctx, cancel: cancel, inboxes: map[[2]Cell]inlink{},
		outs: map[[2]Cell]outbox{}, awaited: map[[2]Cell]struct{}{}, ready: make(chan struct{}), done: make(chan struct{})}
	up, err := m.link(mem)
	if err != nil {
		cancel()
		mem.dropAll()
		return nil, err
	}
	m.mu.Lock()
	old := m.members[g.Job]
	if old != nil && old.group.Generation > g.Generation {
		m.mu.Unlock()
		cancel()
		mem.dropAll()
		return nil, fmt.Errorf("join generation %d of job %s, which is at %d: %w", g.Generation, g.Job,
			old.group.Generation, ErrStale)
	}
	m.members[g.Job] = mem
	if mem.unsettled = len(mem.awaited); mem.unsettled == 0 {
		close(mem.ready)
	}
	m.mu.Unlock()
	if old != nil {
		old.fail(ErrStale)
	}
	for _, o := range up {
		mem.tasks.Go(o.run)
	}
	for _, o := range up {
		select {
		case <-o.up:
		case <-mem.done:
		case <-ctx.Done():
			mem.fail(context.Cause(ctx))
		}
	}
	select {
	case <-mem.ready:
	case <-mem.done:
	case <-ctx.Done():
		mem.fail(context.Cause(ctx))
	}
	if err := mem.Err(); err != nil {
		mem.Close()
		return nil, err
	}
	for _, o := range up {
		m.cfg.Log.Info("link is up", "job", g.Job, "generation", g.Generation, "from", o.from, "to", o.to, "worker", o.worker,
			"carrier", o.carrier(), "why", o.why)
	}
	return mem, nil
}

// Waiting returns the peers that a job's generation, which is being joined, still waits for, in the group's order.
func (m *Mesh) Waiting(job string, generation uint64) []Peer {
	m.mu.Lock()
	defer m.mu.Unlock()
	mem := m.members[job]
	if mem == nil || mem.group.Generation != generation {
		return nil
	}
	var out []Peer
	for _, p := range mem.group.Peers {
		for link := range mem.awaited {
			if link[0] == p.Cell {
				out = append(out, p)
				break
			}
		}
	}
	return out
}

// link makes the ends of all links of a group; the network links that we send on are returned, not running yet.
func (m *Mesh) link(mem *Membership) ([]*outLink, error) {
	g := mem.group
	var up []*outLink
	network := func(from, to Cell, worker, address string) {
		o := newOutLink(mem, from, to, worker, address)
		mem.outs[[2]Cell{from, to}] = o
		up = append(up, o)
	}
	receive := func(from, to Cell, worker string) {
		key := [2]Cell{from, to}
		link := header{job: jobHash(g.Job), generation: g.Generation, from: from, to: to}
		mem.inboxes[key] = newInbox(link, worker)
		mem.awaited[key] = struct{}{}
	}
	forced := g.Address != "" && (g.Carrier == CarrierGRPC || g.Carrier == CarrierSHM)
	for _, local := range g.Local {
		for _, p := range g.Peers {
			receive(p.Cell, local, p.Worker)
			network(local, p.Cell, p.Worker, p.Address)
		}
		for _, other := range g.Local {
			switch {
			case other == local:
			case forced:
				receive(other, local, m.cfg.Worker)
				network(local, other, m.cfg.Worker, g.Address)
			default:
				l := newLocalLink(mem, local)
				why := l.reach(other)
				if l.land == nil && g.mustLand(local, other) {
					return nil, noPeer(other, m.cfg.Worker, why)
				}
				key := [2]Cell{local, other}
				mem.inboxes[key], mem.outs[key] = l, l
			}
		}
	}
	return up, nil
}

// remove takes a membership off the table.
func (m *Mesh) remove(mem *Membership) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.members[mem.group.Job] == mem {
		delete(m.members, mem.group.Job)
	}
}
