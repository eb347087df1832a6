// Package exchangepb is the wire contract between workers: the stream that carries activations and gradients, whose
// frames are raw and not protobuf (worker/exchange has their layout), and the service that hands over checkpoint files.
package exchangepb
