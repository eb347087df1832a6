package tidy

// An importRule says what a package may import besides the standard library. The rule with the longest matching path
// holds. Paths of ours are relative to the module; "shard" is that package alone, "shard/..." the packages below it
// too.
type importRule struct {
	path  string
	ours  []string
	third []string // by prefix: a module or one of its packages
	tests []string // what test files may import on top, ours and third parties alike
	why   string
}

const (
	grpc     = "google.golang.org/grpc"
	protobuf = "google.golang.org/protobuf"
	rpcs     = "google.golang.org/genproto/googleapis/rpc" // details of gRPC errors
	yaml     = "go.yaml.in/yaml"
	bbolt    = "go.etcd.io/bbolt"
	xxh3     = "github.com/zeebo/xxh3"
	raft     = "github.com/hashicorp/raft"
	hclog    = "github.com/hashicorp/go-hclog"
	kong     = "github.com/alecthomas/kong"
	bar      = "github.com/schollz/progressbar"
	zstd     = "github.com/klauspost/compress"
	chromium = "github.com/chromedp" // drives a browser, for tests and pictures of the dashboard
	errgroup = "golang.org/x/sync/errgroup"
	unix     = "golang.org/x/sys/unix"
	term     = "golang.org/x/term"
)

// testing libraries are for every package's tests.
var testLibraries = []string{
	"github.com/google/go-cmp", "pgregory.net/rapid", "go.uber.org/goleak", "github.com/anishathalye/porcupine",
}

// importTable covers every package of the repository. Programs have a line of their own and not one for all that is
// below them, so that a new package of a program is asked what it needs; below a leaf the leaf's line holds.
var importTable = []importRule{
	// Leaves: they import nothing of ours, so that both programs, tests and tools can stand on them.
	{path: "proto/...", third: []string{grpc, protobuf}, tests: []string{"proto/..."},
		why: "contracts are read by every version of both programs: they know of nothing but their encoding"},
	{path: "shard/...", third: []string{yaml},
		why: "networks and plans are data; what depends on a machine, a device or a cluster is not theirs to know"},
	{path: "shard/job", ours: []string{"shard"}, third: []string{yaml},
		why: "a job names a network and is checked against it; the coordinator and the workers read it alike"},
	{path: "shard/pack",
		why: "the header of a pack: a job is resolved against it without the machinery that reads images"},
	{path: "cudakern/...",
		why: "the Device interface and its descriptors are shapes and numbers: a device needs nothing from above"},
	{path: "cudakern/ref", ours: []string{"cudakern", "cudakern/philox"}, tests: []string{"cudakern/kerntest"},
		why: "the oracle stands alone: a library it shared with a device would hide that library's faults"},
	{path: "cudakern/kerntest", ours: []string{"cudakern", "cudakern/philox", "cudakern/ref"},
		why: "the suite compares any device with the oracle and knows no device of its own"},
	{path: "cudakern/cpu", ours: []string{"cudakern", "cudakern/philox"},
		tests: []string{"cudakern/kerntest", "cudakern/ref"},
		why:   "C++ and its oneDNN stay behind the Device interface"},
	{path: "cudakern/cuda", ours: []string{"cudakern", "cudakern/philox"},
		third: []string{"gorgonia.org/cu", "github.com/NVIDIA/go-nvml", unix},
		tests: []string{"cudakern/kerntest", "cudakern/ref", "cudakern/cudaemu/..."},
		why:   "the driver stays behind the Device interface"},
	{path: "cudakern/cudaemu/...", tests: []string{"cudakern/cudaemu/..."},
		why: "starts the emulated driver for tests; it knows the driver's interface, in C++, and nothing of the device"},
	{path: "checkpoint", ours: []string{"shard"}, third: []string{bbolt, xxh3, unix},
		tests: []string{"checkpoint/disktest"},
		why:   "a file format with its verification; of ours it may know the names of parameters only"},
	{path: "checkpoint/tensors", third: []string{"google.golang.org/protobuf/encoding/protowire"},
		why: "formats of other programs: names, shapes and values, whatever they are of"},
	{path: "checkpoint/cli", third: []string{kong},
		why: "what both programs' command lines share; of commands it knows what kong knows"},
	{path: "checkpoint/cli/clitest", ours: []string{"checkpoint/cli"}, third: []string{kong},
		why: "makes command lines from the tree of commands, for both programs' tests"},
	{path: "checkpoint/disktest", why: "disks that fill up, for tests of whoever writes files"},
	{path: "checkpoint/bearer", why: "the secret of either program's HTTP port"},
	{path: "checkpoint/promtext", ours: []string{"proto/clusterpb"}, third: []string{unix},
		why: "Prometheus' text format for both programs: it writes numbers that it is given"},
	{path: "checkpoint/doctor", ours: []string{"checkpoint/cli"}, third: []string{unix},
		why: "looks at a machine for either program: what they need of it they say"},
	{path: "checkpoint/model", ours: []string{"checkpoint", "checkpoint/tensors", "shard/..."},
		why: "merges columns as the plan says and checks what comes back; computes nothing and asks nobody"},

	// The coordinator: decides and keeps the truth. It never computes, so no cudakern, and never imports the worker.
	{path: "coordinator", ours: []string{"coordinator/...", "proto/...", "shard/...", "checkpoint/..."},
		third: []string{kong, bar, errgroup, term, unix, grpc, protobuf, rpcs},
		why:   "the program: reads the configuration, wires its packages, is the command line; checks checkpoint files"},
	{path: "coordinator/fsm", ours: []string{"proto/commandpb"}, third: []string{protobuf},
		why: "the state is the same on every node, so it depends on commands only; raft is an adapter's matter"},
	{path: "coordinator/sched", ours: []string{"coordinator/fsm", "proto/commandpb"}, tests: []string{protobuf},
		why: "a decision is a function of the state and of sessions; it neither commits nor sends"},
	{path: "coordinator/control", ours: []string{"coordinator/fsm", "coordinator/sched", "proto/...", "shard/..."},
		third: []string{protobuf},
		why:   "the leader's loop turns decisions into commands through an interface: tests need no raft and no gRPC"},
	{path: "coordinator/raftnode", ours: []string{"coordinator/boltfile", "coordinator/fsm", "proto/commandpb"},
		third: []string{raft, hclog, bbolt, xxh3, unix, protobuf},
		why:   "the only package that knows raft and its files"},
	{path: "coordinator/boltfile", third: []string{bbolt},
		why: "what bbolt does with a damaged file, for all who keep one; it knows nothing of what is in it"},
	{path: "coordinator/history", ours: []string{"coordinator/boltfile", "coordinator/fsm", "proto/clusterpb"},
		third: []string{bbolt, xxh3, protobuf},
		why:   "keeps what it is told, beside the log; nothing that is decided depends on it"},
	{path: "coordinator/rpc", ours: []string{"coordinator/control", "coordinator/fsm", "coordinator/history",
		"coordinator/raftnode", "proto/...", "shard/..."},
		third: []string{grpc, protobuf, rpcs}, tests: []string{"coordinator/sched"},
		why: "validates, calls, maps errors; the wire's types end here"},
	{path: "coordinator/figures", ours: []string{"shard"},
		why: "draws plans, weights and curves that it is given: it asks nobody and knows no files"},
	{path: "coordinator/tensorboard", third: []string{"google.golang.org/protobuf/encoding/protowire"},
		why: "a format of files: it is given numbers and names"},
	{path: "coordinator/port",
		why: "tells protocols apart by a byte: it speaks none of them"},
	{path: "coordinator/plainjson", third: []string{protobuf},
		why: "prints any message; it knows none"},
	{path: "coordinator/web", ours: []string{"checkpoint/bearer", "checkpoint/promtext", "coordinator/fsm",
		"coordinator/plainjson", "proto/clusterpb", "shard/..."},
		third: []string{grpc, protobuf, rpcs, yaml},
		why:   "shows the state to people and to monitoring: it asks the leader as any other operator does"},
	{path: "coordinator/simtest/...", ours: []string{"checkpoint", "coordinator/...", "cudakern/...", "proto/...",
		"shard/...",
		"worker/..."},
		third: []string{raft, hclog, bbolt, grpc, protobuf, rpcs},
		why:   "tests only: a whole simulated cluster has both sides in it"},

	// The worker: computes. It meets the coordinator in proto only, so a cluster can be upgraded one program at a time.
	{path: "worker", ours: []string{"worker/...", "proto/...", "shard/...", "cudakern/...", "checkpoint/..."},
		third: []string{kong, errgroup, unix, grpc, protobuf},
		why:   "the program: opens devices, wires cells to sessions and exchanges, is the command line"},
	{path: "worker/otlp",
		why: "a format of OpenTelemetry's: it is given spans, and loses them rather than have anybody wait"},
	{path: "worker/session", ours: []string{"proto/clusterpb"}, third: []string{grpc, protobuf},
		why: "keeps the lease and carries messages; what they mean is the program's matter"},
	{path: "worker/arena", third: []string{xxh3, unix},
		why: "memory that outlives a process: it knows neither what lies in it nor who asks"},
	{path: "worker/buddy", ours: []string{"proto/exchangepb", "worker/arena"}, third: []string{grpc, protobuf, unix, xxh3},
		why: "keeps copies of states for other hosts and hands them over, fenced; when, and to whom, is not its matter"},
	{path: "worker/depot", ours: []string{"proto/exchangepb", "shard/pack"}, third: []string{grpc, unix},
		tests: []string{"checkpoint/disktest"},
		why:   "hands packs over and takes them in, verified; which pack is needed, and who may have it, is not its matter"},
	{path: "worker/train", ours: []string{"cudakern", "cudakern/philox", "shard/...", "checkpoint", "worker/data",
		"worker/exchange"},
		tests: []string{"cudakern/cpu", "cudakern/cuda", "cudakern/cudaemu/...", "cudakern/ref", "worker/arena",
			"checkpoint/disktest"},
		why: "a cell trains on any Device and over any Exchanger: it neither opens devices nor speaks to the coordinator"},
	{path: "worker/exchange", ours: []string{"cudakern", "proto/exchangepb"}, third: []string{grpc, protobuf, xxh3, unix},
		why: "moves bytes between cells, fenced; it knows no networks, and of devices only that some copy to each other"},
	{path: "worker/data", ours: []string{"cudakern", "cudakern/philox", "shard", "shard/job", "shard/pack",
		"worker/data/turbojpeg"},
		third: []string{zstd, unix}, tests: []string{"checkpoint/disktest"},
		why: "from images to packs to a step's batch: needs the order's random numbers and the device's view of an image"},
	{path: "worker/data/turbojpeg", why: "a JPEG decoder is called with bytes and gives pixels"},

	// Scripts: tools and tests from outside.
	{path: "scripts/...", ours: []string{"checkpoint/...", "coordinator/...", "cudakern/...", "proto/...",
		"scripts/browser", "scripts/cluster", "shard/...", "worker/..."},
		third: []string{grpc, protobuf, bbolt, xxh3, unix, errgroup, chromium},
		why:   "tests of the whole system and tools see both sides; nothing imports them"},
	{path: "scripts/tidy", why: "judges the tree from outside: it reads files and links none of them"},
}

// A cgoRule allows C++ in a package. Files with cgo must be left out of builds without the tag, if one is named.
type cgoRule struct{ path, tag, why string }

var cgoTable = []cgoRule{
	{"cudakern/cpu", "cgo", "oneDNN and kernels of our own are C++; without cgo a stub says how to build"},
	{"cudakern/cuda", "cuda", "the driver is a C library, and its headers are not everywhere"},
	{"worker/data/turbojpeg", "turbojpeg", "decoding is what loading photographs waits for; plain Go stays the default"},
}

// ownTags are the build tags of this repository. Everything must be in order with and without each.
var ownTags = map[string]string{
	"cuda":      "builds the CUDA device",
	"turbojpeg": "builds the JPEG decoder of a C library",
}

// givenTags are the toolchain's tags that files may ask for.
var givenTags = []string{"cgo", "linux", "unix", "amd64", "arm64", "race"}

// A pureRule names a tree without clock, randomness and goroutines.
type pureRule struct{ path, why string }

var pureTable = []pureRule{
	{"coordinator/fsm", "every node applies the same commands and must end with the same bytes"},
	{"coordinator/sched", "a decision can be tried on any state, at any time, and gives its reason again"},
	{"shard", "coordinator and workers make the same plan of the same job on their own"},
}

const (
	maxFunction = 70  // lines, from func to the closing brace
	maxColumns  = 120 // characters; a tab counts one
)

// wideData may have wide lines, each tree with its reason.
var wideData = map[string]string{
	"shard/networks": "a layer a line; and the text of a network is part of every job that names it, to the byte",
}

// vagueNames are no package's name: they say nothing of what is inside and so gather everything.
var vagueNames = []string{"util", "utils", "common", "types", "misc", "helper", "helpers", "lib", "base", "shared"}
