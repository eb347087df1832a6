package shard

// Kind is what a layer does.
type Kind string

// The kinds of layer a network file may name.
const (
	Conv    Kind = "conv"    // convolution with bias
	Dense   Kind = "dense"   // fully connected, with bias
	ReLU    Kind = "relu"    // max(x, 0); gradient 0 at exactly 0
	Tanh    Kind = "tanh"    // tanh(x)
	LRN     Kind = "lrn"     // local response normalisation
	Pool    Kind = "pool"    // max-pooling
	Dropout Kind = "dropout" // random zeroing while training
	Softmax Kind = "softmax" // softmax and cross-entropy over the gathered logits; always last
)

// Connect says which maps of the layer before it a conv or dense layer sees.
type Connect string

// Connectivities.
const (
	ConnectColumn Connect = "column" // the column's own maps
	ConnectAll    Connect = "all"    // every column's maps: an exchange comes before the layer
)

// Placement says which columns own a conv or dense layer's maps.
type Placement string

// Placements.
const (
	OnEvery Placement = "every" // the maps are split evenly over the columns
	OnFirst Placement = "first" // all maps live on column 0, as fc8 did in the 2012 source
)

// Rounding is how an output size that does not come out even is rounded.
type Rounding string

// Roundings.
const (
	RoundFloor Rounding = "floor" // the last partial window is left out
	RoundCeil  Rounding = "ceil"  // the last window overhangs bottom and right (layer.py:1004, :1164 of the source)
)

// Ties is where the gradient of a max-pooling window goes when several places hold its maximum.
type Ties string

// Tie rules.
const (
	TiesFirst Ties = "first" // to the first in row order
	TiesAll   Ties = "all"   // the whole gradient to every one (cuda-convnet's kLocalMaxUndo)
)

// Across is what a response normalisation sums over.
type Across string

// Normalisation neighbourhoods.
const (
	AcrossMaps  Across = "maps"  // Size neighbouring maps at one position (paper, section 3.3)
	AcrossSpace Across = "space" // Size x Size positions of one map (the source's cnorm)
)

// Scope is how far a normalisation across maps reaches.
type Scope string

// Scopes.
const (
	ScopeColumn Scope = "column" // never past the column's own maps, as the two-GPU source ran
	ScopeLayer  Scope = "layer"  // over all maps of the layer: Size/2 maps of halo cross between neighbouring columns
)

// Scaling is where dropout makes up for the units it removes.
type Scaling string

// Dropout scalings.
const (
	ScaleTest  Scaling = "test"  // outputs are multiplied by keep when not training (paper, section 4.2; the source)
	ScaleTrain Scaling = "train" // kept outputs are divided by keep while training
)

// Shape is the shape of one image's maps: Channels x Height x Width. A vector of n features is {n, 1, 1}.
type Shape struct{ C, H, W int }

// Len is the number of floats in a shape.
func (s Shape) Len() int { return s.C * s.H * s.W }

// Pad is zero padding in pixels on each side.
type Pad struct{ Top, Left, Bottom, Right int }

// Init is how a layer's parameters start: weights from N(0, Std^2), biases at Bias.
type Init struct {
	Std  float64
	Bias float64
}

// Factors multiply the recipe's learning rate and weight decay for one layer's weights and biases.
type Factors struct {
	Rate      float64 // on the recipe's rate, for weights
	BiasRate  float64 // on the recipe's rate, for biases
	Decay     float64 // on the recipe's decay, for weights
	BiasDecay float64 // on the recipe's decay, for biases
}

// Layer is one layer of a network over all its columns. Only the fields of its kind are set.
type Layer struct {
	Name string
	Kind Kind
	Line int // line in the network's file, for messages

	// conv, dense
	Maps    int // output maps (features) over all columns
	Connect Connect
	On      Placement
	Init    Init
	Factors Factors

	// conv, pool (and lrn across space: Size)
	Kernel int
	Stride int
	Pad    Pad
	Round  Rounding

	// pool
	Ties Ties

	// lrn: y = x * (K + A * sum x^2)^-Beta, where A is Alpha, or Alpha/Size (Size^2 across space) if AlphaOverSize.
	// The window of an even Size has its extra place on the low side: i-Size/2 .. i-Size/2+Size-1, clipped.
	Size          int
	Alpha         float64
	Beta          float64
	K             float64
	AlphaOverSize bool // the source's convention (layer.py:1183); false is the paper's equation
	Across        Across
	Scope         Scope

	// dropout
	Keep    float64 // probability that a unit is kept
	Scaling Scaling
}

// Input is what the network takes: images of Height x Width with one of Channels channel counts.
type Input struct {
	Channels []int // allowed channel counts, ascending; one entry once resolved
	Height   int
	Width    int
}

// Network is a network as its file has it. Build one with Embedded, Load or Parse; a Network is never changed after.
type Network struct {
	Name    string
	Title   string
	Input   Input
	Classes int // the softmax's classes; the last dense layer's maps
	Layers  []Layer
	File    string // where it was read from, for messages
}
