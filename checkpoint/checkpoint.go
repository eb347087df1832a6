package checkpoint

import "errors"

// Errors that a caller decides on. Every refusal wraps one of them and names the file.
var (
	ErrCorrupt  = errors.New("corrupt")            // size, checksum or structure is wrong
	ErrMismatch = errors.New("of something else")  // a good file, but of another job, cell, step, plan or numerics
	ErrMissing  = errors.New("missing")            // no such file
	ErrVersion  = errors.New("of another version") // written by a newer program
)

// Meta says what a file holds the state of.
type Meta struct {
	Job        string
	Generation uint64 // that wrote it; not compared on load
	Step       uint64 // finished steps
	Replica    int
	Column     int
	PlanDigest [32]byte
	Numerics   string
	// Losses of the last steps, oldest first, which a guard judges the next ones by. No part of the state's digest, not
	// compared on load, and not in files of old.
	Losses []float64 `json:",omitempty"`
}

// Tensor is one named tensor of a cell's state in canonical order, float32, row-major. Data is only borrowed.
type Tensor struct {
	Name  string
	Shape []int
	Data  []float32
}

// MomentumSuffix marks the momentum of the parameter whose name comes before it.
const MomentumSuffix = ".momentum"

// Info is what a manifest keeps of a file.
type Info struct {
	Path   string // below the checkpoint directory, slash-separated
	Bytes  int64
	XXH3   [16]byte // of the file as it lies on disk, 128 bits, big-endian
	Digest [32]byte // of the state: see Digest
}
