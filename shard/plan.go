package shard

// Span is a range of maps of a layer: First .. First+Count-1.
type Span struct{ First, Count int }

// InputColumn is the From of a block that reads the network's input, which every column holds whole.
const InputColumn = -1

// Plan says, for a resolved network and K columns, who computes, owns, sends and receives what.
type Plan struct {
	Network   *Network
	Columns   int
	Layers    []LayerPlan
	Exchanges []Exchange
	Params    [][]Param // by column, in canonical order: layer by layer, weight blocks by ascending input column, bias
}

// LayerPlan is one layer of a plan.
type LayerPlan struct {
	Layer    *Layer
	Out      Shape         // the whole layer's output
	Columns  []LayerColumn // by column
	Exchange int           // index in Plan.Exchanges of the exchange before this layer, or -1
}

// LayerColumn is one column's part of a layer. Own.Count is 0 for a column that has no part in it.
type LayerColumn struct {
	Own    Span    // the maps of Out that this column computes and owns
	In     Shape   // the column's own input: its maps of the layer before (zero if it has none)
	Out    Shape   // the column's own output: Own.Count maps
	Blocks []Block // conv, dense: one for each input column, in summation order
	Bias   int     // conv, dense: index in Plan.Params[column] of the bias; else -1
	MACs   int64   // multiply-adds an image, forward
}

// Block is the part of a conv or dense layer's weights that meets one input column's maps. Summation order is fixed:
// bias, own column, then the others in ascending cyclic order; gradients are summed in the same order.
type Block struct {
	From   int   // input column, or InputColumn
	In     Shape // maps taken from that column
	Weight int   // index in Plan.Params[column]
	MACs   int64 // multiply-adds an image, forward
}

// Exchange is one crossing of activations between columns, before the layer that needs them. Unless it is Logits, the
// gradients of the moved maps cross back along every move, reversed, in the backward pass.
type Exchange struct {
	ID     int    // its index in Plan.Exchanges
	Before string // the layer that needs the maps
	Of     string // the layer whose output moves
	Logits bool   // a gather of logits: nothing comes back, each column derives its own gradient from the whole softmax
	Moves  []Move // by From, then by To, ascending
}

// Move is what one column sends another in an exchange.
type Move struct {
	From, To int
	Maps     Span  // the maps of layer Of, counted over the whole layer
	Shape    Shape // of what moves, an image
}

// ParamKind tells weights from biases.
type ParamKind string

// Kinds of parameters.
const (
	Weight ParamKind = "weight"
	Bias   ParamKind = "bias"
)

// Param is one tensor of a column's parameters. Names are unique in a column: "conv3/w1" is the block of conv3's
// weights that meets column 1's maps ("conv1/w" where there is only one block, from the input or the own column),
// "conv3/b" its bias.
type Param struct {
	Name   string
	Layer  string
	Kind   ParamKind
	Shape  []int // weights: maps, input maps, kernel, kernel (dense: features out, features in); bias: maps
	From   int   // weights: input column, or InputColumn
	Offset int   // floats before it in the column's canonical order
	Init   Init
	Rate   float64 // factor on the recipe's rate
	Decay  float64 // factor on the recipe's decay
}

// Len is the number of floats in the parameter.
func (p Param) Len() int {
	n := 1
	for _, d := range p.Shape {
		n *= d
	}
	return n
}
