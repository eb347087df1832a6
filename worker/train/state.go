package train

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"colonnade/checkpoint"
	"colonnade/cudakern"
	"colonnade/shard"
)

// param is one tensor of the cell's state on the device. The state has two halves: step s reads half s%2 and its
// update writes the other, so the last finished step stays whole until the next one is.
type param struct {
	shard.Param
	w, v [2]cudakern.Buffer // value and momentum
	grad cudakern.Buffer
	sgd  cudakern.SGD
}

// makeParam makes a parameter in the layout its op wants. Where its values lie is decided when all are known: see
// place.
func (b *builder) makeParam(index int, layout cudakern.Layout) (*param, error) {
	p := &param{Param: b.plan.Params[b.column][index]}
	shape := cudakern.Shape(p.Shape)
	var err error
	if p.grad, err = b.alloc(shape, layout); err != nil {
		return nil, fmt.Errorf("allocate %s: %w", p.Name, err)
	}
	if p.sgd, err = b.dev.NewSGD(cudakern.SGDDesc{Shape: shape, Layout: layout}); err != nil {
		return nil, fmt.Errorf("make update of %s: %w", p.Name, err)
	}
	b.closers = append(b.closers, p.sgd.Close)
	b.params[index] = p
	return p, nil
}

// momentumSuffix marks a parameter's momentum in checkpoints and digests.
const momentumSuffix = checkpoint.MomentumSuffix

// snapshot is a host copy of a cell's state in canonical order: every parameter's value and momentum.
type snapshot struct {
	step    uint64
	tensors []checkpoint.Tensor
	losses  []float64 // of the last steps
	memory  []byte
}

// ErrNoRoom means that the system has no memory for a copy of a cell's state. Training does without; a checkpoint that
// is due is not written.
var ErrNoRoom = errors.New("no memory for a snapshot")

// newSnapshot allocates a snapshot that fits the cell. Its memory is the system's own: what is not there is an error
// and not the end of the process.
func (c *Cell) newSnapshot() (*snapshot, error) {
	const number = 4
	n := 0
	for _, p := range c.params {
		n += 2 * p.Len()
	}
	memory, err := c.reserve(max(n, 1) * number)
	if err != nil {
		return nil, fmt.Errorf("%w of %.1f MiB: %w", ErrNoRoom, float64(n*number)/(1<<20), err)
	}
	s := &snapshot{memory: memory}
	all := unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(memory))), len(memory)/number)
	for _, p := range c.params {
		for _, name := range []string{p.Name, p.Name + momentumSuffix} {
			s.tensors = append(s.tensors, checkpoint.Tensor{Name: name, Shape: p.Shape, Data: all[:p.Len():p.Len()]})
			all = all[p.Len():]
		}
	}
	return s, nil
}

// reserve asks the system for memory, which is zero.
func reserve(bytes int) ([]byte, error) {
	return syscall.Mmap(-1, 0, bytes, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
}

// free gives the memory back; nothing of s may be used any more.
func (s *snapshot) free() { _ = syscall.Munmap(s.memory) } // it fails for what was not mapped only

// take copies the state after `step` finished steps into s.
func (c *Cell) take(s *snapshot, step uint64) error {
	half := int(step % 2)
	for i, p := range c.params {
		if err := c.dev.Download(c.st, s.tensors[2*i].Data, p.w[half]); err != nil {
			return fmt.Errorf("copy %s: %w", p.Name, err)
		}
		if err := c.dev.Download(c.st, s.tensors[2*i+1].Data, p.v[half]); err != nil {
			return fmt.Errorf("copy %s: %w", p.Name, err)
		}
	}
	s.step = step
	s.losses = append(s.losses[:0], c.watch.past.losses...)
	return nil
}

// put makes s the cell's state.
func (c *Cell) put(s *snapshot) error {
	half := int(s.step % 2)
	c.mem.Begin(1 - half) // whatever it holds is of another history
	c.mem.Begin(half)
	for i, p := range c.params {
		if err := c.dev.Upload(c.st, p.w[half], s.tensors[2*i].Data); err != nil {
			return fmt.Errorf("set %s: %w", p.Name, err)
		}
		if err := c.dev.Upload(c.st, p.v[half], s.tensors[2*i+1].Data); err != nil {
			return fmt.Errorf("set %s: %w", p.Name, err)
		}
	}
	if err := c.st.Sync(); err != nil {
		return err
	}
	c.watch.past.set(s.losses)
	c.watch.past.encode(c.tail(half))
	c.mem.Finish(half, s.step)
	c.step = s.step
	return c.remember(c.recorded)
}

// initial fills s with the state before the first step.
func (c *Cell) initial(s *snapshot) {
	for i, p := range c.params {
		fillInitial(s.tensors[2*i].Data, c.plan, c.id.Column, p.Param, c.job.Seed)
		clear(s.tensors[2*i+1].Data)
	}
	s.step, s.losses = 0, s.losses[:0]
}
