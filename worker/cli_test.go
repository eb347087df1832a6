package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"

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

// TestWrongInputs walks the paths of a new user's mistakes: each is one line with the next step.
func TestWrongInputs(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	text := filepath.Join(dir, "text.pack")
	for _, path := range []string{file, text} {
		if err := os.WriteFile(path, []byte("this is text\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	empty := filepath.Join(dir, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(dir, "cut.pack")
	whole, err := os.ReadFile(makePack(t, 16))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cut, whole[:len(whole)-100], 0o644); err != nil {
		t.Fatal(err)
	}
	used := filepath.Join(dir, "used")
	_, release, err := claimDirectory(used)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	data := filepath.Join(dir, "data")
	worker := func(more ...string) []string {
		return append([]string{"run", "--coordinator", "127.0.0.1:1", "--data", data, "--device", "ref", "--log-level", "error"}, more...)
	}
	for name, c := range map[string]struct {
		args []string
		code int
		says []string
	}{
		"no command":          {nil, exitUsage, []string{"expected one of", "worker --help"}},
		"unknown command":     {[]string{"fly"}, exitUsage, []string{"fly", "worker --help"}},
		"unknown flag":        {worker("--fast"), exitUsage, []string{"--fast", "worker --help"}},
		"no coordinator flag": {[]string{"run", "--data", data}, exitUsage, []string{"--coordinator", "worker --help"}},
		"no data flag":        {[]string{"run", "--coordinator", "127.0.0.1:1"}, exitUsage, []string{"--data", "worker --help"}},
		"log level":           {worker("--log-level", "loud"), exitUsage, []string{"loud"}},
		"carrier":             {worker("--carrier", "pigeon"), exitUsage, []string{"pigeon", "auto"}},
		"coordinator address": {[]string{"run", "--coordinator", "localhost", "--data", data}, exitUsage, []string{"--coordinator localhost", "give host:port"}},
		"coordinator no host": {[]string{"run", "--coordinator", ":7420", "--data", data}, exitUsage, []string{"give host:port"}},
		"listen address":      {worker("--listen", "here"), exitUsage, []string{"--listen here", "give host:port"}},
		"listen to all":       {worker("--listen", "0.0.0.0:0"), exitUsage, []string{"without encryption", "--insecure"}},
		"listen by name":      {worker("--listen", "example.org:80"), exitUsage, []string{"without encryption", "--insecure"}},
		"listen to any":       {worker("--listen", ":0", "--insecure"), exitUsage, []string{"--advertise"}},
		"advertise":           {worker("--advertise", "me"), exitUsage, []string{"--advertise me", "give host:port"}},
		"device":              {worker("--device", "abacus"), exitUsage, []string{`"abacus"`, "worker devices"}},
		"data is a file":      {worker("--data", file), exitFailure, []string{file, "choose another --data"}},
		"data is used":        {worker("--data", used), exitFailure, []string{used, "another worker", "choose another --data"}},
		"port is used":        {worker("--listen", l.Addr().String()), exitFailure, []string{"in use", "choose another --listen"}},
		"nobody answers":      {worker("--wait", "50ms"), exitFailure, []string{"127.0.0.1:1", "refused", "coordinator start --data DIR"}},

		"verify nothing": {[]string{"verify"}, exitUsage, []string{"--device", "worker --help"}},
		"verify abacus":  {[]string{"verify", "--device", "abacus"}, exitUsage, []string{`"abacus"`, "worker devices"}},

		"pack nothing":     {[]string{"data", "pack", "--out", data}, exitUsage, []string{"--from", "worker --help"}},
		"pack no source":   {[]string{"data", "pack", "--from", dir + "/none", "--out", dir + "/x.pack"}, exitFailure, []string{"none", "--from"}},
		"pack text":        {[]string{"data", "pack", "--from", file, "--out", dir + "/x.pack"}, exitFailure, []string{file, "CLASS/IMAGE"}},
		"pack emptiness":   {[]string{"data", "pack", "--from", empty, "--out", dir + "/x.pack"}, exitFailure, []string{empty, "CLASS/IMAGE"}},
		"pack to nowhere":  {[]string{"data", "pack", "--from", idx(t, 16), "--split", "train", "--out", file + "/x.pack"}, exitFailure, []string{file, "--out"}},
		"pack wrong split": {[]string{"data", "pack", "--from", idx(t, 16), "--split", "dev", "--out", dir + "/x.pack"}, exitFailure, []string{"dev"}},
		"info of nothing":  {[]string{"data", "info", dir + "/none.pack"}, exitFailure, []string{"none.pack", "worker data pack"}},
		"info of text":     {[]string{"data", "info", text}, exitFailure, []string{text, "worker data pack"}},
		"info of a part":   {[]string{"data", "info", cut}, exitFailure, []string{cut, "worker data pack"}},
		"info of a folder": {[]string{"data", "info", empty}, exitFailure, []string{empty}},
	} {
		t.Run(name, func(t *testing.T) {
			p := command(context.Background(), c.args...)
			if p.code != c.code {
				t.Errorf("exit status %d, want %d", p.code, c.code)
			}
			if strings.Count(p.err, "\n") != 1 || !strings.HasPrefix(p.err, "worker: ") || strings.Contains(p.err, "rpc error") || p.out != "" {
				t.Errorf("not one line: %q; on standard output %q", p.err, p.out)
			}
			for _, s := range c.says {
				if !strings.Contains(p.err, s) {
					t.Errorf("%q does not say %q", p.err, s)
				}
			}
			t.Log(strings.TrimSpace(p.err))
		})
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
	if err := json.Unmarshal([]byte(p.out), &facts); err != nil || p.code != 0 || facts.Images != 16 || len(facts.Classes) != 8 {
		t.Errorf("data info: %+v, %v", p, err)
	}
	if p = command(ctx, "data", "info", out); p.code != 0 || !strings.Contains(p.out, "16 of 1x12x12") {
		t.Errorf("data info: %+v", p)
	}
	p = command(ctx, "devices", "--json")
	var devices []deviceFact
	if err := json.Unmarshal([]byte(p.out), &devices); err != nil || p.code != 0 || len(devices) != len(deviceKinds) || devices[1].Numerics != "ref/1/float64" {
		t.Errorf("devices: %+v, %v", p, err)
	}
	if p = command(ctx, "devices"); p.code != 0 || strings.Count(p.out, "\n") != 1+len(deviceKinds) {
		t.Errorf("devices: %+v", p)
	}
}

// TestVerify holds two bad devices against the reference; good ones have cudakern's own tests.
func TestVerify(t *testing.T) {
	kinds := deviceKinds
	defer func() { deviceKinds = kinds }()
	deviceKinds = append(deviceKinds[:len(deviceKinds):len(deviceKinds)],
		deviceKind{"lame", "cannot update", func() (cudakern.Device, error) { return noUpdates{ref.New()}, nil }},
		deviceKind{"absent", "is not there", func() (cudakern.Device, error) { return nil, errors.New("no such bus; plug it in") }})
	ctx := context.Background()
	p := command(ctx, "verify", "--device", "lame", "--json")
	var results []kerntest.Result
	if err := json.Unmarshal([]byte(p.out), &results); err != nil {
		t.Fatal(err)
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
	for info, says := range map[cudakern.Info]string{ref.New().Info(): "this is the reference itself",
		{Name: "other"}: "every op against the reference"} {
		if err := printResults(&text, info, results); err != nil || !strings.Contains(text.String(), says) {
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

func (c *fakeCoordinator) Attach(stream grpc.BidiStreamingServer[clusterpb.WorkerMessage, clusterpb.CoordinatorMessage]) error {
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
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &fakeCoordinator{joined: make(chan *clusterpb.Register, 10), refuse: refuse}
	s := grpc.NewServer()
	clusterpb.RegisterSessionServer(s, c)
	served := make(chan struct{})
	go func() {
		defer close(served)
		s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Stop()
		<-served
	})
	return l.Addr().String(), c
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
		t.Errorf("came back as worker %s incarnation %s, was %s %s", second.Worker, second.Incarnation, first.Worker, first.Incarnation)
	}
	end()
}

func TestACoordinatorThatRefusesEndsTheWorker(t *testing.T) {
	address, _ := startCoordinator(t, "speaks protocol 9; run the same version on all machines")
	p := command(context.Background(), "run", "--coordinator", address, "--device", "ref", "--data", t.TempDir(), "--log-level", "error")
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
		code <- run(context.Background(), []string{"run", "--coordinator", address, "--device", "ref", "--data", t.TempDir(), "--with-parent"},
			console{out: &out, err: &errs, in: r})
	}()
	<-c.joined
	w.Close() // the parent has died
	if got := <-code; got != exitFailure || !strings.Contains(errs.String(), errParentGone.Error()) {
		t.Errorf("exit status %d, %q", got, errs.String())
	}
}
