package model

import (
	"context"
	"fmt"
	"strings"

	"colonnade/checkpoint"
	"colonnade/checkpoint/tensors"
	"colonnade/shard"
)

// State is the weights and biases of all columns, as a plan has them.
type State struct {
	Plan   *shard.Plan
	Values [][][]float32 // by column and parameter, in canonical order
}

// NewState is a state of zeros.
func NewState(plan *shard.Plan) *State {
	s := &State{Plan: plan, Values: make([][][]float32, plan.Columns)}
	for c, params := range plan.Params {
		for _, p := range params {
			s.Values[c] = append(s.Values[c], make([]float32, p.Len()))
		}
	}
	return s
}

// Load reads a column's checkpoint file, which must be the one want describes, and verifies all of it. Momentum is
// verified too, and forgotten.
func (s *State) Load(ctx context.Context, column int, path string, want checkpoint.Want) error {
	byName := map[string][]float32{}
	most := 0
	for i, p := range s.Plan.Params[column] {
		byName[p.Name] = s.Values[column][i]
		most = max(most, p.Len())
	}
	momentum := make([]float32, most)
	_, err := checkpoint.Load(ctx, path, want, func(name string, shape []int) ([]float32, error) {
		of, is := strings.CutSuffix(name, checkpoint.MomentumSuffix)
		v, ok := byName[of]
		switch {
		case !ok:
			return nil, fmt.Errorf("tensor %s does not belong to column %d: %w", name, column, checkpoint.ErrMismatch)
		case is:
			return momentum[:len(v)], nil
		}
		return v, nil
	})
	return err
}

// Write writes the state as a cell's checkpoint file, momentum zero.
func (s *State) Write(ctx context.Context, root string, m checkpoint.Meta) (checkpoint.Info, error) {
	var all []checkpoint.Tensor
	for i, p := range s.Plan.Params[m.Column] {
		all = append(all, checkpoint.Tensor{Name: p.Name, Shape: p.Shape, Data: s.Values[m.Column][i]},
			checkpoint.Tensor{Name: p.Name + checkpoint.MomentumSuffix, Shape: p.Shape, Data: make([]float32, p.Len())})
	}
	return checkpoint.Write(ctx, root, m, all, nil)
}

// Whole lists the whole network's tensors with their values.
func (s *State) Whole() ([]tensors.Source, error) {
	form, err := Form(s.Plan)
	if err != nil {
		return nil, err
	}
	var out []tensors.Source
	for _, t := range form {
		out = append(out, tensors.Source{Name: t.Name, Shape: t.Shape, Each: func(yield func([]float32) error) error {
			return t.each(func(r run) error { return yield(s.Values[r.column][r.param][r.offset : r.offset+r.n]) })
		}})
	}
	return out, nil
}

// Column lists one column's parameters as they are: LAYER.weight, or LAYER.weight.from0 and so on where there is one
// block for each input column, and LAYER.bias.
func (s *State) Column(column int) []tensors.Source {
	var out []tensors.Source
	for i, p := range s.Plan.Params[column] {
		name := portable(p.Layer) + ".bias"
		if p.Kind == shard.Weight {
			name = portable(p.Layer) + ".weight"
			if p.Name != p.Layer+"/w" {
				name += fmt.Sprintf(".from%d", p.From)
			}
		}
		out = append(out, tensors.Of(name, p.Shape, s.Values[column][i]))
	}
	return out
}
