package shard

import (
	"crypto/sha256"
	"fmt"
	"strings"
)

// NewPlan splits a resolved network into columns.
func NewPlan(n *Network, columns int) (*Plan, error) {
	if len(n.Input.Channels) != 1 {
		return nil, &networkError{n.File, 0, "", fmt.Sprintf("the input may have %v channels; resolve the network for one",
			n.Input.Channels)}
	}
	if columns < 1 || columns > 64 {
		return nil, &networkError{n.File, 0, "", fmt.Sprintf("columns is %d; it must be between 1 and 64", columns)}
	}
	shapes, err := n.shapes(n.Input.Channels[0])
	if err != nil {
		return nil, err
	}
	p := &planner{n: n, plan: &Plan{Network: n, Columns: columns, Params: make([][]Param, columns)},
		offset: make([]int, columns)}
	p.before = Shape{n.Input.Channels[0], n.Input.Height, n.Input.Width}
	p.owned = make([]Span, columns)
	for i := range n.Layers {
		if err := p.layer(&n.Layers[i], shapes[i]); err != nil {
			return nil, err
		}
	}
	return p.plan, nil
}

// planner walks the layers.
type planner struct {
	n      *Network
	plan   *Plan
	before Shape  // the whole output of the layer before; the input at first
	owned  []Span // by column: its maps of the layer before
	source string // name of the layer before; empty at the input, which every column holds whole
	offset []int  // by column: floats of parameters so far
}

// own is the shape of a column's maps of the layer before.
func (p *planner) own(column int) Shape {
	if p.source == "" {
		return p.before
	}
	if p.owned[column].Count == 0 {
		return Shape{}
	}
	return Shape{p.owned[column].Count, p.before.H, p.before.W}
}

func (p *planner) layer(l *Layer, out Shape) error {
	k := p.plan.Columns
	if l.Kind == LRN && l.Scope == ScopeLayer && k > 1 && l.Across == AcrossMaps {
		return p.n.errorAt(l, "scope: layer would need a halo of maps from the neighbouring columns, which cells do not "+
			"exchange; use scope: column, or columns: 1")
	}
	lp := LayerPlan{Layer: l, Out: out, Columns: make([]LayerColumn, k), Exchange: -1}
	next := make([]Span, k)
	for c := range k {
		span, err := p.share(l, c)
		if err != nil {
			return err
		}
		if err := p.fours(l, span, c); err != nil {
			return err
		}
		next[c] = span
		col := LayerColumn{Own: span, In: p.own(c), Bias: -1}
		if span.Count > 0 {
			col.Out = Shape{span.Count, out.H, out.W}
		}
		lp.Columns[c] = col
	}
	if k > 1 && (l.Connect == ConnectAll || l.Kind == Softmax && p.owned[1].Count > 0) {
		lp.Exchange = p.exchange(l, next)
	}
	if l.Kind == Conv || l.Kind == Dense {
		for c := range k {
			p.weights(l, &lp.Columns[c], c)
		}
	}
	p.plan.Layers = append(p.plan.Layers, lp)
	p.before, p.owned, p.source = out, next, l.Name
	return nil
}

// share is a column's part of a layer's maps.
func (p *planner) share(l *Layer, column int) (Span, error) {
	k := p.plan.Columns
	switch l.Kind {
	case Conv, Dense:
		if l.On == OnFirst {
			if column == 0 {
				return Span{0, l.Maps}, nil
			}
			return Span{}, nil
		}
		if p.n.isLast(l) && l.Maps >= k { // classes come as the data has them: the first columns take one more
			return Span{column*(l.Maps/k) + min(column, l.Maps%k), l.Maps/k + min(1, max(0, l.Maps%k-column))}, nil
		}
		if l.Maps%k != 0 {
			return Span{}, p.n.errorAt(l, "%d maps do not divide into %d columns; use %s columns, or another number of maps",
				l.Maps, k, p.n.divisors())
		}
		return Span{column * l.Maps / k, l.Maps / k}, nil
	}
	if p.source == "" { // a layer without weights on the input: every column does all of it
		return Span{0, p.before.C}, nil
	}
	return p.owned[column], nil
}

// fours refuses a dropout layer in which a column's units do not begin at a multiple of four: random numbers come in
// fours, and two columns must not share one.
func (p *planner) fours(l *Layer, span Span, column int) error {
	area := p.before.H * p.before.W
	if l.Kind != Dropout || span.First*area%4 == 0 {
		return nil
	}
	least := 4 // maps a column must have a multiple of
	for least > 1 && least/2*area%4 == 0 {
		least /= 2
	}
	return p.n.errorAt(l, "column %d's units begin at %d, but units are dropped in groups of four; let the layer before "+
		"have a multiple of %d maps", column, span.First*area, least*p.plan.Columns)
}

// isLast says whether a layer is the one whose maps are the classes.
func (n *Network) isLast(l *Layer) bool { return l == &n.Layers[len(n.Layers)-2] }

// divisors lists the numbers of columns that the network's maps divide into, up to 8.
func (n *Network) divisors() string {
	var out []string
	for k := 1; k <= 8; k++ {
		ok := true
		for i := range n.Layers {
			l := &n.Layers[i]
			weighted := l.Kind == Conv || l.Kind == Dense
			ok = ok && (!weighted || l.On == OnFirst || l.Maps%k == 0 || n.isLast(l) && l.Maps >= k)
		}
		if ok {
			out = append(out, fmt.Sprint(k))
		}
	}
	if len(out) == 1 {
		return out[0]
	}
	return strings.Join(out[:len(out)-1], ", ") + " or " + out[len(out)-1]
}

// exchange adds the crossing of the maps before layer l: from every column that has some to every other column that
// has a part in l. A softmax gathers logits.
func (p *planner) exchange(l *Layer, next []Span) int {
	e := Exchange{ID: len(p.plan.Exchanges), Before: l.Name, Of: p.source, Logits: l.Kind == Softmax}
	for from := range p.owned {
		for to := range next {
			if from != to && p.owned[from].Count > 0 && next[to].Count > 0 {
				e.Moves = append(e.Moves, Move{From: from, To: to, Maps: p.owned[from], Shape: p.own(from)})
			}
		}
	}
	p.plan.Exchanges = append(p.plan.Exchanges, e)
	return e.ID
}

// weights adds a column's blocks and parameters.
func (p *planner) weights(l *Layer, col *LayerColumn, column int) {
	if col.Own.Count == 0 {
		return
	}
	k := p.plan.Columns
	from := []int{column} // summation order
	switch {
	case p.source == "":
		from = []int{InputColumn}
	case l.Connect == ConnectAll:
		for i := 1; i < k; i++ {
			from = append(from, (column+i)%k)
		}
	}
	index := map[int]int{}
	for c := InputColumn; c < k; c++ { // canonical order
		for _, f := range from {
			if f != c {
				continue
			}
			name := l.Name + "/w"
			if len(from) > 1 {
				name = fmt.Sprintf("%s/w%d", l.Name, c)
			}
			in := p.own(max(c, 0))
			shape := []int{col.Own.Count, in.Len()}
			if l.Kind == Conv {
				shape = []int{col.Own.Count, in.C, l.Kernel, l.Kernel}
			}
			index[c] = p.param(column, Param{Name: name, Layer: l.Name, Kind: Weight, Shape: shape, From: c,
				Init: l.Init, Rate: l.Factors.Rate, Decay: l.Factors.Decay})
		}
	}
	for _, f := range from {
		b := Block{From: f, In: p.own(max(f, 0)), Weight: index[f]}
		per := b.In.Len()
		if l.Kind == Conv {
			per = b.In.C * l.Kernel * l.Kernel
		}
		b.MACs = int64(per) * int64(col.Out.Len())
		col.Blocks = append(col.Blocks, b)
		col.MACs += b.MACs
	}
	col.Bias = p.param(column, Param{Name: l.Name + "/b", Layer: l.Name, Kind: Bias, Shape: []int{col.Own.Count},
		Init: l.Init, Rate: l.Factors.BiasRate, Decay: l.Factors.BiasDecay})
}

func (p *planner) param(column int, q Param) int {
	q.Offset = p.offset[column]
	p.offset[column] += q.Len()
	p.plan.Params[column] = append(p.plan.Params[column], q)
	return len(p.plan.Params[column]) - 1
}

// Parameters is the number of a column's parameters.
func (p *Plan) Parameters(column int) int64 {
	var n int64
	for _, q := range p.Params[column] {
		n += int64(q.Len())
	}
	return n
}

// MACs is the number of a column's multiply-adds an image, forward.
func (p *Plan) MACs(column int) int64 {
	var n int64
	for _, l := range p.Layers {
		n += l.Columns[column].MACs
	}
	return n
}

// Crossing is the number of floats an image that a column sends another in the forward pass; logits are counted only
// if asked for. The gradients that come back are as many, but for logits.
func (p *Plan) Crossing(from, to int, logits bool) int64 {
	var n int64
	for _, e := range p.Exchanges {
		for _, m := range e.Moves {
			if m.From == from && m.To == to && (logits || !e.Logits) {
				n += int64(m.Shape.Len())
			}
		}
	}
	return n
}

// planVersion changes whenever the meaning of a plan does.
const planVersion = 1

// Digest is the SHA-256 of everything that decides a column's arithmetic and the layout of its parameters. The
// network's name and where it was read from are not part of it.
func (p *Plan) Digest() [32]byte {
	h := sha256.New()
	n := p.Network
	fmt.Fprintf(h, "colonnade plan %d\ncolumns %d\ninput %d %d %d\n", planVersion, p.Columns, n.Input.Channels[0],
		n.Input.Height, n.Input.Width)
	for i := range p.Layers {
		l := *p.Layers[i].Layer
		l.Line = 0
		fmt.Fprintf(h, "layer %+v\n", l)
		fmt.Fprintf(h, "plan %+v exchange %d columns %+v\n", p.Layers[i].Out, p.Layers[i].Exchange, p.Layers[i].Columns)
	}
	fmt.Fprintf(h, "exchanges %+v\nparameters %+v\n", p.Exchanges, p.Params)
	return [32]byte(h.Sum(nil))
}
