package model

import (
	"fmt"

	"colonnade/shard"
)

// layer is one layer of the merged network in the terms of other programs.
type layer struct {
	*shard.Layer
	name    string
	in, out shard.Shape // of the whole layer
	merge               // conv, dense
	pad     shard.Pad   // conv, pool: with what the last window overhangs, so that sizes round down
	alpha   float64     // lrn: of each term of the sum
	parts   int         // lrn across maps: it is done in so many parts of the maps
}

// layers walks a plan.
func layers(plan *shard.Plan) ([]layer, error) {
	if _, err := Form(plan); err != nil { // names
		return nil, err
	}
	in := shard.Shape{C: plan.Network.Input.Channels[0], H: plan.Network.Input.Height, W: plan.Network.Input.Width}
	var out []layer
	for i := range plan.Layers {
		lp := &plan.Layers[i]
		l := layer{Layer: lp.Layer, name: portable(lp.Layer.Name), in: in, out: lp.Out}
		switch l.Kind {
		case shard.Conv, shard.Dense:
			m, err := merged(plan, lp)
			if err != nil {
				return nil, err
			}
			l.merge = m
			l.pad = overhang(l.Layer, in, lp.Out)
		case shard.Pool:
			l.pad = overhang(l.Layer, in, lp.Out)
		case shard.LRN:
			l.alpha, l.parts = l.Alpha, 1
			if l.AlphaOverSize && l.Across == shard.AcrossSpace {
				l.alpha /= float64(l.Size * l.Size)
			} else if l.AlphaOverSize {
				l.alpha /= float64(l.Size)
			}
			if l.Across == shard.AcrossMaps && l.Scope == shard.ScopeColumn && lp.Columns[0].Own.Count < in.C {
				l.parts = plan.Columns
			}
		case shard.ReLU, shard.Tanh, shard.Dropout, shard.Softmax:
		default:
			return nil, fmt.Errorf("%w: layer %s is of kind %s, which has no form in other programs yet", ErrModel, l.Name,
				l.Kind)
		}
		out = append(out, l)
		in = lp.Out
	}
	return out, nil
}

// overhang is a layer's padding with as much at the bottom and on the right as its windows reach.
func overhang(l *shard.Layer, in, out shard.Shape) shard.Pad {
	if l.Kind == shard.Dense {
		return shard.Pad{}
	}
	p := l.Pad
	p.Bottom = max(0, (out.H-1)*l.Stride+l.Kernel-in.H-p.Top)
	p.Right = max(0, (out.W-1)*l.Stride+l.Kernel-in.W-p.Left)
	return p
}
