// Package model is the portable form of a network's weights: the whole network, its columns merged, under names and in
// shapes that other programs have.
//
//	in a column's checkpoint           in the portable form
//	conv1/w   own maps, input          conv1.weight  all maps, input maps, kernel, kernel
//	conv2/w   own maps, own inputs     conv2.weight  all maps, own inputs, ...: a group for each column
//	conv3/w0  own maps, column 0's     conv3.weight  all maps, all inputs, ...: the blocks side by side
//	conv3/w1  own maps, column 1's
//	conv3/b   own maps                 conv3.bias    all maps
//
// What is merged and how follows from the plan alone. Momentum is not part of it. The same form is read back: Import
// checks every name and shape before it reads a value, and every value.
package model

import (
	"errors"
	"fmt"
	"strings"

	"colonnade/shard"
)

// ErrModel is wrapped by what cannot be exported, or is no model of the network it is wanted for.
var ErrModel = errors.New("model")

// Tensor is a tensor of the whole network.
type Tensor struct {
	Name  string // LAYER.weight or LAYER.bias
	Layer string
	Shape []int // maps, inputs, kernel, kernel; maps, inputs; or maps
	each  func(yield func(run) error) error
}

// run is a piece of a whole tensor, in its order, and where a column has it.
type run struct{ column, param, offset, n int }

// merge says how a layer with weights is put together.
type merge struct {
	groups int // 1: every map sees every input; else as many as columns
	inputs int // of a map, so a group's
}

// Form lists the tensors of a plan's whole network in its order: layer by layer, weight before bias.
func Form(plan *shard.Plan) ([]Tensor, error) {
	var out []Tensor
	names := map[string]string{MeanName: "the input"}
	for i := range plan.Layers {
		lp := &plan.Layers[i]
		name := portable(lp.Layer.Name)
		if other, ok := names[name]; ok {
			return nil, fmt.Errorf("%w: layer %s and %s would both be called %s; rename the layer", ErrModel, lp.Layer.Name,
				other, name)
		}
		names[name] = "layer " + lp.Layer.Name
		if lp.Layer.Kind != shard.Conv && lp.Layer.Kind != shard.Dense {
			continue
		}
		m, err := merged(plan, lp)
		if err != nil {
			return nil, err
		}
		shape := []int{lp.Layer.Maps, m.inputs}
		if lp.Layer.Kind == shard.Conv {
			shape = append(shape, lp.Layer.Kernel, lp.Layer.Kernel)
		}
		out = append(out,
			Tensor{Name: name + ".weight", Layer: lp.Layer.Name, Shape: shape,
				each: func(yield func(run) error) error { return eachWeight(plan, lp, yield) }},
			Tensor{Name: name + ".bias", Layer: lp.Layer.Name, Shape: []int{lp.Layer.Maps},
				each: func(yield func(run) error) error { return eachBias(plan, lp, yield) }})
	}
	return out, nil
}

// portable is a layer's name where a dot would part names.
func portable(name string) string { return strings.ReplaceAll(name, ".", "_") }

// merged looks at whose maps the columns' blocks meet.
func merged(plan *shard.Plan, lp *shard.LayerPlan) (merge, error) {
	own, total := true, 0
	for c := range lp.Columns {
		col := &lp.Columns[c]
		if col.Own.Count == 0 {
			own = false
			continue
		}
		n := 0
		for _, b := range col.Blocks {
			n += b.In.C
			if lp.Layer.Kind == shard.Dense {
				n += b.In.Len() - b.In.C
			}
		}
		if total != 0 && n != total {
			return merge{}, fmt.Errorf("%w: layer %s has %d inputs in one column and %d in another; such a layer has no form "+
				"that other programs know", ErrModel, lp.Layer.Name, total, n)
		}
		total = n
		own = own && len(col.Blocks) == 1 && col.Blocks[0].From == c && col.Own.Count*plan.Columns == lp.Layer.Maps
	}
	m := merge{groups: 1, inputs: total}
	if plan.Columns == 1 || !own {
		for c := range lp.Columns {
			if n := len(lp.Columns[c].Blocks); plan.Columns > 1 && n == 1 && lp.Columns[c].Blocks[0].From != shard.InputColumn {
				return m, fmt.Errorf("%w: layer %s sees its own column only and its maps are not split evenly; such a layer has "+
					"no form that other programs know", ErrModel, lp.Layer.Name)
			}
		}
		return m, nil
	}
	m.groups = plan.Columns
	return m, nil
}

// eachWeight goes through a layer's weights, map by map, and in each by ascending input column.
func eachWeight(plan *shard.Plan, lp *shard.LayerPlan, yield func(run) error) error {
	for c := range lp.Columns {
		col := &lp.Columns[c]
		if len(col.Blocks) == 1 { // its maps follow each other
			w := col.Blocks[0].Weight
			if err := yield(run{c, w, 0, plan.Params[c][w].Len()}); err != nil {
				return err
			}
			continue
		}
		for o := range col.Own.Count {
			for from := range plan.Columns {
				for _, b := range col.Blocks {
					if b.From != from {
						continue
					}
					n := plan.Params[c][b.Weight].Len() / col.Own.Count
					if err := yield(run{c, b.Weight, o * n, n}); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

func eachBias(plan *shard.Plan, lp *shard.LayerPlan, yield func(run) error) error {
	for c := range lp.Columns {
		if b := lp.Columns[c].Bias; b >= 0 {
			if err := yield(run{c, b, 0, plan.Params[c][b].Len()}); err != nil {
				return err
			}
		}
	}
	return nil
}
