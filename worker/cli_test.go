package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/grpc"

	"colonnade/checkpoint/cli/clitest"
	"colonnade/cudakern"
	"colonnade/cudakern/kerntest"
	"colonnade/cudakern/ref"
	"colonnade/proto/clusterpb"
	"colonnade/worker/data"
)

// printed is what a command came to.
type printed struct {
	code     int
	out, err string
}

func command(ctx context.Context, args ...string) printed {
	var out, err bytes.Buffer
	code := run(ctx, args, console{out: &out, err: &err, in: strings.NewReader("")})
	return printed{code, out.String(), err.String()}
}

// mistake is a command line that must end in one line on standard error.
type mistake struct {
	args []string
	code int
	says []string
}

// refused wants one line on standard error that says all that it is to say, and nothing else.
func (c mistake) refused(t *testing.T) {
	t.Helper()
	p := command(context.Background(), c.args...)
	if p.code != c.code {
		t.Errorf("exit status %d, want %d", p.code, c.code)
	}
	if strings.Count(p.err, "\n") != 1 || !strings.HasPrefix(p.err, "worker: ") || p.out != "" ||
		strings.Contains(p.err, "rpc error") || !strings.Contains(p.err, "; ") {
		t.Errorf("not one line with a next step: %q; on standard output %q", p.err, p.out)
	}
	for _, s := range c.says {
		if !strings.Contains(p.err, s) {
			t.Errorf("%q does not say %q", p.err, s)
		}
	}
}

// usage is a mistake in the command line, failure one that shows when it is carried out.
func usage(says ...string) func(args ...string) mistake {
	return func(args ...string) mistake { return mistake{args, exitUsage, says} }
}

func failure(says ...string) func(args ...string) mistake {
	return func(args ...string) mistake { return mistake{args, exitFailure, says} }
}

// runMistakes are those of `worker run`.
func runMistakes(t *testing.T, file string) map[string]mistake {
	dir := t.TempDir()
	used := filepath.Join(dir, "used")
	_, release, err := claimDirectory(used)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	data := filepath.Join(dir, "data")
	at := "127.0.0.1:1"
	with := func(make func(...string) mistake, more ...string) mistake {
		return make(append([]string{"run", "--coordinator", at, "--data", data, "--device", "ref", "--log-level", "error"},
			more...)...)
	}
	const help = "see: worker "
	return map[string]mistake{
		"unknown flag":        with(usage("--fast", help), "--fast"),
		"no coordinator flag": usage("--coordinator", help)("run", "--data", data),
		"no data flag":        usage("--data", help)("run", "--coordinator", at),
		"log level":           with(usage("loud"), "--log-level", "loud"),
		"carrier":             with(usage("pigeon", "auto"), "--carrier", "pigeon"),
		"coordinator address": usage("localhost", "give host:port")("run", "--coordinator", "localhost", "--data", data),
		"coordinator no host": usage("give host:port")("run", "--coordinator", ":7420", "--data", data),
		"listen address":      with(usage("--listen here", "give host:port"), "--listen", "here"),
		"listen to all":       with(usage("without encryption", "--insecure"), "--listen", "0.0.0.0:0"),
		"listen by name":      with(usage("without encryption", "--insecure"), "--listen", "example.org:80"),
		"listen to any":       with(usage("--advertise"), "--listen", ":0", "--insecure"),
		"advertise":           with(usage("--advertise me", "give host:port"), "--advertise", "me"),
		"no threads":          with(usage("--threads 0", "between 1 and", "leave it out"), "--threads", "0"),
		"too many threads":    with(usage("--threads 5000", "between 1 and"), "--threads", "5000"),
		"half a thread":       with(usage("--threads", help), "--threads", "0.5"),
		"device":              with(usage(`"abacus"`, "worker devices"), "--device", "abacus"),
		"data is a file":      with(failure(file, "choose another --data"), "--data", file),
		"data is used":        with(failure(used, "another worker", "choose another --data"), "--data", used),
		"shm is a file":       with(failure(file, "choose another --shm"), "--shm", file),
		"port is used":        with(failure("in use", "choose another --listen"), "--listen", l.Addr().String()),
		"nobody answers":      with(failure(at, "refused", "coordinator start --data DIR"), "--wait", "500ms"),
	}
}

// otherMistakes are those of the other commands.
func otherMistakes(t *testing.T, file string) map[string]mistake {
	dir, empty := t.TempDir(), t.TempDir()
	whole, err := os.ReadFile(makePack(t, 16))
	if err != nil {
		t.Fatal(err)
	}
	cut, out := filepath.Join(dir, "cut.pack"), filepath.Join(dir, "x.pack")
	if err := os.WriteFile(cut, whole[:len(whole)-100], 0o644); err != nil {
		t.Fatal(err)
	}
	const help = "see: worker "
	pack := func(make func(...string) mistake, from, out string, more ...string) mistake {
		return make(append([]string{"data", "pack", "--from", from, "--out", out}, more...)...)
	}
	return map[string]mistake{
		"no command":       usage("expected one of", help)(),
		"unknown command":  usage("fly", help)("fly"),
		"verify nothing":   usage("--device", help)("verify"),
		"verify abacus":    usage(`"abacus"`, "worker devices")("verify", "--device", "abacus"),
		"verify magic":     usage("--op magic", "leave --op out")("verify", "--device", "ref", "--op", "magic,add"),
		"pack nothing":     usage("--from", help)("data", "pack", "--out", out),
		"pack no source":   pack(failure("none", "--from"), dir+"/none", out),
		"pack text":        pack(failure(file, "CLASS/IMAGE"), file, out),
		"pack emptiness":   pack(failure(empty, "CLASS/IMAGE"), empty, out),
		"pack to a folder": pack(failure(empty, "--out"), idx(t, 16), empty, "--split", "train"),
		"pack to nowhere":  pack(failure(file, "--out"), idx(t, 16), file+"/x.pack", "--split", "train"),
		"pack wrong split": pack(failure("dev", "--split train"), idx(t, 16), out, "--split", "dev"),
		"info of nothing":  failure("none.pack", "worker data pack")("data", "info", dir+"/none.pack"),
		"info of text":     failure(file, "worker data pack")("data", "info", file),
		"info of a part":   failure(cut, "worker data pack")("data", "info", cut),
		"info of a folder": failure(empty, "worker data pack")("data", "info", empty),
	}
}

// benchMistakes are those of `worker bench`.
func benchMistakes(t *testing.T, file string) map[string]mistake {
	with := func(make func(...string) mistake, more ...string) mistake {
		return make(append([]string{"bench", "--network", "tiny", "--device", "ref"}, more...)...)
	}
	const help = "see: worker "
	return map[string]mistake{
		"bench no columns":       with(usage("--columns 0", "use 1, 2 or 4"), "--columns", "0"),
		"bench many columns":     with(usage("--columns 65", "64"), "--columns", "65"),
		"bench odd columns":      with(failure("3 columns", "use 1, 2, 4 or 8"), "--columns", "3"),
		"bench no batch":         with(usage("--batch 0", "128"), "--batch", "0"),
		"bench no steps":         with(usage("--steps 0", "leave it out"), "--steps", "0"),
		"bench negative warm-up": with(usage("--warmup -1", "leave it out"), "--warmup=-1"),
		"bench no threads":       with(usage("--threads 0", "leave it out"), "--threads", "0"),
		"bench words":            with(usage("--batch", help), "--batch", "many"),
		"bench winograd":         with(usage("maybe", "on"), "--winograd", "maybe"),
		"bench carrier":          with(usage("pigeon", "auto"), "--carrier", "pigeon"),
		"bench device":           with(usage(`"abacus"`, "worker devices"), "--device", "abacus"),
		"bench no network":       with(failure(`"none"`, "alexnet-32", "name one"), "--network", "none"),
		"bench text":             with(failure(file), "--network", file),
		"bench a folder":         with(failure("network", "alexnet-32"), "--network", t.TempDir()),
		"bench out of memory": failure("GiB of memory", "smaller --batch")("bench", "--network", "alexnet", "--batch",
			"1000000"),
	}
}

// TestWrongInputs walks the paths of a new user's mistakes: each is one line with the next step.
func TestWrongInputs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("this is text\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	all := runMistakes(t, file)
	maps.Copy(all, otherMistakes(t, file))
	maps.Copy(all, benchMistakes(t, file))
	for name, c := range all {
		t.Run(name, c.refused)
	}
}

// TestEveryFlagOfEveryCommand: values of another kind, flags that are not there, arguments too many and too few are
// refused in one line that names the command's help.
func TestEveryFlagOfEveryCommand(t *testing.T) {
	con := console{out: io.Discard, err: io.Discard}
	tree, err := newParser(con, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	if flags := clitest.Mistakes(t, con.named(), tree); flags < 30 {
		t.Errorf("only %d flags were looked at", flags)
	}
}

// TestEveryCommandHasAnExample that it understands, and help that fits into 80 columns.
func TestEveryCommandHasAnExample(t *testing.T) {
	t.Setenv("COLUMNS", "80")
	con := console{out: io.Discard, err: io.Discard}
	tree, err := newParser(con, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	all := clitest.Commands(tree)
	for path := range all {
		line := clitest.Example(con.named(), path)
		p := command(t.Context(), append(strings.Fields(path), "--help")...)
		if p.code != 0 || !strings.Contains(p.out, "Example: worker "+path) || len(line) == 0 {
			t.Errorf("worker %s --help: %+v", path, p)
		}
		for l := range strings.Lines(p.out) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(l, "\n")); n > 80 {
				t.Errorf("worker %s --help: %d columns: %s", path, n, l)
			}
		}
		if _, err := tree.Parse(line); err != nil {
			t.Errorf("worker %s is no command line: %v", line, err)
		}
	}
	for path := range examples {
		if all[path] == nil {
			t.Errorf("there is an example of %q, which is no command", path)
		}
	}
	p := command(t.Context(), "complete", "data", "pack", "--o")
	if p.out != "--out\n" {
		t.Errorf("data pack --o goes on with %+v", p)
	}
}

// TestEveryLineOfEveryPage: every command line on every page of this repository is one.
func TestEveryLineOfEveryPage(t *testing.T) {
	con := console{out: io.Discard, err: io.Discard}
	tree, err := newParser(con, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	lines, err := clitest.Pages("..", con.named())
	if err != nil || len(lines) < 20 {
		t.Fatalf("%d lines, %v", len(lines), err)
	}
	for _, l := range lines {
		if err := l.Wrong(tree); err != nil {
			t.Errorf("%s: worker %s: %v", l.At, strings.Join(l.Args, " "), err)
		}
	}
}

func TestFactsAsJSON(t *testing.T) {
	ctx := context.Background()
	out := filepath.Join(t.TempDir(), "x.pack")
	p := command(ctx, "data", "pack", "--from", idx(t, 16), "--split", "train", "--out", out, "--json")
	var packed struct{ Images int }
	if err := json.Unmarshal([]byte(p.out), &packed); err != nil || p.code != 0 || packed.Images != 16 {
		t.Errorf("data pack: %+v, %v", p, err)
	}
	p = command(ctx, "data", "info", out, "--json")
	var facts data.Facts
	err := json.Unmarshal([]byte(p.out), &facts)
	if err != nil || p.code != 0 || facts.Images != 16 || len(facts.Classes) != 8 {
		t.Errorf("data info: %+v, %v", p, err)
	}
	if p = command(ctx, "data", "info", out); p.code != 0 || !strings.Contains(p.out, "16 of 1x12x12") {
		t.Errorf("data info: %+v", p)
	}
	p = command(ctx, "devices", "--json")
	var devices []deviceFact
	err = json.Unmarshal([]byte(p.out), &devices)
	if err != nil || p.code != 0 || len(devices) < len(deviceKinds) ||
		devices[len(devices)-1].Numerics != "ref/1/float64" {
		t.Errorf("devices: %+v, %v", p, err)
	}
	if p = command(ctx, "devices"); p.code != 0 || strings.Count(p.out, "\n") < 1+len(deviceKinds) {
		t.Errorf("devices: %+v", p)
	}
}

// TestVerify holds two bad devices against the reference; good ones have cudakern's own tests.
func TestVerify(t *testing.T) {
	kinds := deviceKinds
	defer func() { deviceKinds = kinds }()
	deviceKinds = append(slices.Clip(deviceKinds),
		deviceKind{"lame", "cannot update", func(string, cudakern.Settings) (cudakern.Device, error) {
			return noUpdates{ref.New()}, nil
		}, nil},
		deviceKind{"absent", "is not there", func(string, cudakern.Settings) (cudakern.Device, error) {
			return nil, errors.New("no such bus; plug it in")
		}, nil})
	ctx := context.Background()
	p := command(ctx, "verify", "--device", "lame", "--op", "add,sgd", "--json")
	var results []kerntest.Result
	if err := json.Unmarshal([]byte(p.out), &results); err != nil || len(results) != 2 {
		t.Fatalf("%v, %q", err, p.out)
	}
	for _, r := range results {
		if r.Pass != (r.Op != "sgd") {
			t.Errorf("op %s passes: %v", r.Op, r.Pass)
		}
	}
	if p.code != exitFailure || p.err != "worker: device lame gives wrong results; do not train on it\n" {
		t.Errorf("lame: exit status %d, %q", p.code, p.err)
	}
	var text bytes.Buffer
	var shown []verified
	for _, r := range results {
		shown = append(shown, verified{Result: r})
	}
	for info, says := range map[cudakern.Info]string{ref.New().Info(): "this is the reference itself",
		{Name: "other"}: "ops against the reference"} {
		if err := printResults(&text, info, shown); err != nil || !strings.Contains(text.String(), says) {
			t.Errorf("%v: %v, %q", info, err, &text)
		}
	}
	if strings.Count(text.String(), "WRONG: ") != 2 {
		t.Errorf("lame: %q", &text)
	}
	if p = command(ctx, "verify", "--device", "absent"); p.code != exitFailure || !strings.Contains(p.err, "plug it in") {
		t.Errorf("absent: %+v", p)
	}
	if p = command(ctx, "devices"); p.code != 0 || !strings.Contains(p.out, "not usable: no such bus") {
		t.Errorf("devices: %+v", p)
	}
}

// fakeCoordinator welcomes workers and passes their registrations on.
type fakeCoordinator struct {
	clusterpb.UnimplementedSessionServer
	joined chan *clusterpb.Register
	refuse string
}

func (c *fakeCoordinator) Attach(
	stream grpc.BidiStreamingServer[clusterpb.WorkerMessage, clusterpb.CoordinatorMessage]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if c.refuse != "" {
		return stream.Send(&clusterpb.CoordinatorMessage{Kind: &clusterpb.CoordinatorMessage_Goodbye{
			Goodbye: &clusterpb.Goodbye{Reason: c.refuse}}})
	}
	err = stream.Send(&clusterpb.CoordinatorMessage{Kind: &clusterpb.CoordinatorMessage_Welcome{
		Welcome: &clusterpb.Welcome{Cluster: "test", LeaseMs: 3000, HeartbeatMs: 500}}})
	c.joined <- first.GetRegister()
	for err == nil {
		_, err = stream.Recv()
	}
	return nil
}

func startCoordinator(t *testing.T, refuse string) (string, *fakeCoordinator) {
	t.Helper()
	c := &fakeCoordinator{joined: make(chan *clusterpb.Register, 10), refuse: refuse}
	return serve(t, func(s *grpc.Server) { clusterpb.RegisterSessionServer(s, c) }), c
}

// serve runs a gRPC server on loopback until the test ends, and returns its address.
func serve(t *testing.T, register func(*grpc.Server)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	register(s)
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := s.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serve: %v", err)
		}
	}()
	t.Cleanup(func() {
		s.Stop()
		<-served
	})
	return l.Addr().String()
}

// TestTheLifeOfAWorker starts one, looks at how it registers, and ends it.
func TestTheLifeOfAWorker(t *testing.T) {
	address, c := startCoordinator(t, "")
	dir := t.TempDir()
	start := func() (end func() printed) {
		ctx, cancel := context.WithCancelCause(context.Background())
		done := make(chan printed, 1)
		go func() {
			done <- command(ctx, "run", "--coordinator", address, "--device", "ref", "--data", dir, "--name", "me")
		}()
		return func() printed {
			cancel(fmt.Errorf("terminated: %w", context.Canceled)) // as a signal does
			return <-done
		}
	}
	end := start()
	first := <-c.joined
	if first.Worker == "" || first.Name != "me" || first.Device.GetName() != "ref" || first.Device.GetNumerics() == "" ||
		first.Checkpoints != filepath.Join(dir, "checkpoints") || first.Incarnation == "" || first.Address == "" {
		t.Errorf("registered as %v", first)
	}
	if p := end(); p.code != 0 {
		t.Errorf("ended by a signal: %+v", p)
	}
	end = start()
	second := <-c.joined
	if second.Worker != first.Worker || second.Incarnation == first.Incarnation {
		t.Errorf("came back as worker %s incarnation %s, was %s %s", second.Worker, second.Incarnation, first.Worker,
			first.Incarnation)
	}
	end()
}

func TestACoordinatorThatRefusesEndsTheWorker(t *testing.T) {
	address, _ := startCoordinator(t, "speaks protocol 9; run the same version on all machines")
	p := command(context.Background(), "run", "--coordinator", address, "--device", "ref", "--data", t.TempDir(),
		"--log-level", "error")
	if p.code != exitFailure || !strings.Contains(p.err, "run the same version") || strings.Count(p.err, "\n") != 1 {
		t.Errorf("%+v", p)
	}
}

func TestAWorkerEndsWithItsParent(t *testing.T) {
	address, c := startCoordinator(t, "")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var out, errs bytes.Buffer
	code := make(chan int, 1)
	go func() {
		args := []string{"run", "--coordinator", address, "--device", "ref", "--data", t.TempDir(), "--with-parent"}
		code <- run(context.Background(), args, console{out: &out, err: &errs, in: r})
	}()
	<-c.joined
	w.Close() // the parent has died
	if got := <-code; got != exitFailure || !strings.Contains(errs.String(), errParentGone.Error()) {
		t.Errorf("exit status %d, %q", got, errs.String())
	}
}

// TestDoctor: what is bad is named with what to do, and makes it fail; what is well does not.
func TestDoctor(t *testing.T) {
	dir := t.TempDir()
	got := command(t.Context(), "doctor", "--device", "ref", "--data", filepath.Join(dir, "w"), "--shm", dir)
	if got.code != 0 || !strings.Contains(got.out, "can be made") || !strings.Contains(got.out, "ok    device") {
		t.Errorf("a sound machine: %+v", got)
	}
	got = command(t.Context(), "doctor", "--device", "ref", "--listen", "192.0.2.77:1", "--coordinator", "127.0.0.1:1")
	if got.code != exitFailure || !strings.Contains(got.out, "127.0.0.1:1 does not answer") ||
		!strings.Contains(got.out, "give an address of this machine") || !strings.Contains(got.err, "not all is well") {
		t.Errorf("nothing is right: %+v", got)
	}
}
