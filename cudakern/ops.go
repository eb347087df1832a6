package cudakern

// Pad is zero padding in pixels on each side.
type Pad struct{ Top, Left, Bottom, Right int }

// ConvDesc is a convolution of N images of In x H x W with Out filters of In x K x K. OutH and OutW are given, not
// derived, so that a last window may overhang bottom and right (ceil rounding of the source); what lies outside the
// image is zero. Window (i, j) starts at row i*Stride-Pad.Top, column j*Stride-Pad.Left. A descriptor whose Bottom or
// Right padding does not cover the last window is fine: overhang is zero whatever Pad says.
type ConvDesc struct {
	N, In, H, W     int
	Out, OutH, OutW int
	Kernel, Stride  int
	Pad             Pad
	Bias            bool // Forward adds a bias for each filter, BackwardWeights yields its gradient
	Accumulate      bool // Forward adds to what y holds instead of overwriting it
	ReLU            bool // Forward ends with max(y, 0)
	NoData          bool // BackwardData is never called (the first layer)
}

// Conv computes y = [y +] w * x [+ b] [then ReLU]. BackwardData and BackwardWeights take dy after the ReLU has been
// undone (see ReLU.Backward) and overwrite dx, dw and db.
type Conv interface {
	// Layouts wanted for x and dx, w and dw, y and dy. Bias and its gradient are Plain.
	Layouts() (x, w, y Layout)
	Forward(st Stream, x, w, b, y Buffer) error     // b is nil without Bias
	BackwardData(st Stream, dy, w, dx Buffer) error // dx = w^T * dy
	// dw = dy * x summed over images, not averaged; db nil without Bias
	BackwardWeights(st Stream, x, dy, dw, db Buffer) error
	Close()
}

// DenseDesc is a fully connected layer: N x In features to N x Out.
type DenseDesc struct {
	N, In, Out int
	Bias       bool
	Accumulate bool
	ReLU       bool
	NoData     bool
}

// Dense computes y = [y +] x w^T [+ b] [then ReLU]; w is Out x In. Contracts as for Conv.
type Dense interface {
	Layouts() (x, w, y Layout)
	Forward(st Stream, x, w, b, y Buffer) error
	BackwardData(st Stream, dy, w, dx Buffer) error
	BackwardWeights(st Stream, x, dy, dw, db Buffer) error
	Close()
}

// ReLUDesc is an elementwise rectifier on buffers of one shape and layout.
type ReLUDesc struct {
	Shape  Shape
	Layout Layout
}

// ReLU computes y = max(x, 0) and dx = dy where y > 0, else 0 (0 at exactly 0: neuron.cuh:163 of the source).
// In place (y is x, dx is dy) is allowed.
type ReLU interface {
	Forward(st Stream, x, y Buffer) error
	Backward(st Stream, y, dy, dx Buffer) error
	Close()
}

// TanhDesc is the hyperbolic tangent, elementwise, on buffers of one shape and layout.
type TanhDesc struct {
	Shape  Shape
	Layout Layout
}

// Tanh computes y = tanh(x), the paper's other nonlinearity (section 3.1), and dx = dy (1 - y) (1 + y). In place (y is
// x, dx is dy) is allowed. What is no number stays so.
type Tanh interface {
	Forward(st Stream, x, y Buffer) error
	Backward(st Stream, y, dy, dx Buffer) error
	Close()
}

// LRNDesc is a local response normalisation: y = x * (K + Alpha * S)^-Beta, with S the sum of x^2 over a window.
// Alpha multiplies the plain sum (the paper's equation, section 3.3); conventions that divide it by the window's size
// are resolved by the caller. Across maps the window of map i is i-Size/2 .. i-Size/2+Size-1, clipped to 0..C-1;
// Space means Size x Size positions of the same map around (y, x), window starting at -Size/2, clipped to the image.
// The backward window is the mirror image, so that it is the exact gradient for even Size too.
type LRNDesc struct {
	N, C, H, W     int
	Size           int
	K, Alpha, Beta float64
	Space          bool
}

// LRN normalises. Backward takes the x and y of the forward pass.
type LRN interface {
	Layouts() (x Layout) // for x, y, dx, dy
	Forward(st Stream, x, y Buffer) error
	Backward(st Stream, x, y, dy, dx Buffer) error
	Close()
}

// PoolDesc is max-pooling of N x C x H x W to N x C x OutH x OutW with Kernel x Kernel windows Stride apart, window
// (i, j) starting at (i*Stride-Pad.Top, j*Stride-Pad.Left), clipped to the image.
type PoolDesc struct {
	N, C, H, W     int
	OutH, OutW     int
	Kernel, Stride int
	Pad            Pad
	TiesAll        bool // gradient to every place equal to the maximum; false: to the first in row order
}

// Pool pools. Backward overwrites dx; overlapping windows add up.
type Pool interface {
	Layouts() (x, y Layout)
	Forward(st Stream, x, y Buffer) error
	Backward(st Stream, x, y, dy, dx Buffer) error
	Close()
}

// NormPoolDesc is a normalisation across maps and the pooling of what it yields: Pool's input is LRN's output.
type NormPoolDesc struct {
	LRN  LRNDesc
	Pool PoolDesc
	ReLU bool // x is what a rectifier left, and Backward goes on to the gradient before it: 0 where x is 0
}

// NormPool does LRN, Pool and the gradient of the ReLU before them in one pass over memory each way. Its bits are those
// of the separate ops. picks, made by AllocBytes(PickBytes()), brings from Forward to Backward where each window's
// maximum was; what is in it is the device's own.
type NormPool interface {
	Layouts() (x, y Layout)
	PickBytes() int
	Forward(st Stream, x, y, picks Buffer) error
	Backward(st Stream, x, picks, dy, dx Buffer) error
	Close()
}

// NormPooler is implemented by devices that have NormPool for some descriptors; for others it is ErrUnsupported, and
// LRN and Pool do it.
type NormPooler interface {
	NewNormPool(NormPoolDesc) (NormPool, error)
}

// DropoutDesc zeroes units of an N x Features tensor at random. A unit's fate is Philox4x32-10 with the key of the
// call: unit i of the column (0 <= i < Features, in canonical C,H,W order, whatever the layout), of the image in place
// n of the batch is word (i mod 4) of the block with counter {(FirstUnit+i)/4, FirstImage+n, step low, step high},
// where FirstUnit is a multiple of 4; it is kept where word < round(Keep * 2^32).
type DropoutDesc struct {
	Shape      Shape // {N, F} or {N, C, H, W}
	Layout     Layout
	Keep       float64
	FirstUnit  int  // the column's first unit in the whole layer
	FirstImage int  // the replica's first image in the whole batch
	ScaleTrain bool // kept units are divided by Keep (inverted dropout); false: as they are (the paper)
}

// Dropout drops. Forward and Backward of the same key and step draw the same mask. Infer is the test-time pass: y = x,
// times Keep unless ScaleTrain. In place is allowed everywhere.
type Dropout interface {
	Forward(st Stream, key, step uint64, x, y Buffer) error
	Backward(st Stream, key, step uint64, dy, dx Buffer) error
	Infer(st Stream, x, y Buffer) error
	Close()
}

// SoftmaxDesc is softmax and cross-entropy over N x Classes logits.
type SoftmaxDesc struct {
	N, Classes int
	Whole      int // images of the whole batch, where these are a replica's slice: what Backward divides by; 0: valid
}

// Softmax computes, for each image n with label t: p = softmax(logits) with the maximum subtracted, loss[n] = -ln p[t],
// dlogits = (p - onehot(t)) / N, and the image's credit: rank[n] is the number of logits greater than the label's and
// ties[n] the number of others equal to it, from which top-1 and top-5 with shared credit follow
// (layer_kernels.cu:96-118 of the source). Images from index `valid` on are padding: loss, dlogits 0, rank -1.
// Sums run in float64 in class order. Plain layouts.
type Softmax interface {
	// loss {N} float32; labels, rank, ties int32
	Forward(st Stream, logits, labels Buffer, valid int, loss, rank, ties Buffer) error
	Backward(st Stream, logits, labels Buffer, valid int, dlogits Buffer) error // divides by Whole, or by valid, not N
	Close()
}

// SGDDesc updates a parameter of one shape and layout.
type SGDDesc struct {
	Shape  Shape
	Layout Layout
}

// SGD is the paper's rule (section 5): v := momentum*v - decay*rate*w - rate*g; w := w + v. grad is the sum over the
// batch as Conv and Dense leave it when dlogits was already divided by the batch: no further scaling.
// w0, v0 are read, w1, v1 written (the two halves of an arena); w1 may be w0 and v1 may be v0.
type SGD interface {
	Update(st Stream, w0, v0, grad, w1, v1 Buffer, momentum, rate, decay float32) error
	Close()
}

// Watching is implemented by updates that look at what they write (CPU devices).
type Watching interface {
	// Finite says whether all values that the last Update wrote to w1 are finite numbers.
	Finite() bool
}

// AddDesc is dst += src on one shape and layout.
type AddDesc struct {
	Shape  Shape
	Layout Layout
}

// Add accumulates.
type Add interface {
	Run(st Stream, dst, src Buffer) error
	Close()
}

// ReorderDesc converts between two layouts of one shape, or of two shapes that are the same canonical elements: From
// {N,C,H,W} to {N,C*H*W} flattens and back.
type ReorderDesc struct {
	FromShape Shape
	From      Layout
	ToShape   Shape
	To        Layout
}

// Reorder copies src to dst in the other layout.
type Reorder interface {
	Run(st Stream, dst, src Buffer) error
	Close()
}

// ConcatDesc gathers the column parts of N x sum(Parts) features: part p of image n follows part p-1.
type ConcatDesc struct {
	N     int
	Parts []int
}

// Concat joins feature parts into one Plain buffer, or cuts one part out of it.
type Concat interface {
	Join(st Stream, dst Buffer, parts []Buffer) error
	Cut(st Stream, part Buffer, index int, src Buffer) error
	Close()
}

// InputDesc turns uint8 images N x C x H x W into the network's float input N x C x OutH x OutW.
type InputDesc struct {
	N, C, H, W int
	OutH, OutW int
	CentreMean bool // the centre of the mean is subtracted from every output, wherever in the image it is from
}

// View says how one image enters the network.
type View struct {
	Y, X  int32      // pixel of the image at the output's top left; may be negative or overhang: outside is 0
	Flip  bool       // mirrored left to right (after the crop)
	Shift [3]float32 // added to every pixel of each channel inside the image after the mean (PCA colour noise); 0 for none
}

// Input computes, for pixel inside the image, (pixel - mean at the same place of the image + Shift[c]) * Scale; with
// CentreMean, where an output is not larger than the image, the mean at output place (y, x) is that at
// ((H-OutH)/2 + y, (W-OutW)/2 + x), mirrored or not (as the 2012 source did: convdata_jpeg.py, lines 209 to 211);
// pixels outside the image are 0 (the mean colour). mean is C x H x W float32, Plain.
type Input interface {
	Layouts() (y Layout)
	Forward(st Stream, images Buffer, views []View, mean Buffer, scale float32, y Buffer) error
	Close()
}
