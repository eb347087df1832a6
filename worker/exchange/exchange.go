package exchange

import (
	"context"
	"errors"
	"fmt"
)

// Cell is one column of one replica.
type Cell struct{ Replica, Column int }

// String gives the cell's short name, "r0c1".
func (c Cell) String() string { return fmt.Sprintf("r%dc%d", c.Replica, c.Column) }

// Tag says which crossing a message belongs to: messages between two cells arrive in the order they were sent, and the
// receiver must ask for exactly the next one.
type Tag struct {
	Step     uint64 // the step being computed, counted from 0
	Exchange uint32 // the crossing's id within the step; unique, chosen by the trainer
}

// Errors that a caller decides on.
var (
	// ErrPeerLost means that a peer cell's worker is gone, silent or has refused us. It is wrapped in a *PeerError.
	ErrPeerLost = errors.New("peer lost")
	// ErrOutOfOrder means that the next message is not the one asked for: the two cells disagree about the step.
	ErrOutOfOrder = errors.New("message out of order")
	// ErrClosed means that the exchanger has been closed on this side.
	ErrClosed = errors.New("exchange closed")
)

// PeerError names the peer behind an ErrPeerLost.
type PeerError struct {
	Cell   Cell
	Worker string // id of its worker
	Cause  error
}

// Error says which cell on which worker is lost and why.
func (e *PeerError) Error() string {
	return fmt.Sprintf("cell %s on worker %s is lost: %v", e.Cell, e.Worker, e.Cause)
}

// Unwrap makes errors.Is see both ErrPeerLost and the cause.
func (e *PeerError) Unwrap() []error { return []error{ErrPeerLost, e.Cause} }

// Exchanger is one cell's end of the exchange for one generation of a job. Send and Recv may run at the same time as
// each other, but each only once at a time per peer.
type Exchanger interface {
	// Send hands data to cell `to`. data may be reused when it returns; that says nothing about arrival. It blocks
	// while the peer is more than the carrier's bound behind.
	Send(ctx context.Context, to Cell, tag Tag, data []byte) error
	// Recv waits for the message with this tag from cell `from` and fills into; a message of another length, tag or
	// checksum is an error.
	Recv(ctx context.Context, from Cell, tag Tag, into []byte) error
	// Close ends it; pending calls return ErrClosed.
	Close() error
}
