package shard

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// checkPlan wants what must hold for every plan.
func checkPlan(t interface {
	Helper()
	Errorf(string, ...any)
}, p *Plan) {
	t.Helper()
	k := p.Columns
	before := []Span(nil) // by column: its maps of the layer before; nil at the input
	exchanges := 0
	for i := range p.Layers {
		l := &p.Layers[i]
		name := l.Layer.Name
		next := 0
		for c, col := range l.Columns {
			if l.Layer.Kind != Conv && l.Layer.Kind != Dense && before == nil {
				break // every column does all of it
			}
			if col.Own.Count > 0 && col.Own.First != next {
				t.Errorf("%s: column %d owns from map %d, want %d", name, c, col.Own.First, next)
			}
			next += col.Own.Count
			if col.Out.C != col.Own.Count {
				t.Errorf("%s: column %d owns %d maps but makes %v", name, c, col.Own.Count, col.Out)
			}
			checkBlocks(t, p, l, c, before)
		}
		if before != nil && next != l.Out.C {
			t.Errorf("%s: the columns own %d of %d maps", name, next, l.Out.C)
		}
		if l.Exchange >= 0 {
			exchanges++
			checkExchange(t, p, l, before)
		}
		if before == nil && l.Layer.Kind != Conv && l.Layer.Kind != Dense {
			continue
		}
		before = make([]Span, k)
		for c := range k {
			before[c] = l.Columns[c].Own
		}
	}
	if exchanges != len(p.Exchanges) || k == 1 && exchanges > 0 {
		t.Errorf("%d of %d exchanges come before a layer, %d columns", exchanges, len(p.Exchanges), k)
	}
	for c, params := range p.Params {
		offset := 0
		for _, q := range params {
			if q.Offset != offset {
				t.Errorf("column %d: %s lies at %d, want %d", c, q.Name, q.Offset, offset)
			}
			offset += q.Len()
		}
	}
}

// checkBlocks wants one block for each input column that has maps, own first, then the others in ascending cyclic
// order.
func checkBlocks(t interface {
	Helper()
	Errorf(string, ...any)
}, p *Plan, l *LayerPlan, column int, before []Span) {
	t.Helper()
	col := l.Columns[column]
	if l.Layer.Kind != Conv && l.Layer.Kind != Dense || col.Own.Count == 0 {
		return
	}
	want := []int{column}
	switch {
	case before == nil:
		want = []int{InputColumn}
	case l.Layer.Connect == ConnectAll:
		for i := 1; i < p.Columns; i++ {
			want = append(want, (column+i)%p.Columns)
		}
	}
	var got []int
	for _, b := range col.Blocks {
		got = append(got, b.From)
		q := p.Params[column][b.Weight]
		if q.From != b.From || q.Layer != l.Layer.Name || q.Shape[0] != col.Own.Count {
			t.Errorf("%s: column %d: block from %d has weights %+v", l.Layer.Name, column, b.From, q)
		}
		if before != nil && b.In.C != before[b.From].Count {
			t.Errorf("%s: column %d: block from %d takes %v of %d maps",
				l.Layer.Name, column, b.From, b.In, before[b.From].Count)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s: column %d sums blocks from %v, want %v", l.Layer.Name, column, got, want)
	}
}

// checkExchange wants every column with a part in the layer to get every other column's maps exactly once.
func checkExchange(t interface {
	Helper()
	Errorf(string, ...any)
}, p *Plan, l *LayerPlan, before []Span) {
	t.Helper()
	e := p.Exchanges[l.Exchange]
	got := map[[2]int]Span{}
	for _, m := range e.Moves {
		if _, twice := got[[2]int{m.From, m.To}]; twice || m.From == m.To {
			t.Errorf("%s: maps move from %d to %d twice or in place", e.Before, m.From, m.To)
		}
		got[[2]int{m.From, m.To}] = m.Maps
	}
	for to, col := range l.Columns {
		for from := range p.Columns {
			needed := from != to && col.Own.Count > 0 && before[from].Count > 0
			if maps, ok := got[[2]int{from, to}]; ok != needed || ok && maps != before[from] {
				t.Errorf("%s: from %d to %d move %v, owned are %v", e.Before, from, to, maps, before[from])
			}
		}
	}
}

func TestPlansHold(t *testing.T) {
	each(t, func(t *testing.T, name string, p *Plan) { checkPlan(t, p) })
}

// genNetwork draws networks whose maps divide into 1, 2 and 4 columns, up to the classes, with groups of four units
// each for dropout.
var genNetwork = rapid.Custom(func(t *rapid.T) *Network {
	n := &Network{Name: "random", File: "random", Input: Input{Channels: []int{rapid.IntRange(1, 4).Draw(t, "channels")},
		Height: rapid.IntRange(8, 20).Draw(t, "height"), Width: rapid.IntRange(8, 20).Draw(t, "width")}}
	add := func(l Layer) {
		l.Name = fmt.Sprintf("l%d", len(n.Layers))
		n.Layers = append(n.Layers, l)
	}
	weighted := false
	connect := func() Connect {
		if weighted && rapid.Bool().Draw(t, "all") {
			return ConnectAll
		}
		return ConnectColumn
	}
	maps := func() int { return 16 * rapid.IntRange(1, 4).Draw(t, "maps") }
	ones := Factors{1, 1, 1, 1}
	for range rapid.IntRange(0, 4).Draw(t, "convs") {
		add(Layer{Kind: Conv, Maps: maps(), Connect: connect(), On: OnEvery, Kernel: 3, Stride: 1, Pad: Pad{1, 1, 1, 1},
			Round: RoundFloor, Factors: ones})
		weighted = true
		switch rapid.IntRange(0, 3).Draw(t, "then") {
		case 0:
			add(Layer{Kind: ReLU})
		case 1:
			add(Layer{Kind: LRN, Size: 3, K: 1, Beta: 0.75, Across: AcrossMaps, Scope: ScopeColumn})
		case 2:
			add(Layer{Kind: Dropout, Keep: 0.5, Scaling: ScaleTest})
		}
	}
	for range rapid.IntRange(0, 2).Draw(t, "denses") {
		add(Layer{Kind: Dense, Maps: maps(), Connect: connect(), On: OnEvery, Factors: ones})
		weighted = true
	}
	on := OnEvery
	last := connect()
	if last == ConnectAll && rapid.Bool().Draw(t, "first") {
		on = OnFirst
	}
	add(Layer{Kind: Dense, Maps: rapid.IntRange(4, 11).Draw(t, "classes"), Connect: last, On: on, Factors: ones})
	add(Layer{Kind: Softmax})
	return n
})

func TestRandomPlansHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := genNetwork.Draw(t, "network")
		if err := n.check(); err != nil {
			t.Fatalf("the drawn network is wrong: %v", err)
		}
		digests := map[[32]byte]int{}
		for _, k := range []int{1, 2, 4} {
			p, err := NewPlan(n, k)
			if err != nil {
				t.Fatal(err)
			}
			checkPlan(t, p)
			digests[p.Digest()] = k
			again, _ := NewPlan(n, k)
			if again.Digest() != p.Digest() {
				t.Error("one network, two digests")
			}
		}
		if len(digests) != 3 {
			t.Error("different columns, one digest")
		}
	})
}

// TestDigestSeesArithmetic changes one thing at a time that reaches a weight.
func TestDigestSeesArithmetic(t *testing.T) {
	base := plan(t, "tiny", 3, 2).Digest()
	for i, change := range []func(*Network){
		func(n *Network) { n.Layers[0].Init.Std *= 2 }, func(n *Network) { n.Layers[0].Pad.Left++ },
		func(n *Network) { n.Layers[1].Alpha *= 2 }, func(n *Network) { n.Layers[1].AlphaOverSize = false },
		func(n *Network) { n.Layers[2].Ties = TiesFirst },
		func(n *Network) { n.Layers[2].Round = RoundFloor; n.Layers[2].Pad.Right++ },
		func(n *Network) { n.Layers[4].Factors.BiasRate = 3 }, func(n *Network) { n.Layers[12].Keep = 0.5 },
		func(n *Network) { n.Layers[12].Scaling = ScaleTrain },
	} {
		n := resolved(t, "tiny", 3)
		change(n)
		p, err := NewPlan(n, 2)
		if err != nil {
			t.Fatal(err)
		}
		if p.Digest() == base {
			t.Errorf("change %d is not in the digest", i)
		}
	}
	n := resolved(t, "tiny", 3)
	n.Name, n.File, n.Layers[0].Line = "other", "other", 99
	p, err := NewPlan(n, 2)
	if err != nil {
		t.Fatal(err)
	}
	if p.Digest() != base {
		t.Error("the name of a network, or where it was read, is in the digest")
	}
}
