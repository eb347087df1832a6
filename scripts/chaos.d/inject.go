package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"colonnade/proto/clusterpb"
	"colonnade/scripts/cluster"
)

// inject does what a fault says, and plans its end.
func (r *run) inject(ctx context.Context, f *fault) (*injected, error) {
	i := &injected{Kind: f.kind.name, What: f.String(), Step: r.high(), at: time.Now()}
	i.At = i.at.Sub(r.began).Seconds()
	r.done = append(r.done, i)
	over, err := r.disturb(ctx, f, i)
	r.say("fault at step %d: %s", i.Step, i.What)
	if err != nil {
		return nil, err
	}
	mend := func() error {
		i.end = time.Now()
		r.say("over: %s", i.What)
		return over()
	}
	if over == nil { // nothing to mend
		i.end = time.Now()
	} else {
		r.in(f.hold, mend)
	}
	return i, nil
}

// disturb does it and returns what mends it, nil if nothing has to be mended.
func (r *run) disturb(ctx context.Context, f *fault, i *injected) (func() error, error) {
	all := r.everybody()
	switch f.kind.name {
	case "worker killed", "memory lost":
		w := r.training(f.pick)
		i.What += fmt.Sprintf(", worker-%d", w+1)
		r.kill(f, coordinators+w)
		if f.kind.name == "memory lost" {
			return nil, wipe(r.c.MemoryOf(w))
		}
	case "any worker killed":
		r.kill(f, coordinators+f.pick%workers)
	case "all workers killed":
		r.kill(f, all[coordinators:]...)
	case "everything killed":
		r.kill(f, all...)
	case "all coordinators killed":
		r.kill(f, all[:coordinators]...)
	case "coordinator killed":
		r.kill(f, f.pick%coordinators)
	case "leader killed":
		r.kill(f, r.leader(ctx, f, i))
	case "leader and worker killed":
		r.kill(f, r.leader(ctx, f, i), coordinators+r.training(f.pick))
	case "worker stopped":
		w := r.training(f.pick)
		i.What += fmt.Sprintf(", worker-%d", w+1)
		return r.stop(coordinators + w), nil
	case "all workers stopped":
		return r.stop(all[coordinators:]...), nil
	case "leader stopped":
		return r.stop(r.leader(ctx, f, i)), nil
	case "coordinator stopped":
		return r.stop(f.pick % coordinators), nil
	case "everything stopped":
		return r.stop(all...), nil
	case "checkpoint damaged":
		return nil, r.damage(ctx, f, i)
	case "unplugged":
		node := f.pick % nodes
		i.What += fmt.Sprintf(", node %d", node+1)
		return func() error { return r.network.Unplug(node, false) }, r.network.Unplug(node, true)
	case "disk full":
		node := f.pick % nodes
		delete(r.roomy, node)
		over, err := r.fill(r.fullDir(f.pick), i)
		return func() error {
			r.roomy[node] = true
			return over()
		}, err
	case "memory full":
		w := r.training(f.pick)
		over, err := r.fill(r.c.MemoryOf(w), i)
		r.kill(f, coordinators+w)
		return over, err
	case "slow links", "lossy links":
		return r.mend(f.links), r.network.Slow(f.quality, f.links...)
	default: // what cuts links
		return r.mend(f.links), r.network.Cut(f.links...)
	}
	return nil, nil
}

func (r *run) mend(links []cluster.Link) func() error {
	return func() error { return r.network.Mend(links...) }
}

func (r *run) everybody() (all []int) {
	for n := range nodes {
		all = append(all, n)
	}
	return all
}

// process is what runs on a node.
func (r *run) process(node int) *cluster.Process {
	if node < coordinators {
		return r.c.Coordinators[node]
	}
	return r.c.Workers[node-coordinators]
}

// training is a worker that has a cell, as far as is known.
func (r *run) training(pick int) int {
	j := r.last()
	if n := len(j.GetPlacement()); n > 0 {
		var w int
		if _, err := fmt.Sscanf(j.Placement[pick%n].WorkerName, "worker-%d", &w); err == nil && w >= 1 && w <= workers {
			return w - 1
		}
	}
	return pick % workers
}

// leader is the coordinator that leads, or any if none does.
func (r *run) leader(ctx context.Context, f *fault, i *injected) int {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	n := r.c.Leader(ctx)
	if n < 0 {
		n = f.pick % coordinators
	}
	i.What += fmt.Sprintf(", coordinator-%d", n+1)
	i.at, i.Step = time.Now(), r.high()
	return n
}

// kill kills what runs on nodes and has it started again when the plan says.
func (r *run) kill(f *fault, of ...int) {
	var dying []*cluster.Process
	for _, n := range of {
		p := r.process(n)
		r.expects[p] = true
		p.Signal(syscall.SIGKILL)
		dying = append(dying, p)
	}
	for _, p := range dying {
		<-p.Done()
	}
	for _, n := range of {
		r.in(f.back[n], func() error {
			r.say("start node %d", n+1)
			if n < coordinators {
				return r.c.StartCoordinator(n)
			}
			return r.c.StartWorker(n - coordinators)
		})
	}
}

// stop stops what runs on nodes and returns what has it go on.
func (r *run) stop(of ...int) func() error {
	var stopped []*cluster.Process
	for _, n := range of {
		p := r.process(n)
		p.Signal(syscall.SIGSTOP)
		stopped = append(stopped, p)
	}
	return func() error {
		for _, p := range stopped {
			p.Signal(syscall.SIGCONT)
		}
		return nil
	}
}

// damage flips a byte of the newest checkpoint, kills the workers and takes their memory.
func (r *run) damage(ctx context.Context, f *fault, i *injected) error {
	asking, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	list, err := r.c.Client.ListCheckpoints(asking, &clusterpb.GetJobRequest{Name: jobName})
	r.kill(f, r.everybody()[coordinators:]...)
	for w := range workers {
		if err := errors.Join(wipe(r.c.MemoryOf(w)), wipe(filepath.Join(r.c.WorkerDir(w), "arenas"))); err != nil {
			return err
		}
	}
	if n := len(list.GetCheckpoints()); err == nil && n > 0 {
		files := list.Checkpoints[n-1].Files
		file := files[f.pick%len(files)]
		found, err := filepath.Glob(filepath.Join(r.c.Dir, "worker-*", "checkpoints", filepath.FromSlash(file.Path)))
		if err != nil || len(found) == 0 {
			return err // retention was quicker
		}
		i.What += ", " + file.Path
		return flip(found[0], f.pick)
	}
	i.What += ", there was none"
	return nil
}

// flip inverts a bit somewhere in a file.
func flip(path string, pick int) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil || st.Size() == 0 {
		return err
	}
	b, at := make([]byte, 1), int64(pick)*7919%st.Size()
	if _, err := file.ReadAt(b, at); err != nil {
		return err
	}
	b[0] ^= 1
	_, err = file.WriteAt(b, at)
	return err
}

// wipe empties a directory, but for what fills it: that is another fault's, which may not be over.
func wipe(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.Name() != filling {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// filling is the file that fills a file system.
const filling = "filling"

// Sizes of file systems that are filled: with room for what a run needs.
const diskSize, memorySize = "size=192m", "size=96m"

// mount gives nodes that the plan fills file systems of their own.
func (r *run) mount(dir string) error {
	for _, f := range r.faults {
		if f.kind.name != "disk full" {
			continue
		}
		path := filepath.Join(dir, nodeName(f.pick%nodes))
		if err := r.tmpfs(path, diskSize); err != nil {
			return err
		}
	}
	return nil
}

func nodeName(node int) string {
	if node < coordinators {
		return fmt.Sprintf("coordinator-%d", node+1)
	}
	return fmt.Sprintf("worker-%d", node-coordinators+1)
}

func (r *run) fullDir(pick int) string { return filepath.Join(r.c.Dir, nodeName(pick%nodes)) }

// tmpfs mounts a file system at a path, unless there is one.
func (r *run) tmpfs(path, size string) error {
	for _, m := range r.mounted {
		if m == path {
			return nil
		}
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, size); err != nil {
		return fmt.Errorf("mount a small tmpfs at %s: %w", path, err)
	}
	r.mounted = append(r.mounted, path)
	return nil
}

// memory is the directory of cells' states.
func (r *run) memory(dir string) (string, error) {
	if r.namespaces {
		path := filepath.Join(dir, "memory")
		if err := os.MkdirAll(path, 0o755); err != nil {
			return "", err
		}
		for i := range workers {
			if i == 0 || r.apart {
				if err := r.tmpfs(filepath.Join(path, fmt.Sprintf("host-%d", i+1)), memorySize); err != nil {
					return "", err
				}
			}
		}
		return path, nil
	}
	path, err := os.MkdirTemp("/dev/shm", "colonnade-chaos-")
	if err != nil {
		return os.MkdirTemp(dir, "memory-")
	}
	return path, nil
}

// unmount takes file systems away again. If what is in them is still wanted, it is copied first.
func (r *run) unmount(wanted bool) (err error) {
	for _, path := range r.mounted {
		kept := path + ".kept"
		if wanted && !strings.Contains(path, "/memory/") {
			err = errors.Join(err, os.CopyFS(kept, os.DirFS(path)))
		}
		err = errors.Join(err, unix.Unmount(path, unix.MNT_DETACH))
	}
	return err
}

// fill takes all room of a file system; what it returns gives it back.
func (r *run) fill(dir string, i *injected) (func() error, error) {
	i.What += ", " + filepath.Base(dir)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, filling)
	file, err := os.Create(path)
	if err != nil && !errors.Is(err, unix.ENOSPC) {
		return nil, err
	}
	if err == nil {
		defer file.Close()
		err = unix.Fallocate(int(file.Fd()), 0, 0, int64(st.Bavail)*st.Bsize)
		page := make([]byte, st.Bsize)
		for err == nil || errors.Is(err, unix.ENOSPC) && st.Bavail > 0 { // what was taken or given back meanwhile
			st.Bavail = 0
			for _, err = file.Seek(0, 2); err == nil; {
				_, err = file.Write(page)
			}
		}
		if !errors.Is(err, unix.ENOSPC) {
			return nil, err
		}
	}
	return func() error { return os.Remove(path) }, nil
}
