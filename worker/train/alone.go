package train

import (
	"context"
	"sync"

	"colonnade/worker/exchange"
)

// Alone stands in for all peers of a cell that is to run by itself: what it sends goes nowhere, and whatever it waits
// for is there at once, the same in every step. It shows what a column computes in a step without anybody to wait for;
// what the cell learns is worth nothing.
type Alone struct {
	mu     sync.Mutex
	filled map[*byte]bool // by where a message is received: it stays there, no device writes where it receives
}

// NewAlone returns an exchanger for one cell.
func NewAlone() *Alone { return &Alone{filled: map[*byte]bool{}} }

// The bytes that maps and gradients from elsewhere are made of: as float32 about 0.01 and 1e-5, as float64 small normal
// numbers too, so that they are right for any device, and never slow.
const (
	aloneMaps      = 0x3c
	aloneGradients = 0x37
)

// Send forgets the message.
func (a *Alone) Send(ctx context.Context, _ exchange.Cell, _ exchange.Tag, _ []byte) error {
	return ctx.Err()
}

// Recv makes up a message: a peer's agreement, its maps or its part of a gradient.
func (a *Alone) Recv(ctx context.Context, _ exchange.Cell, tag exchange.Tag, into []byte) error {
	if tag.Exchange >= guardTag && tag.Exchange < reduceTag {
		verdict{}.encode(into)
		return ctx.Err()
	}
	if len(into) == 0 {
		return ctx.Err()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.filled[&into[0]] {
		return ctx.Err()
	}
	a.filled[&into[0]] = true
	value := byte(aloneMaps)
	if tag.Exchange%2 == 1 {
		value = aloneGradients
	}
	for i := range into {
		into[i] = value
	}
	return ctx.Err()
}

// Close does nothing: there is nobody to leave.
func (a *Alone) Close() error { return nil }
