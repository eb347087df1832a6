package train

import (
	"math"

	"colonnade/cudakern/philox"
	"colonnade/shard"
)

// fillInitial writes a parameter's initial values: biases at the layer's constant, weights from N(0, Std^2) (paper,
// section 5). A weight's number is keyed by its place in the layer's whole, undivided tensor (maps x input maps x
// kernel x kernel), so the same connection starts at the same value whatever the number of columns.
func fillInitial(dst []float32, plan *shard.Plan, column int, p shard.Param, seed uint64) {
	if p.Kind == shard.Bias {
		for i := range dst {
			dst[i] = float32(p.Init.Bias)
		}
		return
	}
	layer, in, firstIn, firstOut := place(plan, column, p)
	key := philox.Key(seed, philox.Init, uint64(layer))
	area := 1
	for _, d := range p.Shape[2:] {
		area *= d
	}
	ownIn := p.Shape[1]
	var g gaussian
	for o := range p.Shape[0] {
		row := dst[o*ownIn*area : (o+1)*ownIn*area]
		first := (uint64(firstOut+o)*uint64(in) + uint64(firstIn)) * uint64(area)
		for i := range row {
			row[i] = float32(p.Init.Std * g.at(key, first+uint64(i)))
		}
	}
}

// place finds a weight block in its layer's whole tensor: the layer's index, its input maps over all columns, and the
// block's first input and output map.
func place(plan *shard.Plan, column int, p shard.Param) (layer, in, firstIn, firstOut int) {
	for i := range plan.Layers {
		lp := &plan.Layers[i]
		if lp.Layer.Name != p.Layer {
			continue
		}
		own := lp.Columns[column]
		firstOut = own.Own.First
		if p.From == shard.InputColumn {
			return i, p.Shape[1], 0, firstOut
		}
		// Columns before p.From come first; every column's block has the shape of this one's.
		return i, p.Shape[1] * plan.Columns, p.Shape[1] * p.From, firstOut
	}
	panic("train: parameter " + p.Name + " belongs to no layer of its plan")
}

// gaussian draws numbers from N(0, 1) by the Box-Muller transform on Philox words: four numbers from a block.
type gaussian struct {
	key   uint64
	block uint64
	ok    bool
	n     [4]float64
}

// at returns number i of the stream of key.
func (g *gaussian) at(key, i uint64) float64 {
	if b := i / 4; !g.ok || b != g.block || key != g.key {
		g.key, g.block, g.ok = key, b, true
		w := philox.Block([4]uint32{uint32(b), uint32(b >> 32), 0, 0}, philox.Split(key))
		for j := 0; j < 4; j += 2 {
			r := math.Sqrt(-2 * math.Log((float64(w[j])+1)/(1<<32)))
			sin, cos := math.Sincos(2 * math.Pi * float64(w[j+1]) / (1 << 32))
			g.n[j], g.n[j+1] = r*cos, r*sin
		}
	}
	return g.n[i%4]
}
