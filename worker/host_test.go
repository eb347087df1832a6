package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"colonnade/cudakern"
	"colonnade/cudakern/ref"
	"colonnade/proto/clusterpb"
	"colonnade/proto/exchangepb"
	"colonnade/shard"
	"colonnade/shard/job"
	"colonnade/shard/pack"
	"colonnade/worker/buddy"
	"colonnade/worker/data"
	"colonnade/worker/depot"
	"colonnade/worker/exchange"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// idx writes a small IDX dataset and returns its directory.
func idx(t testing.TB, images int) string {
	t.Helper()
	const size = 12
	dir := t.TempDir()
	pixels := binary.BigEndian.AppendUint32([]byte{0, 0, 8, 3}, uint32(images))
	pixels = append(pixels, 0, 0, 0, size, 0, 0, 0, size)
	labels := binary.BigEndian.AppendUint32([]byte{0, 0, 8, 1}, uint32(images))
	for i := range images {
		labels = append(labels, byte(i%8))
		for p := range size * size {
			pixels = append(pixels, byte((i%8*31+p*7+i*p%13)>>1))
		}
	}
	for name, b := range map[string][]byte{"train-images-idx3-ubyte": pixels, "train-labels-idx1-ubyte": labels} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// makePack packs a small dataset.
func makePack(t testing.TB, images int) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "test.pack")
	_, err := data.MakePack(context.Background(), data.PackOptions{From: idx(t, images), Split: "train", Out: out})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// makeJob is a job of eight steps in two columns, with a checkpoint every third step.
func makeJob(t testing.TB, packPath string, change func(*job.Job)) *job.Job {
	t.Helper()
	j, err := job.Parse("job.yaml", []byte(fmt.Sprintf(`
job: test
network: tiny
columns: 2
seed: 7
data: {train: %s}
recipe: {batch: 4, epochs: 2, rate: 0.02}
checkpoint: {every: 3}
`, packPath)))
	if err != nil {
		t.Fatal(err)
	}
	h, err := pack.ReadFile(packPath)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(j)
	}
	text, err := shard.EmbeddedText("tiny")
	if err != nil {
		t.Fatal(err)
	}
	err = j.Resolve(text, &job.Pack{Path: packPath, ID: fmt.Sprintf("%x", h.ID), Images: h.Images, Channels: h.Channels,
		Height: h.Height, Width: h.Width, Classes: len(h.Classes)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// testHost is a worker without a session: the test is its coordinator.
type testHost struct {
	*host
	t       *testing.T
	server  *grpc.Server
	served  chan struct{}
	cancel  context.CancelCauseFunc
	reports chan *clusterpb.Report
	seen    []*clusterpb.Report

	mu      sync.Mutex
	devices []*openedDevice // in the order they were opened
}

// openedDevice is a device, what it was opened with, and whether it is closed.
type openedDevice struct {
	cudakern.Device
	with   cudakern.Settings
	closed atomic.Bool
}

// Info is the reference's, but that what was opened without Winograd's algorithm says so, as other devices do.
func (d *openedDevice) Info() cudakern.Info {
	info := d.Device.Info()
	if d.with.Direct {
		info.Numerics += "/direct"
	}
	return info
}

func (d *openedDevice) Close() error {
	if d.closed.Swap(true) {
		return errors.New("closed twice")
	}
	if n := d.Live(); n != 0 {
		return fmt.Errorf("%d things are still alive", n)
	}
	return d.Device.Close()
}

// opened are the devices that were opened so far.
func (h *testHost) opened() []*openedDevice {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.devices)
}

func startHost(t *testing.T, id string) *testHost {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	mesh := exchange.New(exchange.Config{Worker: id, Log: log})
	h := &testHost{t: t, server: mesh.NewServer(), served: make(chan struct{}),
		reports: make(chan *clusterpb.Report, 1000)}
	root := t.TempDir()
	exchange.RegisterFiles(h.server, root)
	open := func(s cudakern.Settings) (cudakern.Device, error) {
		h.mu.Lock()
		defer h.mu.Unlock()
		d := &openedDevice{Device: ref.New(), with: s}
		h.devices = append(h.devices, d)
		return d, nil
	}
	h.host = &host{open: open, threads: 1, mesh: mesh, root: root, packs: t.TempDir(), worker: id,
		address: l.Addr().String(), log: log, runs: map[string]*assignment{}, ended: map[string]uint64{},
		finished: map[string]bool{}, copies: buddy.New(nil), buddies: buddy.NewClient(),
		report: func(r *clusterpb.Report) { h.reports <- r }}
	depot.Register(h.server, h.holds)
	h.ctx, h.cancel = context.WithCancelCause(context.Background())
	go func() {
		defer close(h.served)
		if err := h.server.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serve: %v", err)
		}
	}()
	t.Cleanup(func() {
		h.cancel(errors.New("the test is over"))
		h.wait()
		h.server.Stop()
		<-h.served
		mesh.Close()
		h.buddies.Close()
		for _, d := range h.opened() {
			if !d.closed.Load() || d.Live() != 0 {
				t.Errorf("worker %s: a device with %d things alive, closed: %v", id, d.Live(), d.closed.Load())
			}
		}
	})
	return h
}

// next returns the next report that fits, and keeps all.
func (h *testHost) next(fits func(*clusterpb.Report) bool) *clusterpb.Report {
	h.t.Helper()
	for timeout := time.After(time.Minute); ; {
		select {
		case r := <-h.reports:
			h.seen = append(h.seen, r)
			if fits(r) {
				return r
			}
		case <-timeout:
			h.t.Fatalf("worker %s: waited in vain; reports: %v", h.worker, h.seen)
		}
	}
}

// until waits for a status of the worker's cells.
func (h *testHost) until(what string, fits func([]*clusterpb.CellStatus) bool) {
	h.t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	timeout := time.After(time.Minute)
	for !fits(h.Cells()) {
		select {
		case <-tick.C:
		case <-timeout:
			h.t.Fatalf("waited in vain: %s; status %v", what, h.Cells())
		}
	}
}

// ended waits until no generation runs.
func (h *testHost) idle() {
	h.t.Helper()
	h.until("nothing runs", func([]*clusterpb.CellStatus) bool { return len(h.Running()) == 0 })
}

func finished(r *clusterpb.Report) bool { return r.GetFinished() != nil }
func stopped(r *clusterpb.Report) bool  { return r.GetStopped() != nil }
func failed(r *clusterpb.Report) bool   { return r.GetFailed() != nil }

// assign is a generation with cell i on hosts[i].
func assign(j *job.Job, generation uint64, on *testHost, hosts ...*testHost) *clusterpb.Assign {
	a := &clusterpb.Assign{Job: j.Name, Generation: generation, Spec: j.Encode()}
	for i, h := range hosts {
		c := &clusterpb.Cell{Column: int32(i)}
		a.Placement = append(a.Placement, &clusterpb.Placement{Cell: c, Worker: h.worker, Address: h.address})
		if h == on {
			a.Cells = append(a.Cells, c)
		}
	}
	return a
}

// manifest is what the coordinator would commit of the reports of a step.
func manifest(j *job.Job, step uint64, address bool, hosts ...*testHost) *clusterpb.Manifest {
	m := &clusterpb.Manifest{Job: j.Name, Step: step, Numerics: ref.New().Info().Numerics}
	for _, h := range hosts {
		for _, r := range h.seen {
			if w := r.GetCheckpoint(); w != nil && w.Step == step {
				f := w.File
				if address {
					f.Address = h.address
				}
				m.Files = append(m.Files, f)
			}
		}
	}
	return m
}

// digests are those of finished cells, by column.
func digests(hosts ...*testHost) map[int32]string {
	out := map[int32]string{}
	for _, h := range hosts {
		for _, r := range h.seen {
			if f := r.GetFinished(); f != nil {
				out[f.Cell.Column] = fmt.Sprintf("%x", f.Digest)
			}
		}
	}
	return out
}

// trained runs a whole job with one cell on each of two workers.
func trained(t *testing.T, j *job.Job) (a, b *testHost) {
	t.Helper()
	a, b = startHost(t, "a"), startHost(t, "b")
	for _, h := range []*testHost{a, b} {
		h.Assign(assign(j, 1, h, a, b))
	}
	a.next(finished)
	b.next(finished)
	a.idle()
	b.idle()
	return a, b
}

func TestAnAssignmentFromStartToEnd(t *testing.T) {
	j := makeJob(t, makePack(t, 16), nil)
	a, b := trained(t, j)
	for _, h := range []*testHost{a, b} {
		var kinds []string
		for _, r := range h.seen {
			if r.Job != "test" || r.Generation != 1 {
				t.Errorf("report of %s, generation %d", r.Job, r.Generation)
			}
			kinds = append(kinds, strings.TrimPrefix(fmt.Sprintf("%T", r.Kind), "*clusterpb.Report_"))
		}
		if want := []string{"Checkpoint", "Checkpoint", "Checkpoint", "Finished"}; !slices.Equal(kinds, want) {
			t.Errorf("worker %s reports %v, want %v", h.worker, kinds, want)
		}
	}
	one := startHost(t, "one")
	one.Assign(assign(j, 1, one, one, one))
	one.next(finished)
	one.next(finished)
	if got, want := digests(one), digests(a, b); len(want) != 2 || !maps.Equal(got, want) {
		t.Errorf("on one worker: %v, on two: %v", got, want)
	}
	one.Assign(assign(j, 1, one, one, one)) // a coordinator that has not heard yet
	one.idle()
	if len(one.reports) > 0 {
		t.Error("a generation that has ended was run again")
	}
}

// TestResumeElsewhere goes on with cells swapped: each worker fetches the other's file.
func TestResumeElsewhere(t *testing.T) {
	j := makeJob(t, makePack(t, 16), nil)
	a, b := trained(t, j)
	want := digests(a, b)
	m := manifest(j, 3, true, a, b)
	// What lies under the name on the other worker is damaged: the copy is fetched anew.
	path := filepath.Join(a.root, filepath.FromSlash(m.Files[1].Path))
	if err := os.WriteFile(path, []byte("damaged"), 0o644); err != nil {
		t.Fatal(err)
	}
	a.seen, b.seen = nil, nil
	for _, h := range []*testHost{a, b} {
		as := assign(j, 2, h, b, a)
		as.Restore = []*clusterpb.Manifest{m}
		h.Assign(as)
	}
	a.next(finished)
	b.next(finished)
	if got := digests(a, b); !maps.Equal(got, want) {
		t.Errorf("resumed elsewhere: %v, want %v", got, want)
	}
	if left, _ := filepath.Glob(filepath.Join(a.root, "*", "*", "*.tmp")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// silentFiles is a worker that takes requests for files and never answers.
type silentFiles struct {
	exchangepb.UnimplementedFilesServer
	asked chan struct{}
}

func (s silentFiles) Fetch(_ *exchangepb.FetchRequest, out grpc.ServerStreamingServer[exchangepb.FetchChunk]) error {
	s.asked <- struct{}{}
	<-out.Context().Done()
	return nil
}

// startSilentFiles serves them.
func startSilentFiles(t *testing.T) (address string, asked chan struct{}) {
	t.Helper()
	f := silentFiles{asked: make(chan struct{}, 10)}
	return serve(t, func(s *grpc.Server) { exchangepb.RegisterFilesServer(s, f) }), f.asked
}

// restoring assigns a generation that is stuck fetching a checkpoint file from another worker.
func restoring(t *testing.T, h *testHost, j *job.Job, generation uint64) {
	t.Helper()
	address, asked := startSilentFiles(t)
	as := assign(j, generation, h, h, h)
	m := &clusterpb.Manifest{Job: j.Name, Step: 3, Numerics: ref.New().Info().Numerics}
	for i := range 2 {
		m.Files = append(m.Files, &clusterpb.CheckpointFile{Cell: &clusterpb.Cell{Column: int32(i)}, Worker: "gone",
			Path: fmt.Sprintf("test/000000000003/r0c%d.g1.ckpt", i), Bytes: 1,
			Xxh3: make([]byte, 16), Digest: make([]byte, 32), Address: address})
	}
	as.Restore = []*clusterpb.Manifest{m}
	h.Assign(as)
	<-asked
}

// TestWhatComesWhileRestoring revokes, replaces and ends a worker whose cell is stuck in restoring its state.
func TestWhatComesWhileRestoring(t *testing.T) {
	j := makeJob(t, makePack(t, 16), nil)
	t.Run("status", func(t *testing.T) {
		h := startHost(t, "h")
		restoring(t, h, j, 4)
		cells := h.Cells()
		if len(cells) != 2 || cells[0].Phase != phaseRestore || cells[0].Step != 3 || cells[0].Generation != 4 {
			t.Errorf("status %v", cells)
		}
		if r := h.Running(); len(r) != 1 || r[0].Generation != 4 {
			t.Errorf("running %v", r)
		}
	})
	t.Run("revoke", func(t *testing.T) {
		h := startHost(t, "h")
		restoring(t, h, j, 4)
		h.Revoke(&clusterpb.Revoke{Job: j.Name, Generation: 4})
		h.idle()
		if len(h.reports) > 0 {
			t.Errorf("a revoked generation reports %v", <-h.reports)
		}
		h.Assign(assign(j, 4, h, h, h))
		if len(h.Running()) != 0 {
			t.Error("a revoked generation was taken up again")
		}
	})
	t.Run("an old revocation", func(t *testing.T) {
		h := startHost(t, "h")
		h.Assign(assign(j, 4, h, h, h))
		h.Revoke(&clusterpb.Revoke{Job: j.Name, Generation: 3})
		h.next(finished)
		h.next(finished)
	})
	t.Run("newer", func(t *testing.T) {
		h := startHost(t, "h")
		restoring(t, h, j, 4)
		h.Assign(assign(j, 5, h, h, h))
		h.Assign(assign(j, 4, h, h, h)) // late
		h.next(finished)
		h.next(finished)
		for _, r := range h.seen {
			if r.Generation != 5 || failed(r) {
				t.Errorf("reported %v", r)
			}
		}
	})
	t.Run("end", func(t *testing.T) {
		h := startHost(t, "h")
		restoring(t, h, j, 4)
		h.cancel(errors.New("terminated"))
		h.wait()
		h.Assign(assign(j, 5, h, h, h))
		h.Dropped([]*clusterpb.Manifest{{Job: j.Name, Step: 3}})
		if len(h.reports) > 0 || len(h.Running()) > 0 {
			t.Errorf("%d reports, running %v after the end", len(h.reports), h.Running())
		}
	})
}

// TestAStopBeforeTheCellsRun is not forgotten: the cells stop at their first boundary.
func TestAStopBeforeTheCellsRun(t *testing.T) {
	j := makeJob(t, makePack(t, 16), nil)
	a, b := startHost(t, "a"), startHost(t, "b")
	a.Assign(assign(j, 1, a, a, b))
	a.until("it waits for its peer", func(cells []*clusterpb.CellStatus) bool {
		return len(cells) == 1 && cells[0].Phase == "wait for cell r0c1 on worker b"
	})
	a.Stop(&clusterpb.Stop{Job: j.Name, Generation: 2}) // of another generation
	a.Stop(&clusterpb.Stop{Job: j.Name, Generation: 1})
	b.Assign(assign(j, 1, b, a, b))
	ra, rb := a.next(stopped), b.next(stopped)
	if ra.GetStopped().Step != 1 || rb.GetStopped().Step != 1 {
		t.Errorf("stopped after steps %d and %d", ra.GetStopped().Step, rb.GetStopped().Step)
	}
	if m := manifest(j, 1, false, a, b); len(m.Files) != 2 {
		t.Errorf("%d files of the step it stopped at", len(m.Files))
	}
}

// TestANewerGenerationReplacesOneStuckInAnExchange has a worker wait for a peer that has left for a newer generation.
func TestANewerGenerationReplacesOneStuckInAnExchange(t *testing.T) {
	j := makeJob(t, makePack(t, 16), nil)
	h := startHost(t, "h")
	elsewhere := &testHost{host: &host{worker: "away", address: "127.0.0.1:1"}}
	h.Assign(assign(j, 1, h, h, elsewhere))
	h.until("it waits", func(cells []*clusterpb.CellStatus) bool {
		return len(cells) == 1 && strings.Contains(cells[0].Phase, "away")
	})
	h.Assign(assign(j, 2, h, h, elsewhere))
	h.Assign(assign(j, 3, h, h, h))
	h.next(finished)
	h.next(finished)
	if slices.ContainsFunc(h.seen, failed) {
		t.Errorf("reports %v", h.seen)
	}
}

// TestALostPeerIsNamed kills one worker in the middle of a job.
func TestALostPeerIsNamed(t *testing.T) {
	j := makeJob(t, makePack(t, 16), func(j *job.Job) { j.Recipe.Epochs = 1000 })
	a, b := startHost(t, "a"), startHost(t, "b")
	for _, h := range []*testHost{a, b} {
		h.Assign(assign(j, 1, h, a, b))
	}
	a.until("it trains", func(cells []*clusterpb.CellStatus) bool { return len(cells) == 1 && cells[0].Step > 2 })
	if c := a.Cells()[0].Carrier; c != "shm" {
		t.Errorf("carrier %q", c)
	}
	b.server.Stop() // its connections break: each end notices on its own, or hears of it from the other
	for h, peer := range map[*testHost]string{a: "cell r0c1 on worker b", b: "cell r0c0 on worker a"} {
		f := h.next(failed).GetFailed()
		if f.Suspect == h.worker || f.Suspect == "" || f.Permanent || f.Step == 0 ||
			!strings.Contains(f.Reason, peer+" is lost") || strings.Contains(f.Reason, "\n") {
			t.Errorf("worker %s reported %v", h.worker, f)
		}
	}
}

// TestACarrierThatCannotBeHadIsFinal asks one worker for shared memory and the other for gRPC.
func TestACarrierThatCannotBeHadIsFinal(t *testing.T) {
	j := makeJob(t, makePack(t, 16), nil)
	a, b := startHost(t, "a"), startHost(t, "b")
	a.carrier, b.carrier = exchange.CarrierSHM, exchange.CarrierGRPC
	for _, h := range []*testHost{a, b} {
		h.Assign(assign(j, 1, h, a, b))
	}
	f := a.next(failed).GetFailed()
	if !f.Permanent || f.Suspect != "" || !strings.Contains(f.Reason, "no shared memory with cell r0c1 on worker b: ") ||
		!strings.Contains(f.Reason, "use --carrier auto") || strings.Contains(f.Reason, "\n") {
		t.Errorf("reported %v", f)
	}
}

// TestAPeerThatGivesUpSaysWhy ends one worker's cell; the other reports the first one's reason.
func TestAPeerThatGivesUpSaysWhy(t *testing.T) {
	j := makeJob(t, makePack(t, 16), func(j *job.Job) { j.Recipe.Epochs = 1000 })
	a, b := startHost(t, "a"), startHost(t, "b")
	for _, h := range []*testHost{a, b} {
		h.Assign(assign(j, 1, h, a, b))
	}
	a.until("it trains", func(cells []*clusterpb.CellStatus) bool { return len(cells) == 1 && cells[0].Step > 2 })
	b.cancel(errors.New("somebody pulled the plug"))
	f := a.next(failed).GetFailed()
	if f.Suspect != "b" || !strings.Contains(f.Reason, "somebody pulled the plug") {
		t.Errorf("reported %v", f)
	}
	b.wait()
	if len(b.reports) > 0 && slices.ContainsFunc([]*clusterpb.Report{<-b.reports}, failed) {
		t.Error("a worker that ends reports that as a failure")
	}
}

// TestFailuresThatNoOtherTryIsSpared are permanent, and say what to do.
func TestFailuresThatNoOtherTryIsSpared(t *testing.T) {
	good := makePack(t, 16)
	j := makeJob(t, good, nil)
	moved := filepath.Join(t.TempDir(), "away.pack")
	other := makePack(t, 24)
	for name, c := range map[string]struct {
		spec []byte
		says string
	}{
		"no job":     {[]byte("nonsense"), "submit it again"},
		"no pack":    {changedPath(t, j, moved), "copy it to either place"},
		"other pack": {changedPath(t, j, other), "wrong pack"},
		"diverges":   {makeJob(t, good, func(j *job.Job) { j.Recipe.Rate = 1e30 }).Encode(), "lower recipe.rate"},
	} {
		t.Run(name, func(t *testing.T) {
			h := startHost(t, "h")
			a := assign(j, 1, h, h, h)
			a.Spec = c.spec
			h.Assign(a)
			f := h.next(failed).GetFailed()
			if !f.Permanent || !strings.Contains(f.Reason, c.says) || strings.Contains(f.Reason, "\n") {
				t.Errorf("reported %v", f)
			}
		})
	}
}

// changedPath is a job whose training pack is said to lie elsewhere.
func changedPath(t *testing.T, j *job.Job, path string) []byte {
	t.Helper()
	c := *j
	p := *j.Train
	p.Path = path
	c.Train = &p
	return c.Encode()
}

func TestAPackIsFoundByIdentity(t *testing.T) {
	path := makePack(t, 16)
	j := makeJob(t, path, nil)
	h := startHost(t, "h")
	if err := os.Rename(path, filepath.Join(h.packs, "another-name.pack")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.packs, "a.pack"), []byte("no pack"), 0o644); err != nil {
		t.Fatal(err)
	}
	h.Assign(assign(j, 1, h, h, h))
	h.next(finished)
}

// TestWhichFilesAreBad restores from files that are wrong for good, and from one that cannot be had now.
func TestWhichFilesAreBad(t *testing.T) {
	j := makeJob(t, makePack(t, 16), nil)
	a, b := trained(t, j)
	whole := manifest(j, 3, false, a, b)
	file := func(i int, h *testHost) string { return filepath.Join(h.root, filepath.FromSlash(whole.Files[i].Path)) }
	for name, c := range map[string]struct {
		change func(t *testing.T, m *clusterpb.Manifest, h *testHost)
		bad    bool
		says   string
	}{
		"truncated": {func(t *testing.T, m *clusterpb.Manifest, h *testHost) {
			if err := os.Truncate(filepath.Join(h.root, filepath.FromSlash(m.Files[0].Path)), 100); err != nil {
				t.Fatal(err)
			}
		}, true, "corrupt"},
		"missing": {func(t *testing.T, m *clusterpb.Manifest, h *testHost) {
			os.Remove(filepath.Join(h.root, filepath.FromSlash(m.Files[0].Path)))
		}, true, "missing"},
		"missing, with its holder away": {func(t *testing.T, m *clusterpb.Manifest, h *testHost) {
			m.Files[0].Path, m.Files[0].Worker = "test/000000000003/r0c0.g77.ckpt", "gone"
		}, false, "worker gone, which wrote it, is away"},
		"missing at its holder": {func(t *testing.T, m *clusterpb.Manifest, h *testHost) {
			m.Files[0].Path = "test/000000000003/r0c0.g77.ckpt"
			m.Files[0].Worker, m.Files[0].Address = "a", a.address
		}, true, "no such file"},
		"of another plan": {func(t *testing.T, m *clusterpb.Manifest, h *testHost) { m.Step = 6 }, true, "something else"},
		"holder unreachable": {func(t *testing.T, m *clusterpb.Manifest, h *testHost) {
			m.Files[0].Path = "test/000000000003/r0c0.g77.ckpt"
			m.Files[0].Worker, m.Files[0].Address = "gone", "127.0.0.1:1"
		}, false, "fetch checkpoint file"},
		"no digest":   {func(t *testing.T, m *clusterpb.Manifest, h *testHost) { m.Files[0].Digest = nil }, false, "digest"},
		"no checksum": {func(t *testing.T, m *clusterpb.Manifest, h *testHost) { m.Files[0].Xxh3 = nil }, false, "checksum"},
		"no file": {func(t *testing.T, m *clusterpb.Manifest, h *testHost) {
			m.Files = m.Files[1:]
		}, false, "no file of cell r0c0"},
	} {
		t.Run(name, func(t *testing.T) {
			h := startHost(t, "h")
			m := &clusterpb.Manifest{Job: whole.Job, Step: whole.Step, Numerics: whole.Numerics}
			for i, f := range whole.Files {
				m.Files = append(m.Files, &clusterpb.CheckpointFile{Cell: f.Cell, Worker: "h", Path: f.Path, Bytes: f.Bytes,
					Xxh3: f.Xxh3, Digest: f.Digest})
				from, err := os.ReadFile(file(i, []*testHost{a, b}[i]))
				if err != nil {
					t.Fatal(err)
				}
				to := filepath.Join(h.root, filepath.FromSlash(f.Path))
				if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, from, 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			c.change(t, m, h)
			as := assign(j, 2, h, h, h)
			as.Restore = []*clusterpb.Manifest{m}
			h.Assign(as)
			f := h.next(failed).GetFailed()
			if f.Permanent || !strings.Contains(f.Reason, c.says) || strings.Contains(f.Reason, "\n") {
				t.Errorf("reported %v, want %q", f, c.says)
			}
			bad := slices.ContainsFunc(h.seen, func(r *clusterpb.Report) bool { return r.GetBad() != nil })
			if bad != c.bad {
				t.Errorf("reported as bad: %v, want %v; %v", bad, c.bad, h.seen)
			}
		})
	}
}

// TestDroppedCheckpointsAreRemoved removes what retention gave up and nothing else.
func TestDroppedCheckpointsAreRemoved(t *testing.T) {
	j := makeJob(t, makePack(t, 16), nil)
	h := startHost(t, "h")
	h.Assign(assign(j, 1, h, h, h))
	h.next(finished)
	h.next(finished)
	h.Dropped([]*clusterpb.Manifest{{Job: j.Name, Step: 3}, {Job: "../..", Step: 1}})
	h.wait()
	left, _ := filepath.Glob(filepath.Join(h.root, j.Name, "*", "*"))
	var steps []string
	for _, path := range left {
		steps = append(steps, filepath.Base(filepath.Dir(path)))
	}
	if want := []string{"000000000006", "000000000006", "000000000008", "000000000008"}; !slices.Equal(steps, want) {
		t.Errorf("left %v, want %v", steps, want)
	}
}

// TestAssignmentsRaceWithTheEnd lets assignments, revocations and stops come from all sides while the worker ends.
func TestAssignmentsRaceWithTheEnd(t *testing.T) {
	j := makeJob(t, makePack(t, 16), nil)
	h := startHost(t, "h")
	var wait sync.WaitGroup
	for generation := range uint64(20) {
		wait.Go(func() { h.Assign(assign(j, generation+1, h, h, h)) })
		wait.Go(func() { h.Revoke(&clusterpb.Revoke{Job: j.Name, Generation: generation}) })
		wait.Go(func() { h.Stop(&clusterpb.Stop{Job: j.Name, Generation: generation}) })
		wait.Go(func() { h.Cells(); h.Running() })
	}
	h.cancel(errors.New("terminated"))
	h.wait()
	wait.Wait()
	if len(h.Running()) > 0 {
		t.Errorf("running after the end: %v", h.Running())
	}
}
