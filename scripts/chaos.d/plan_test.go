package main

import (
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"colonnade/scripts/cluster"
)

func everything(need) bool { return true }

// TestPlan wants a plan to depend on its seed, and every kind of fault to come up.
func TestPlan(t *testing.T) {
	seen := map[string]bool{}
	for seed := range uint64(200) {
		p := newPlan(seed, 8, everything)
		if again := newPlan(seed, 8, everything); !reflect.DeepEqual(p, again) {
			t.Fatalf("seed %d gives two plans", seed)
		}
		for i := range p.faults {
			f := &p.faults[i]
			seen[f.kind.name] = true
			if cut := f.kind.needs == cuts && f.kind.name != "unplugged" || f.kind.needs == slows; cut != (len(f.links) > 0) {
				t.Errorf("seed %d: %v", seed, f)
			}
		}
	}
	for _, k := range kinds {
		if !seen[k.name] {
			t.Errorf("%s never comes up", k.name)
		}
	}
	for _, f := range newPlan(1, 500, func(need) bool { return false }).faults {
		if f.kind.needs != nothing && f.kind.needs != apart {
			t.Fatalf("a machine that can do nothing special is to do: %s", f.kind.name)
		}
	}
}

// TestLinks wants one-way partitions to be one-way and others not.
func TestLinks(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 50 {
		for name, both := range map[string]bool{"partition": true, "one-way partition": false, "cut off": false,
			"link cut": true, "workers without coordinators": true, "coordinators apart": true} {
			has := map[[2]int]bool{}
			for _, l := range links(name, r) {
				has[[2]int{l.From, l.To}] = true
			}
			for l := range has {
				if back := has[[2]int{l[1], l[0]}]; back != both {
					t.Fatalf("%s: %v, and back: %v", name, l, back)
				}
			}
		}
	}
}

// TestWipeKeepsWhatFills loses a host's memory while another fault fills it, which is mended by taking its file away.
func TestWipeKeepsWhatFills(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{filling, "cluster/a.arena"} {
		path = filepath.Join(dir, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := wipe(dir); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 || entries[0].Name() != filling {
		t.Errorf("%v, %v; want what fills it, and nothing else", entries, err)
	}
	if err := wipe(filepath.Join(dir, "none")); err != nil {
		t.Errorf("a directory that there is not: %v", err)
	}
}

// TestAgain has a coordinator end by itself: it is started again once its full disk has room, and not before, and not
// where the plan has killed it.
func TestAgain(t *testing.T) {
	launcher := cluster.NewLauncher()
	defer launcher.Close()
	network := cluster.Loopback(launcher, nodes)
	defer network.Close()
	c, err := cluster.New(cluster.Config{Dir: t.TempDir(), Memory: t.TempDir(), Coordinator: "false", Worker: "false",
		Coordinators: coordinators, Workers: workers}, launcher, network)
	if err != nil {
		t.Fatal(err)
	}
	r := &run{c: c, log: io.Discard, expects: map[*cluster.Process]bool{}, roomy: map[int]bool{}}
	for n := range coordinators {
		if err := c.StartCoordinator(n); err != nil {
			t.Fatal(err)
		}
		<-c.Coordinators[n].Done()
	}
	first := slices.Clone(c.Coordinators)
	r.roomy[1], r.roomy[2], r.expects[first[2]] = true, true, true
	if err := r.again(); err != nil {
		t.Fatal(err)
	}
	if c.Coordinators[0] != first[0] || c.Coordinators[1] == first[1] || c.Coordinators[2] != first[2] {
		t.Errorf("started again: %t, %t, %t; want the second only", c.Coordinators[0] != first[0],
			c.Coordinators[1] != first[1], c.Coordinators[2] != first[2])
	}
	if len(r.ended) != 1 || !strings.Contains(r.ended[0], "coordinator-2.log: exit status 1") {
		t.Errorf("said to have ended by themselves: %q", r.ended)
	}
}

// TestMerged runs a seed again after it has failed.
func TestMerged(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, s summary) string {
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	leader := []*injected{{Kind: "leader killed", Stood: 0.5}}
	first := write("1", summary{Want: "a", Outcomes: []*outcome{{Seed: 1, Digest: "a", Goodput: 0.5, Faults: leader},
		{Seed: 2, Digest: "b", Trouble: "another"}}})
	second := write("2", summary{Want: "a", Outcomes: []*outcome{{Seed: 2, Digest: "a", Lost: 3, Faults: leader}}})
	s, err := merged([]string{first, second})
	if err != nil {
		t.Fatal(err)
	}
	if s.Runs != 2 || s.Same != 2 || s.Lost != 3 || s.All.Count != 2 || s.All.Most != 0.5 || s.Goodput != 0.5 {
		t.Errorf("%+v", s)
	}
	if s, err := merged([]string{second, first}); err != nil || s.Same != 1 {
		t.Errorf("%+v, %v: a seed that fails now has failed", s, err)
	}
	if _, err := merged([]string{first, write("3", summary{Want: "b"})}); err == nil {
		t.Error("another job's runs are merged")
	}
}

// TestQuietStretches has two faults in a run of a step a second: what lies between them counts once, and what comes
// from a fault's beginning to three seconds behind its end does not.
func TestQuietStretches(t *testing.T) {
	began := time.Unix(1000, 0)
	r := &run{began: began}
	for step := range uint64(60) {
		r.points = append(r.points, point{began.Add(time.Duration(step) * time.Second), step})
	}
	for _, at := range []time.Duration{10, 30} {
		r.done = append(r.done, &injected{at: began.Add(at * time.Second), end: began.Add((at + 2) * time.Second)})
	}
	want := []stretch{{0, 9, 9, 1, ""}, {15, 29, 14, 1, ""}, {35, 59, 24, 1, ""}}
	if got := r.quiet(); !slices.Equal(got, want) || usual(got) != 1 {
		t.Errorf("quiet %v, want %v; a step takes %g", got, want, usual(got))
	}
}
