// Package exchange carries activations, gradients and verdicts between cells.
//
// A Mesh is a worker's end of all of it. For one generation of a job, Join links the worker's cells with all others
// and returns a Membership; each local cell has an Exchanger there. Four carriers stand behind that interface: local
// hand-over for two cells of one worker, copies from device to device for cells of one host whose devices can, shared
// memory for other cells of two workers of one host, gRPC streams of raw frames for the rest. Every link between two
// workers has its stream, over which it is negotiated, kept alive and ended; with shared memory only the messages take
// the other way. Links are one-way: one for every ordered pair of cells. On a link, messages arrive in the order they
// were sent, and the receiver says which one it expects; anything else (another job, generation, step, exchange, chunk,
// length or checksum) breaks the link.
//
// Memory is bounded: a local link holds 16 messages; a link between workers 16 messages at its sender, and either two
// slots of up to 32 MiB in shared memory or 64 frames of 1 MiB and a window of 64 MiB at its receiver. Where devices
// copy to each other, two messages lie in the receiver's. Who is further ahead waits.
package exchange
