package shard

import (
	"slices"
	"testing"
)

// shapesOf are the output shapes of a plan's layers, and how many there are of each kind.
func shapesOf(p *Plan) (shapes map[string]Shape, kinds map[Kind]int) {
	shapes, kinds = map[string]Shape{}, map[Kind]int{}
	for _, l := range p.Layers {
		shapes[l.Layer.Name] = l.Out
		kinds[l.Layer.Kind]++
	}
	return shapes, kinds
}

// parameters and multiply-adds of all columns.
func totals(p *Plan) (params, macs int64) {
	for k := range p.Columns {
		params += p.Parameters(k)
		macs += p.MACs(k)
	}
	return params, macs
}

// TestAblations holds the networks of the paper's comparisons to counts made from the source's layer files, by hand.
func TestAblations(t *testing.T) {
	whole, wholeMACs := totals(plan(t, "alexnet-source", 3, 2))

	p := plan(t, "alexnet-no-lrn", 3, 2) // 148
	_, kinds := shapesOf(p)
	if params, macs := totals(p); kinds[LRN] != 0 || len(p.Layers) != 21 || params != whole || macs != wholeMACs {
		t.Errorf("alexnet-no-lrn: %v, %d parameters, %d multiply-adds", kinds, params, macs)
	}

	p = plan(t, "alexnet-tanh", 3, 2)
	_, kinds = shapesOf(p)
	if params, macs := totals(p); kinds[ReLU] != 0 || kinds[Tanh] != 7 || params != whole || macs != wholeMACs {
		t.Errorf("alexnet-tanh: %v, %d parameters, %d multiply-adds", kinds, params, macs)
	}

	p = plan(t, "alexnet-pool2", 3, 2) // 147: 55 to 28, 14, 7
	shapes, _ := shapesOf(p)
	for name, side := range map[string]int{"conv1": 55, "pool1": 28, "conv2": 28, "pool2": 14, "conv5": 14, "pool3": 7} {
		if s := shapes[name]; s.H != side || s.W != side {
			t.Errorf("alexnet-pool2: %s is %v, want %d", name, s, side)
		}
	}
	if params, _ := totals(p); params != whole+int64(49-36)*256*4096 {
		t.Errorf("alexnet-pool2 has %d parameters", params)
	}

	p = plan(t, "alexnet-half", 3, 1) // 145-half, in one column
	if params, macs := totals(p); params != 59_798_312 || macs != 391_514_384 {
		t.Errorf("alexnet-half: %d parameters, %d multiply-adds", params, macs)
	}

	p = plan(t, "alexnet-apart", 3, 2) // 150: one crossing, half of the last dense layer to column 0
	if len(p.Exchanges) != 1 || p.Exchanges[0].Before != "fc1000" ||
		p.Crossing(0, 1, true) != 0 || p.Crossing(1, 0, true) != 4096 {
		t.Errorf("alexnet-apart crosses %+v", p.Exchanges)
	}
	i := slices.IndexFunc(p.Layers, func(l LayerPlan) bool { return l.Layer.Name == "conv2" })
	if own := p.Layers[i].Columns[1].Own.Count; own != 160 {
		t.Errorf("alexnet-apart: conv2 has %d maps a column", own)
	}
	i = slices.IndexFunc(p.Layers, func(l LayerPlan) bool { return l.Layer.Name == "fc2048" })
	if l := p.Layers[i]; l.Columns[0].Own.Count != 4096 || l.Columns[0].In.Len() != 128*6*6 {
		t.Errorf("alexnet-apart: fc2048 has %d units a column, of %d", l.Columns[0].Own.Count, l.Columns[0].In.Len())
	}

	// 75*32+32, 800*32+32, 800*64+64, 1024*10+10.
	for name, of := range map[string]struct {
		kind Kind
		lrn  int
	}{"cifar10-4": {ReLU, 0}, "cifar10-4-lrn": {ReLU, 2}, "cifar10-4-tanh": {Tanh, 0}, "cifar10-4-lrn-tanh": {Tanh, 2}} {
		p = plan(t, name, 3, 1)
		shapes, kinds = shapesOf(p)
		if params, _ := totals(p); params != 2432+25632+51264+10250 || kinds[Conv] != 3 || kinds[Dense] != 1 ||
			shapes["pool3"] != (Shape{64, 4, 4}) || kinds[LRN] != of.lrn || kinds[of.kind] != 3 {
			t.Errorf("%s: %d parameters, %v, pool3 %v", name, params, kinds, shapes["pool3"])
		}
	}
}
