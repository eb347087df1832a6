package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"colonnade/proto/commandpb"
)

// lived is the state after history.
func lived(t *testing.T) *State {
	t.Helper()
	s := New()
	for i, c := range history() {
		c.Version, c.DecidedUnixNs = Version, int64(1000+i)
		if _, err := s.Apply(uint64(i+1), c); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// applyNext applies a command behind all others.
func applyNext(t *testing.T, s *State, c *commandpb.Command) error {
	t.Helper()
	c.Version, c.DecidedUnixNs = Version, 5000
	r, err := s.Apply(s.v.Index+1, c)
	if err != nil {
		t.Fatal(err)
	}
	return r.Refused
}

func TestBackupHoldsTheState(t *testing.T) {
	s := lived(t)
	b, err := EncodeBackup(s.View(), 77)
	if err != nil {
		t.Fatal(err)
	}
	k, got, err := DecodeBackup(b)
	if err != nil {
		t.Fatal(err)
	}
	if k.Cluster != "cluster-1" || k.Index != s.v.Index || k.MadeUnixNs != 77 {
		t.Errorf("backup of %s at %d, made at %d", k.Cluster, k.Index, k.MadeUnixNs)
	}
	want, _ := s.View().Encode()
	if have, err := got.View().Encode(); err != nil || !bytes.Equal(have, want) {
		t.Errorf("the state in it is another: %v", err)
	}
}

func TestDamagedBackups(t *testing.T) {
	b, err := EncodeBackup(lived(t).View(), 77)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(3, 4))
	bad := map[string][]byte{"nothing": nil, "magic": backupMagic, "longer": append(bytes.Clone(b), 0)}
	for i := range 300 {
		c := bytes.Clone(b)
		c[r.IntN(len(c))] ^= 1 << r.IntN(8)
		bad[fmt.Sprint("bit ", i)] = c
		bad[fmt.Sprint("cut ", i)] = b[:r.IntN(len(b))]
	}
	other := lived(t).View()
	other.Cluster = ""
	if bad["no cluster"], err = EncodeBackup(other, 1); err != nil {
		t.Fatal(err)
	}
	for name, c := range bad {
		if _, _, err := DecodeBackup(c); !errors.Is(err, ErrBackup) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A restored cluster has the jobs, and nothing of the old one's presence: no worker, no generation that runs or could
// have the number of one that did.
func TestRestored(t *testing.T) {
	s := lived(t)
	for _, c := range []*commandpb.Command{submit("runs", 1, 1, 10, 2), assign("runs", 1, -1, place(1, "w0")...),
		written("runs", 1, 4, cell(0, 0)), submit("stops", 1, 1, 10, 2), assign("stops", 1, -1, place(1, "w1")...),
		stop("stops", false), submit("waits", 1, 1, 10, 2)} {
		if err := applyNext(t, s, c); err != nil {
			t.Fatal(err)
		}
	}
	b, err := EncodeBackup(s.View(), 77)
	if err != nil {
		t.Fatal(err)
	}
	before := s.View()
	k, s2, err := DecodeBackup(b)
	if err != nil {
		t.Fatal(err)
	}
	s = s2
	s.Restored(k, "cluster-new", 6000)
	v := s.View()
	if v.Cluster != "cluster-new" || len(v.Lineage) != 1 || v.Lineage[0].Cluster != "cluster-1" ||
		v.Lineage[0].RestoredUnixNs != 6000 || v.Lineage[0].MadeUnixNs != 77 {
		t.Errorf("%s came from %v", v.Cluster, v.Lineage)
	}
	for id, w := range v.Workers {
		if !w.Lost {
			t.Errorf("worker %s is there", id)
		}
	}
	for name, j := range v.Jobs {
		old := before.Jobs[name]
		want := map[string]string{Running: Recovering, Stopping: Stopped}[old.State]
		if want == "" {
			want = old.State
		}
		if j.State != want {
			t.Errorf("job %s was %s and is %s", name, old.State, j.State)
		}
		if j.State != Done && j.Generation != old.Generation+restoredGenerations {
			t.Errorf("job %s was at generation %d and is at %d", name, old.Generation, j.Generation)
		}
		if len(Usable(j)) != len(Usable(old)) {
			t.Errorf("job %s has lost checkpoints", name)
		}
	}
	// It goes on: what the old cluster's workers say is stale, and the next generation follows.
	if err := applyNext(t, s, written("runs", 1, 8, cell(0, 0))); !errors.Is(err, ErrStale) {
		t.Errorf("a report from before: %v", err)
	}
	if err := applyNext(t, s, register("w9", "x")); err != nil {
		t.Fatal(err)
	}
	if err := applyNext(t, s, assign("runs", restoredGenerations+2, 4, place(1, "w9")...)); err != nil {
		t.Errorf("the next generation: %v", err)
	}
}

// What was restored can be backed up and restored again, and remembers all it came from.
func TestLineageGrows(t *testing.T) {
	s := lived(t)
	for i := range 3 {
		b, err := EncodeBackup(s.View(), int64(i))
		if err != nil {
			t.Fatal(err)
		}
		k, next, err := DecodeBackup(b)
		if err != nil {
			t.Fatal(err)
		}
		next.Restored(k, fmt.Sprint("new-", i), int64(10+i))
		s = next
	}
	var from []string
	for _, l := range s.View().Lineage {
		from = append(from, l.Cluster)
	}
	if got := fmt.Sprint(from); got != "[cluster-1 new-0 new-1]" {
		t.Errorf("lineage %s", got)
	}
}

// A request that is made again is answered as it was the first time, and changes nothing.
func TestRequestsTakeEffectOnce(t *testing.T) {
	s := New()
	apply := func(c *commandpb.Command) error { return applyNext(t, s, c) }
	state := func(want string) {
		t.Helper()
		if got := s.View().Jobs["j"].State; got != want {
			t.Fatalf("job is %s, want %s", got, want)
		}
	}
	submitAs := func(request string) error {
		c := submit("j", 1, 1, 10, 1)
		c.GetSubmitJob().Request = request
		return apply(c)
	}
	stopAs := func(request string) error {
		c := stop("j", false)
		c.GetRequestStop().Request = request
		return apply(c)
	}
	resumeAs := func(request string) error {
		c := resume("j", -1)
		c.GetResumeJob().Request = request
		return apply(c)
	}
	for range 2 {
		if err := submitAs("a"); err != nil {
			t.Fatal(err)
		}
	}
	for _, other := range []string{"b", ""} {
		if err := submitAs(other); !errors.Is(err, ErrJobExists) {
			t.Errorf("another request, %q: %v", other, err)
		}
	}
	if err := stopAs("stop"); err != nil {
		t.Fatal(err)
	}
	state(Stopped)
	for range 2 {
		if err := resumeAs("resume"); err != nil {
			t.Fatal(err)
		}
		state(Queued)
	}
	for range 2 { // is not stopped once more
		if err := stopAs("stop"); err != nil {
			t.Fatal(err)
		}
		state(Queued)
	}
	if err := resumeAs(""); !errors.Is(err, ErrJobState) {
		t.Errorf("a request without an id: %v", err)
	}
	// The record does not grow for ever.
	for i := range 2 * maxRequests {
		if err := errors.Join(stopAs(fmt.Sprint("s", i)), resumeAs(fmt.Sprint("r", i))); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.View().Jobs["j"].Requests); n != maxRequests {
		t.Errorf("%d requests are remembered", n)
	}
}
