package cudakern

// Settings are what a device is opened with, whatever its kind.
type Settings struct {
	// Threads is how many threads an op's work is shared out among, the calling one included; below 1 is 1. It never
	// reaches the bits, and so is not in Info.Numerics. A device that has no use for threads of the host ignores it.
	Threads int
	// Direct has every convolution computed by the definition, none by Winograd's algorithm: a job's `winograd: off`. It
	// shows in Info.Numerics of a device that would use Winograd's otherwise, and makes no difference to others.
	Direct bool
	// TF32 has products computed on tensor cores, with operands rounded to 10 bits of mantissa. It shows in Info.Numerics;
	// a device that has none refuses.
	TF32 bool
}
