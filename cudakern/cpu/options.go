package cpu

// Option changes how the device computes. What changes the bits shows in Info.Numerics.
type Option func(*config)

// config is what options choose.
type config struct {
	winograd int  // a mode of engine.h: where Winograd's algorithm is used
	path     int  // a path of engine.h, -1 for the best
	threads  int  // that an op is cut among, 1 or more
	fine     bool // for tests: into the smallest pieces there can be
}

// Threads has every op done by n threads of this device, the calling one among them. It does not reach the bits.
func Threads(n int) Option { return func(c *config) { c.threads = n } }

// Direct has every convolution computed by the definition. Without it those of stride 1 by 3 x 3 and 5 x 5 filters, and
// those by 9 to 12 pixels at stride 4, go by Winograd's algorithm where that is faster: about twice as fast, with
// rounding errors about four times as large (DESIGN.md has both measured).
func Direct() Option { return func(c *config) { c.winograd = winogradOff } }

// The modes of engine.h, which tests hold against it.
const (
	winogradOff    = iota
	winogradAuto   // where it is expected to be faster
	winogradAlways // wherever it can be done
)
