// Chaos trains one job many times on a cluster of real processes, disturbs it in ways drawn from a seed, and wants the
// undisturbed run's digest every time. scripts/chaos builds and starts it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"colonnade/scripts/cluster"
)

// settings are the same for all runs.
type settings struct {
	dir                 string // of all runs
	coordinator, worker string // programs
	jobFile             string
	namespaces          bool
	want                string // the undisturbed digest; empty in the undisturbed run
}

type options struct {
	runs, faults, steps int
	seed                uint64
	json, loopback      bool
	merge               bool
	goodput, every      time.Duration
	want                string
	programs, dir       string
}

func main() {
	var o options
	flag.IntVar(&o.runs, "runs", 10, "how many `runs`")
	flag.Uint64Var(&o.seed, "seed", 1, "of the first run; the others follow")
	flag.BoolVar(&o.json, "json", false, "print JSON on standard output, and the table on standard error")
	flag.IntVar(&o.faults, "faults", 6, "faults in a run, if it lasts that long")
	flag.IntVar(&o.steps, "steps", 3000, "steps of the job")
	flag.BoolVar(&o.loopback, "loopback", false, "no network namespaces: no partitions, no full disks")
	flag.BoolVar(&o.merge, "merge", false, "run nothing: print one table of the files that --json wrote")
	flag.DurationVar(&o.goodput, "goodput", 0, "one run of alexnet-32 for so long, with a fault --every so often")
	flag.DurationVar(&o.every, "every", time.Minute, "of --goodput")
	flag.StringVar(&o.want, "want", "", "the undisturbed `digest`, where it is known: leaves out the undisturbed run")
	flag.StringVar(&o.programs, "programs", "bin", "directory of coordinator and worker")
	flag.StringVar(&o.dir, "dir", ".data/chaos", "where runs lie; those that fail stay there")
	flag.Parse()
	code, err := start(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		code = 1
	}
	os.Exit(code)
}

// start gets the process a network of its own, if it can have one.
func start(o options) (int, error) {
	if o.merge && flag.NArg() > 0 {
		s, err := merged(flag.Args())
		if err != nil {
			return 0, err
		}
		return s.print(o.json)
	}
	if o.goodput > 0 && (o.every < time.Second || o.goodput < o.every) {
		return 0, errors.New("--goodput wants a time of one --every at least, and that a second at least")
	}
	if flag.NArg() > 0 || o.merge || o.runs < 1 || o.faults < 0 || o.steps < 100 {
		return 0, errors.New("usage: scripts/chaos [--runs N] [--seed S] [--json]; see --help")
	}
	if cluster.Isolated() {
		if err := cluster.PrivateMounts(); err != nil {
			return 0, err
		}
		return all(o, true, nil)
	}
	why := "--loopback was given"
	if !o.loopback {
		code, err := cluster.Isolate()
		if err == nil {
			return code, nil
		}
		why = err.Error()
	}
	fmt.Fprintf(os.Stderr, "no network namespaces (%s): all on loopback, without partitions and full disks\n", why)
	return all(o, false, []string{"partitions, bad links and full disks: " + why})
}

// all does all runs.
func all(o options, namespaces bool, left []string) (int, error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := prepare(o, namespaces)
	if err != nil {
		return 0, err
	}
	can := func(n need) bool { return namespaces && (n != slows || tap()) }
	if namespaces && !tap() {
		left = append(left, "slow and lossy links: /dev/net/tun cannot be opened")
	}
	if o.goodput > 0 {
		return goodput(ctx, o, s, can, left)
	}
	still := &outcome{Digest: o.want}
	if o.want == "" {
		if still = disturb(ctx, s, plan{carrier: "auto"}); still.Trouble != "" {
			return 0, fmt.Errorf("undisturbed: %s; logs: %s", still.Trouble, still.Kept)
		}
		if ctx.Err() != nil {
			return 1, nil
		}
		fmt.Fprintf(os.Stderr, "undisturbed: %.1f s, digest %s\n", still.Seconds, still.Digest)
	}
	s.want = still.Digest
	var outcomes []*outcome
	for i := range o.runs {
		out := disturb(ctx, s, newPlan(o.seed+uint64(i), o.faults, can))
		if ctx.Err() != nil {
			break
		}
		outcomes = append(outcomes, out)
		said := "same digest"
		if out.Trouble != "" {
			said = "FAILED: " + out.Trouble + "; logs: " + out.Kept
		} else if err := os.RemoveAll(filepath.Join(s.dir, fmt.Sprintf("seed-%d", out.Seed))); err != nil {
			return 0, err
		}
		fmt.Fprintf(os.Stderr, "%s seed %d: %d faults, %d generations, %d steps again, %.1f s: %s\n",
			time.Now().Format("15:04:05"), out.Seed, len(out.Faults), out.Generations, out.Lost, out.Seconds, said)
	}
	sum := summarise(s.want, outcomes)
	sum.Undisturbed, sum.Left = still.Seconds, left
	return sum.print(o.json)
}

// goodput does one long run with a fault every so often. It has no digest to end in: the job does not end.
func goodput(ctx context.Context, o options, s settings, can func(need) bool, left []string) (int, error) {
	n := int(o.goodput / o.every)
	p := newPlan(o.seed, n, can)
	p.every, p.length = o.every, o.goodput
	out := disturb(ctx, s, p)
	if ctx.Err() != nil {
		return 1, nil
	}
	if out.Trouble == "" {
		if err := os.RemoveAll(filepath.Join(s.dir, fmt.Sprintf("seed-%d", out.Seed))); err != nil {
			return 0, err
		}
	}
	sum := summarise("", []*outcome{out})
	sum.Left = left
	return sum.print(o.json)
}

// tap says whether there are tap devices.
func tap() bool {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err == nil {
		f.Close()
	}
	return err == nil
}

// prepare writes the dataset and the job.
func prepare(o options, namespaces bool) (s settings, err error) {
	if s.dir, err = filepath.Abs(o.dir); err != nil {
		return s, err
	}
	programs, err := filepath.Abs(o.programs)
	if err != nil {
		return s, err
	}
	s.namespaces = namespaces
	s.coordinator, s.worker = filepath.Join(programs, "coordinator"), filepath.Join(programs, "worker")
	images := filepath.Join(s.dir, "images")
	if err := os.MkdirAll(images, 0o755); err != nil {
		return s, err
	}
	if err := cluster.Blobs(images, 1000); err != nil {
		return s, err
	}
	pack := filepath.Join(s.dir, "blobs.pack")
	if err := os.RemoveAll(pack); err != nil {
		return s, err
	}
	packing := exec.Command(s.worker, "data", "pack", "--from", images, "--split", "train", "--out", pack)
	if out, err := packing.CombinedOutput(); err != nil {
		return s, fmt.Errorf("worker data pack: %w: %s", err, out)
	}
	s.jobFile = filepath.Join(s.dir, "job.yaml")
	network, batch, steps, test := "tiny", 16, o.steps, ", test: "+pack
	if o.goodput > 0 { // steps without end, and no evaluations between them
		network, batch, steps, test = "alexnet-32", 32, 10_000_000, ""
	}
	return s, os.WriteFile(s.jobFile, fmt.Appendf(nil, `
job: %s
network: %s
columns: 2
seed: 5
data: {train: %s%s}
recipe: {batch: %d, steps: %d, rate: 0.01}
augment: {crop: random, flip: true}
checkpoint: {every: 100, keep: 4}
`, jobName, network, pack, test, batch, steps), 0o644)
}
