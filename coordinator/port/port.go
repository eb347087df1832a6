// Package port shares one listener between two protocols: connections of coordinators to each other begin with a byte
// that nothing else begins with, all others are gRPC's.
package port

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Peer is the first byte of a connection from another coordinator. HTTP/2 begins with 'P', TLS with 0x16.
const Peer = 0xC7

const (
	sniffLimit = 5 * time.Second // for a connection's first byte to come
	maxSniffed = 1024            // connections that have not sent it yet; more wait in the kernel
	again      = 20 * time.Millisecond
)

// Port takes connections from a listener and hands each to one of two. Make it with New, then Run it.
type Port struct {
	listener net.Listener
	log      *slog.Logger
	done     chan struct{} // closed when Run ends
	sniffing chan struct{} // a token for every connection whose first byte has not come
	tasks    sync.WaitGroup
	peers    *half
	others   *half

	mu     sync.Mutex
	unsure map[net.Conn]struct{} // those connections
	closed bool
}

// New shares a listener, which Run closes.
func New(l net.Listener, log *slog.Logger) *Port {
	p := &Port{listener: l, log: log, done: make(chan struct{}), sniffing: make(chan struct{}, maxSniffed),
		unsure: map[net.Conn]struct{}{}}
	p.peers, p.others = newHalf(p), newHalf(p)
	return p
}

// Peers is where connections from other coordinators arrive, without their first byte.
func (p *Port) Peers() net.Listener { return p.peers }

// Others is where all other connections arrive.
func (p *Port) Others() net.Listener { return p.others }

// Run takes connections until ctx ends, which is no error, or the listener fails. When it has returned, nothing of it
// is left but the connections that were handed over.
func (p *Port) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { p.listener.Close() })
	defer stop()
	err := p.accept(ctx)
	p.close()
	p.tasks.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// accept takes connections until the listener is closed.
func (p *Port) accept(ctx context.Context) error {
	for {
		conn, err := p.listener.Accept()
		switch {
		case err == nil:
		case errors.Is(err, net.ErrClosed) || ctx.Err() != nil:
			return fmt.Errorf("accept connections: %w", err)
		default: // too many open files, say: those that are there go on
			p.log.Warn("cannot accept a connection", "err", err)
			pause := time.NewTimer(again)
			select {
			case <-pause.C:
				continue
			case <-ctx.Done():
				pause.Stop()
				return context.Cause(ctx)
			}
		}
		select {
		case p.sniffing <- struct{}{}:
		case <-ctx.Done():
			conn.Close()
			return context.Cause(ctx)
		}
		p.mu.Lock()
		p.unsure[conn] = struct{}{}
		p.mu.Unlock()
		p.tasks.Go(func() { p.sort(conn) })
	}
}

// sort waits for a connection's first byte and hands the connection over.
func (p *Port) sort(conn net.Conn) {
	var first [1]byte
	err := conn.SetReadDeadline(time.Now().Add(sniffLimit))
	if err == nil {
		_, err = io.ReadFull(conn, first[:])
	}
	if err == nil {
		err = conn.SetReadDeadline(time.Time{})
	}
	p.mu.Lock()
	delete(p.unsure, conn)
	p.mu.Unlock()
	<-p.sniffing
	switch {
	case err != nil: // it has said nothing, or is gone
		conn.Close()
	case first[0] == Peer:
		p.peers.hand(conn)
	default:
		p.others.hand(&begun{Conn: conn, first: first[0], unread: true})
	}
}

// close ends what waits for a first byte or to be taken over.
func (p *Port) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.closed = true
	close(p.done)
	for conn := range p.unsure {
		conn.Close()
	}
}

// half is one side's listener. Closing it stops that side only: its connections are then refused.
type half struct {
	port  *Port
	ready chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newHalf(p *Port) *half {
	return &half{port: p, ready: make(chan net.Conn), done: make(chan struct{})}
}

func (h *half) hand(conn net.Conn) {
	select {
	case h.ready <- conn:
	case <-h.done:
		conn.Close()
	case <-h.port.done:
		conn.Close()
	}
}

// Accept implements net.Listener.
func (h *half) Accept() (net.Conn, error) {
	select {
	case conn := <-h.ready:
		return conn, nil
	case <-h.done:
	case <-h.port.done:
	}
	return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: h.Addr(), Err: net.ErrClosed}
}

// Close implements net.Listener.
func (h *half) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr implements net.Listener.
func (h *half) Addr() net.Addr { return h.port.listener.Addr() }

// begun is a connection whose first byte was read to see what it is.
type begun struct {
	net.Conn
	first  byte
	unread bool // by one reader at a time, as gRPC's is
}

// Read implements net.Conn.
func (b *begun) Read(p []byte) (int, error) {
	if !b.unread || len(p) == 0 {
		return b.Conn.Read(p)
	}
	b.unread = false
	p[0] = b.first
	return 1, nil
}
