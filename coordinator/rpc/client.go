package rpc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"colonnade/coordinator/control"
	"colonnade/proto/clusterpb"
)

const (
	// maxAnswer bounds one message of a coordinator: thousands of jobs and all its events stay far below.
	maxAnswer = 64 << 20
	// connectLimit is how long one of several coordinators may take to be connected before the next is asked.
	connectLimit = time.Second
	// leaderPoll is how often coordinators that have no leader yet are asked again.
	leaderPoll = 20 * time.Millisecond
)

// Client calls whichever of several coordinators leads. It asks one after another, goes where one that does not lead
// sends it, and asks again, until the call's context ends, while they have no leader: a call that broke in the middle
// is made anew, which every call of the Operator service allows. If none has ever been reached, it says so at once.
//
// Make it with NewClient, Close it at the end. Several calls may be under way.
type Client struct {
	addresses []string
	dial      []grpc.DialOption

	mu    sync.Mutex
	conns map[string]*grpc.ClientConn
	at    string // whom to ask first: who answered last
	ever  bool   // somebody has answered
	turn  int    // of addresses, which of them is asked when nobody knows better
}

var _ grpc.ClientConnInterface = (*Client)(nil)

// NewClient makes a client of the coordinators at addresses, host:port; it connects when it is used. The options are
// gRPC's, on top of its own: how to dial, say.
func NewClient(addresses []string, dial ...grpc.DialOption) (*Client, error) {
	c := &Client{addresses: addresses, dial: dial, conns: map[string]*grpc.ClientConn{}}
	for _, a := range addresses {
		if _, err := c.conn(a); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

// Close ends all connections.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, conn := range c.conns {
		errs = append(errs, conn.Close())
	}
	clear(c.conns)
	return errors.Join(errs...)
}

// conn returns the connection to an address.
func (c *Client) conn(address string) (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn := c.conns[address]; conn != nil {
		return conn, nil
	}
	conn, err := grpc.NewClient(address, append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 2 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: connectLimit, Backoff: backoff.Config{
			BaseDelay: leaderPoll, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 10 * leaderPoll}})}, c.dial...)...)
	if err != nil {
		return nil, fmt.Errorf("coordinator %s: %w; give host:port", address, err)
	}
	c.conns[address] = conn
	return conn, nil
}

// order is whom to ask, one after another.
func (c *Client) order() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := slices.Clone(c.addresses)
	if c.at != "" {
		out = before(c.at, out)
	}
	return out
}

// before returns addresses with one put first.
func before(first string, rest []string) []string {
	rest = slices.DeleteFunc(slices.Clone(rest), func(a string) bool { return a == first })
	return append([]string{first}, rest...)
}

func (c *Client) stay(address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at, c.ever = address, true
}

// Invoke implements grpc.ClientConnInterface.
func (c *Client) Invoke(ctx context.Context, method string, in, out any, opts ...grpc.CallOption) error {
	c.mu.Lock()
	reached := c.ever
	c.mu.Unlock()
	var leaderless error // what the last of those who have no leader said
	for {
		here, err := c.round(ctx, method, in, out, opts)
		reached = reached || here
		switch {
		case errors.Is(FromStatus(err), control.ErrNotLeading):
			leaderless = err
		case leaderless != nil && status.Code(err) == codes.DeadlineExceeded: // in the middle of asking again
			return leaderless
		}
		if err == nil || !elsewhere(err) || !reached {
			return err
		}
		again := time.NewTimer(leaderPoll)
		select {
		case <-again.C:
		case <-ctx.Done():
			again.Stop()
			return err
		}
	}
}

// round asks everyone once, and those they send it to. It says whether any of them was reached.
func (c *Client) round(ctx context.Context, method string, in, out any, opts []grpc.CallOption) (reached bool,
	err error) {
	queue := c.order()
	asked := map[string]bool{}
	for len(queue) > 0 {
		address := queue[0]
		queue, asked[address] = queue[1:], true
		here, now := c.try(ctx, address, method, in, out, opts)
		reached = reached || here
		if now == nil || !elsewhere(now) {
			c.stay(address)
			return reached, now
		}
		if err == nil || errors.Is(FromStatus(now), control.ErrNotLeading) {
			err = now
		}
		if leader := redirect(now); leader != "" && !asked[leader] {
			queue = before(leader, queue)
		}
	}
	return reached, err
}

// try makes a call to one coordinator.
func (c *Client) try(ctx context.Context, address, method string, in, out any, opts []grpc.CallOption) (reached bool,
	err error) {
	conn, err := c.conn(address)
	if err != nil {
		return false, status.Error(codes.Unavailable, err.Error())
	}
	if reached, err = c.connect(ctx, conn, address); err != nil {
		return false, err
	}
	err = conn.Invoke(ctx, method, in, out, atOnce(opts)...) // if it is not connected, this says why
	return reached || status.Code(err) != codes.Unavailable, err
}

// connect waits until a connection stands or cannot be made. One of several may not take long.
func (c *Client) connect(ctx context.Context, conn *grpc.ClientConn, address string) (ready bool, err error) {
	limited := ctx
	if len(c.addresses) > 1 || address != c.addresses[0] {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, connectLimit)
		defer cancel()
	}
	for {
		state := conn.GetState()
		switch state {
		case connectivity.Ready:
			return true, nil
		case connectivity.TransientFailure, connectivity.Shutdown:
			return false, nil
		case connectivity.Idle:
			conn.Connect()
		}
		if !conn.WaitForStateChange(limited, state) {
			if ctx.Err() != nil {
				return false, status.FromContextError(ctx.Err()).Err()
			}
			return false, status.Errorf(codes.Unavailable, "coordinator %s does not answer", address)
		}
	}
}

// NewStream implements grpc.ClientConnInterface. A stream is of one coordinator: of the one that answered last, or, if
// a stream of that one has failed, of the next. What becomes of it is for the caller to see, who may open it again.
func (c *Client) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (
	grpc.ClientStream, error) {
	address := c.order()[0]
	conn, err := c.conn(address)
	if err != nil {
		return nil, err
	}
	if _, err := c.connect(ctx, conn, address); err != nil {
		return nil, c.failed(address, err)
	}
	s, err := conn.NewStream(ctx, desc, method, atOnce(opts)...)
	if err != nil {
		return nil, c.failed(address, err)
	}
	return &oneStream{s, c, address}, nil
}

// atOnce has a call fail if the coordinator is not there, whatever its caller would wait for. That it has just been
// there is no reason to wait: one that dies meanwhile may never come back, and others may lead.
func atOnce(opts []grpc.CallOption) []grpc.CallOption {
	return append(slices.Clip(opts), grpc.WaitForReady(false))
}

// oneStream is a stream whose end tells its client whom to ask next.
type oneStream struct {
	grpc.ClientStream
	client  *Client
	address string
}

// RecvMsg implements grpc.ClientStream.
func (s *oneStream) RecvMsg(m any) error {
	return s.client.failed(s.address, s.ClientStream.RecvMsg(m))
}

// failed has the next be asked first if an error says that this one is not to be asked.
func (c *Client) failed(address string, err error) error {
	if err == nil || !elsewhere(err) {
		return err
	}
	next := redirect(err)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at != "" && c.at != address { // another has answered meanwhile
		return err
	}
	if next == "" {
		c.turn++
		next = c.addresses[c.turn%len(c.addresses)]
	}
	c.at = next
	return err
}

// elsewhere says whether another coordinator, or the same one later, may give another answer.
func elsewhere(err error) bool {
	return status.Code(err) == codes.Unavailable
}

// redirect is the leader's address, if an error has it.
func redirect(err error) string {
	for _, d := range status.Convert(err).Details() {
		if r, ok := d.(*clusterpb.Redirect); ok {
			return r.Leader
		}
	}
	return ""
}
