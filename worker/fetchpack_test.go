package main

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"colonnade/proto/clusterpb"
)

// move takes a file elsewhere.
func move(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// TestAPackIsFetchedFromAPeer has a job's pack lie in one worker's directory and nowhere else: the other fetches it,
// and the bits are as ever.
func TestAPackIsFetchedFromAPeer(t *testing.T) {
	path := makePack(t, 16)
	j := makeJob(t, path, nil)
	a, b := trained(t, j)
	want := digests(a, b)
	c, d := startHost(t, "c"), startHost(t, "d")
	move(t, path, filepath.Join(c.packs, "any name.pack"))
	peers := []*clusterpb.Peer{{Worker: "d", Name: "d", Address: d.address}, {Worker: "c", Name: "c", Address: c.address}}
	for _, h := range []*testHost{c, d} {
		as := assign(j, 1, h, c, d)
		as.Peers = peers
		h.Assign(as)
	}
	c.next(finished)
	d.next(finished)
	if got := digests(c, d); !maps.Equal(got, want) {
		t.Errorf("with a pack that was fetched: %v, want %v", got, want)
	}
	if fetched, err := os.ReadDir(d.packs); err != nil || len(fetched) != 1 ||
		fetched[0].Name() != j.Train.ID+".pack" {
		t.Errorf("the other worker's packs: %v, %v", fetched, err)
	}
}

// TestAPackThatNobodyHas ends the job with one line that says what to do; a peer that cannot be asked may have it, and
// then the job is not ended.
func TestAPackThatNobodyHas(t *testing.T) {
	path := makePack(t, 16)
	j := makeJob(t, path, nil)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	h, other := startHost(t, "h"), startHost(t, "other")
	peer := func(name, address string) []*clusterpb.Peer {
		return []*clusterpb.Peer{{Worker: name, Name: name, Address: address}}
	}
	as := assign(j, 1, h, h, h)
	as.Peers = peer("other", other.address)
	h.Assign(as)
	f := h.next(failed).GetFailed()
	if !f.Permanent || !strings.Contains(f.Reason, "no worker has it of the 1 that were asked") ||
		!strings.Contains(f.Reason, "copy it to either place and try again") || strings.Contains(f.Reason, "\n") {
		t.Errorf("nobody has it: %v", f)
	}
	h.idle()
	as = assign(j, 2, h, h, h)
	as.Peers = peer("gone", "127.0.0.1:1")
	h.Assign(as)
	if f := h.next(failed).GetFailed(); f.Permanent || !strings.Contains(f.Reason, "worker gone") {
		t.Errorf("a peer is away: %v", f)
	}
	h.idle()
	if left, _ := filepath.Glob(filepath.Join(h.packs, "*.pack")); len(left) > 0 {
		t.Errorf("packs that nobody gave: %v", left)
	}
}
