package cuda

// config is what options choose.
type config struct {
	tf32  bool
	slab  int64
	exact bool
}

// Option changes how a device is opened.
type Option func(*config)

// TF32 computes products on the tensor cores with operands rounded to 10 bits of mantissa (mma.tf32, sums in float32).
// It shows in Info.Numerics: a job does not go on from one kind of arithmetic to the other unless it is told to. It
// wants compute capability 8.0.
func TF32() Option { return func(c *config) { c.tf32 = true } }

// Exact gives every buffer an allocation of the driver's own, to the byte, with no canary words: for tests, where the
// emulated driver checks every access against the ends of allocations.
func Exact() Option { return func(c *config) { c.exact = true } }
