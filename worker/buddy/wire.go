package buddy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"colonnade/proto/exchangepb"
	"colonnade/worker/arena"
)

// pieceBytes is the size of the pieces in which a state travels: it stays in a core's cache while it is checked.
const pieceBytes = 256 << 10

// Silence is how long the other side may take for a piece before it is given up.
const Silence = 10 * time.Second

// largest bounds what a header may ask for: more than any cell's state.
const largest = 1 << 40

// service hands copies in and out.
type service struct {
	exchangepb.UnimplementedCopiesServer
	store *Store
}

// Register adds the store's service to a server.
func Register(s *grpc.Server, store *Store) {
	exchangepb.RegisterCopiesServer(s, &service{store: store})
}

// headerOf says what a copy is of.
func headerOf(k *arena.Key, generation, step, keep uint64) *exchangepb.CopyHeader {
	return &exchangepb.CopyHeader{Cluster: k.Cluster, Job: k.Job, Generation: generation, Replica: int32(k.Replica),
		Column: int32(k.Column), Step: step, Identity: k.Identity[:], Plan: k.Plan[:], Numerics: k.Numerics,
		Layout: k.Layout[:], Bytes: uint64(k.HalfBytes), Keep: keep}
}

// keyIn is what a header says a copy is of.
func keyIn(h *exchangepb.CopyHeader) (k arena.Key, err error) {
	if h == nil || h.Job == "" || h.Replica < 0 || h.Column < 0 || len(h.Identity) != len(k.Identity) ||
		len(h.Plan) != len(k.Plan) || len(h.Layout) != len(k.Layout) || h.Bytes == 0 || h.Bytes > largest {
		return k, fmt.Errorf("%w: its header is incomplete", ErrCorrupt)
	}
	return arena.Key{Cluster: h.Cluster, Job: h.Job, Replica: int(h.Replica), Column: int(h.Column),
		Identity: [32]byte(h.Identity), Plan: [32]byte(h.Plan), Numerics: h.Numerics, Layout: [32]byte(h.Layout),
		HalfBytes: int(h.Bytes)}, nil
}

// refusal is an error as the wire has it.
func refusal(err error) error {
	code := codes.Internal
	switch {
	case errors.Is(err, ErrStale):
		code = codes.FailedPrecondition
	case errors.Is(err, ErrNoRoom):
		code = codes.ResourceExhausted
	case errors.Is(err, ErrCorrupt):
		code = codes.InvalidArgument
	case errors.Is(err, ErrNone):
		code = codes.NotFound
	}
	return status.Error(code, err.Error())
}

func refusalOf(err error) error {
	if err == nil {
		return nil
	}
	return refusal(err)
}

// Drop gives up what is not needed.
func (s *service) Drop(_ context.Context, h *exchangepb.CopyHeader) (*exchangepb.CopyKept, error) {
	key, err := keyIn(h)
	if err == nil {
		err = s.store.Drop(key, h.Generation, h.Keep)
	}
	if err != nil {
		return nil, refusal(err)
	}
	return &exchangepb.CopyKept{}, nil
}

// Get hands a copy out.
func (s *service) Get(r *exchangepb.CopyRequest, out grpc.ServerStreamingServer[exchangepb.CopyPiece]) error {
	c, err := s.store.Open(r.Cluster, r.Job, int(r.Replica), int(r.Column), r.Step)
	if err != nil {
		return refusal(err)
	}
	defer c.Close()
	h := headerOf(&c.Key, c.Generation, c.Step, 0)
	h.Xxh3 = c.Sum()
	if err := out.Send(&exchangepb.CopyPiece{Header: h}); err != nil {
		return err
	}
	for i, sum := range c.Sums {
		if err := out.Send(&exchangepb.CopyPiece{Offset: uint64(i * pieceBytes), Data: c.piece(i), Xxh3: sum}); err != nil {
			return err
		}
	}
	return nil
}

// Client speaks to other workers' stores. Close ends its connections.
type Client struct {
	mu     sync.Mutex
	closed bool
	conns  map[string]*grpc.ClientConn
	doors  map[string]net.Conn // by address: to the other's door, while nobody uses it
}

// NewClient makes a client.
func NewClient() *Client {
	return &Client{conns: map[string]*grpc.ClientConn{}, doors: map[string]net.Conn{}}
}

// Close closes the connections; calls that run fail.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var err error
	for _, conn := range c.conns {
		err = errors.Join(err, conn.Close())
	}
	clear(c.conns)
	for _, conn := range c.doors {
		err = errors.Join(err, conn.Close())
	}
	clear(c.doors)
	c.closed = true
	return err
}

func (c *Client) dial(address string) (exchangepb.CopiesClient, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	conn := c.conns[address]
	if conn == nil {
		var err error
		conn, err = grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(2*pieceBytes)))
		if err != nil {
			return nil, err
		}
		c.conns[address] = conn
	}
	return exchangepb.NewCopiesClient(conn), nil
}

// call runs f with a context that ends when heard is not called for Silence, and gives its error words.
func (c *Client) call(ctx context.Context, address string, f func(ctx context.Context, to exchangepb.CopiesClient,
	heard func()) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(Silence, func() { cancel(fmt.Errorf("silent for %v", Silence)) })
	defer watch.Stop()
	to, err := c.dial(address)
	if err == nil {
		err = f(ctx, to, func() { watch.Reset(Silence) })
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return inWords(err)
}

// inWords is an error of the other side's, or of ours, as it was before it went over the wire.
func inWords(err error) error {
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	for code, kind := range map[codes.Code]error{codes.NotFound: ErrNone, codes.FailedPrecondition: ErrStale,
		codes.ResourceExhausted: ErrNoRoom, codes.InvalidArgument: ErrCorrupt} {
		if s.Code() == code {
			return fmt.Errorf("%s (%w)", s.Message(), kind)
		}
	}
	return errors.New(s.Message())
}

// Put hands a copy to the worker at address and returns when that one has it whole.
func (c *Client) Put(ctx context.Context, address string, what *Copy, keep uint64) error {
	if err := c.put(ctx, address, what, keep); err != nil {
		return fmt.Errorf("hand a copy of step %d to %s: %w", what.Step, address, err)
	}
	return nil
}

func (c *Client) put(ctx context.Context, address string, what *Copy, keep uint64) error {
	h := headerOf(&what.Key, what.Generation, what.Step, keep)
	conn, said, err := c.knock(ctx, address, h)
	if err != nil {
		return err
	}
	if said == nil {
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		for i := 0; i < what.pieces() && err == nil; i++ {
			err = writePiece(conn, what.Sums[i], what.piece(i))
		}
		if err == nil {
			said, err = readStatus(conn)
		}
		if !stop() {
			err = context.Cause(ctx)
		}
	}
	if err != nil {
		conn.Close()
		return err
	}
	c.leave(address, conn)
	if said != nil {
		return inWords(said)
	}
	return nil
}

// knock says at another worker's door what comes, on a connection from before if there is one, and returns the answer.
func (c *Client) knock(ctx context.Context, address string, h *exchangepb.CopyHeader) (conn net.Conn, said, err error) {
	c.mu.Lock()
	conn = c.doors[address]
	delete(c.doors, address)
	c.mu.Unlock()
	say := func() error {
		stop := context.AfterFunc(ctx, func() { conn.Close() })
		err := writeHeader(conn, h)
		if err == nil {
			said, err = readStatus(conn)
		}
		if !stop() {
			return context.Cause(ctx)
		}
		return err
	}
	if conn != nil {
		if err = say(); err == nil {
			return conn, said, nil
		}
		conn.Close()
		if ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, nil, err
		} // else the other side has ended since, or is another
	}
	dialer := net.Dialer{Timeout: Silence}
	if conn, err = dialer.DialContext(ctx, "tcp", address); err != nil {
		return nil, nil, err
	}
	if err = writeAll(conn, []byte{mark}); err == nil {
		err = say()
	}
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, said, nil
}

// leave keeps a connection for the next copy.
func (c *Client) leave(address string, conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.doors[address] != nil {
		conn.Close()
		return
	}
	c.doors[address] = conn
}

// Drop tells the worker at address that a cell's copies are not needed there any more, but for that of step keep.
func (c *Client) Drop(ctx context.Context, address string, key arena.Key, generation, keep uint64) error {
	err := c.call(ctx, address, func(ctx context.Context, to exchangepb.CopiesClient, _ func()) error {
		_, err := to.Drop(ctx, headerOf(&key, generation, 0, keep))
		return err
	})
	if err != nil {
		return fmt.Errorf("have %s drop copies: %w", address, err)
	}
	return nil
}

// Get fetches what the worker at address holds of a cell after a step into dst, which has the key's size. What arrives
// is checked; dst holds nothing of use after an error. What generations before since have left is not taken.
func (c *Client) Get(ctx context.Context, address string, key arena.Key, step, since uint64, dst []byte) error {
	err := c.call(ctx, address, func(ctx context.Context, to exchangepb.CopiesClient, heard func()) error {
		stream, err := to.Get(ctx, &exchangepb.CopyRequest{Cluster: key.Cluster, Job: key.Job,
			Replica: int32(key.Replica), Column: int32(key.Column), Step: step})
		if err != nil {
			return err
		}
		first, err := stream.Recv()
		if err != nil {
			return err
		}
		theirs, err := keyIn(first.Header)
		if err != nil {
			return err
		}
		if diff := key.Differs(&theirs); diff != "" || first.Header.Step != step {
			return fmt.Errorf("%w: %s", ErrCorrupt, diff)
		}
		if first.Header.Generation < since {
			return fmt.Errorf("%w but of generation %d, which was given up", ErrNone, first.Header.Generation)
		}
		at := uint64(0)
		var sums []uint64
		for {
			p, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err == nil {
				err = addPiece(dst, &at, p.Offset, p.Data, p.Xxh3)
			}
			if err != nil {
				return err
			}
			sums = append(sums, p.Xxh3)
			heard()
		}
		if at != uint64(len(dst)) || sumOf(sums) != first.Header.Xxh3 {
			return fmt.Errorf("%w: %d bytes of %d, or other ones", ErrCorrupt, at, len(dst))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("fetch a copy of step %d of cell r%dc%d from %s: %w", step, key.Replica, key.Column, address, err)
	}
	return nil
}
