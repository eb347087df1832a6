package browser

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"colonnade/proto/clusterpb"
	"colonnade/scripts/cluster"
)

// Rig is a cluster with dashboards and a dataset.
type Rig struct {
	*cluster.Cluster
	dir      string
	programs string
	launcher *cluster.Launcher
	network  *cluster.Network
}

// Programs is the directory of the two programs.
func (r *Rig) Programs() string { return r.programs }

// startLimit is how long everything may take to start.
const startLimit = 3 * time.Minute

// NewRig builds the programs, makes a dataset, and starts coordinators and workers below dir, the latter with flags of
// theirs. Close ends it.
func NewRig(ctx context.Context, dir string, coordinators, workers int, flags ...string) (r *Rig, err error) {
	r = &Rig{dir: dir, programs: filepath.Join(dir, "bin"), launcher: cluster.NewLauncher()}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	build := exec.CommandContext(ctx, "go", "build", "-o", r.programs+"/", "colonnade/coordinator", "colonnade/worker")
	if out, err := build.CombinedOutput(); err != nil {
		return r, fmt.Errorf("build: %w\n%s", err, out)
	}
	for _, d := range []string{"images", "memory"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return r, err
		}
	}
	if err := r.packs(ctx); err != nil {
		return r, err
	}
	r.network = cluster.Loopback(r.launcher, coordinators+workers)
	cfg := cluster.Config{Dir: dir, Memory: filepath.Join(dir, "memory"),
		Coordinator: filepath.Join(r.programs, "coordinator"), Worker: filepath.Join(r.programs, "worker"),
		Coordinators: coordinators, Workers: workers, Flags: []string{"--election-timeout", "500ms"},
		WorkerFlags: append([]string{"--threads", "1", "--checkpoints", filepath.Join(dir, "checkpoints")}, flags...)}
	for range coordinators {
		port, err := cluster.FreePort()
		if err != nil {
			return r, err
		}
		cfg.Pages = append(cfg.Pages, fmt.Sprintf("127.0.0.1:%d", port))
	}
	if r.Cluster, err = cluster.New(cfg, r.launcher, r.network); err != nil {
		return r, err
	}
	starting, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	return r, r.Start(starting)
}

// Close ends all processes.
func (r *Rig) Close() {
	if r.Cluster != nil {
		r.Cluster.Close()
	}
	if r.network != nil {
		r.network.Close()
	}
	r.launcher.Close()
}

// packs makes a dataset whose classes can be told apart.
func (r *Rig) packs(ctx context.Context) error {
	for name, images := range map[string]int{"train": 2000, "test": 300} {
		from := filepath.Join(r.dir, "images")
		if err := cluster.Blobs(from, images); err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, filepath.Join(r.programs, "worker"), "data", "pack", "--from", from, "--split",
			"train", "--out", filepath.Join(r.dir, name+".pack"))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("make a pack: %w\n%s", err, out)
		}
	}
	return nil
}

// URL is a page of a coordinator's dashboard.
func (r *Rig) URL(coordinator int, path string) string {
	return "http://" + r.Pages[coordinator] + path
}

// Submit hands a job of two columns in, with settings that are otherwise: key=value.
func (r *Rig) Submit(ctx context.Context, name string, steps int, rate float64, settings ...string) error {
	file := filepath.Join(r.dir, name+".yaml")
	text := fmt.Appendf(nil, `job: %s
network: alexnet-32
columns: 2
seed: 2012
data: {train: train.pack, test: test.pack}
recipe: {batch: 8, steps: %d, rate: %g, momentum: 0.9, schedule: [{step: 400, rate: %g}]}
augment: {crop: centre, scale: 0.0157}
evaluate: {every: 1}
checkpoint: {every: 50, keep: 4}
`, name, steps, rate, rate/4)
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return err
	}
	args := []string{"job", "submit", file, "--coordinator", r.Addresses()}
	for _, s := range settings {
		args = append(args, "--set", s)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(r.programs, "coordinator"), args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("submit %s: %w: %s", name, err, out)
	}
	return nil
}

// Examples has test images looked at with a job's newest checkpoint.
func (r *Rig) Examples(ctx context.Context, name string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(r.programs, "worker"), "examples", "--checkpoint",
		filepath.Join(r.dir, "checkpoints", name), "--among", "200", "--threads", "1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("look at examples: %w\n%s", err, out)
	}
	return nil
}

// Await waits until a job is as wanted.
func (r *Rig) Await(ctx context.Context, name, what string, wanted func(*clusterpb.Job) bool) (last *clusterpb.Job,
	err error) {
	limited, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	err = r.Until(limited, fmt.Sprintf("job %s %s", name, what), func(ctx context.Context) bool {
		j, err := r.Client.GetJob(ctx, &clusterpb.GetJobRequest{Name: name})
		if err == nil {
			last = j
		}
		return err == nil && wanted(j)
	})
	if err != nil && last != nil {
		err = errors.Join(err, fmt.Errorf("it is %s at step %d: %s", last.State, last.Step, last.Reason))
	}
	return last, err
}
