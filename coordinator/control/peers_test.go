package control

import (
	"slices"
	"testing"

	"colonnade/proto/clusterpb"
)

func TestWhoFetchesAPackIsSaid(t *testing.T) {
	cell := func(k int32) *clusterpb.Cell { return &clusterpb.Cell{Column: k} }
	j := &clusterpb.Job{
		Placement: []*clusterpb.Placement{{Cell: cell(0), WorkerName: "w1"}, {Cell: cell(1), WorkerName: "w2"},
			{Cell: cell(2), WorkerName: "w2"}},
		Cells: []*clusterpb.CellStatus{{Cell: cell(0), Phase: "wait for cell r0c1 on worker w2"},
			{Cell: cell(1), Phase: "fetch pack 0a1b2c3d4e5f from worker w1: 40 %"},
			{Cell: cell(2), Phase: "fetch pack 0a1b2c3d4e5f from worker w1: 40 %"}}}
	if got, want := fetching(j), "worker w2 fetches pack 0a1b2c3d4e5f from worker w1: 40 %"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	j.Cells = j.Cells[:1]
	if got := fetching(j); got != "" {
		t.Errorf("nobody fetches anything: %q", got)
	}
}

// TestPeersAreNamed names all workers that are there to a spare, those with cells of the job first.
func TestPeersAreNamed(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.running()
		spare := registration("0")
		spare.Memory = true
		var got []string
		for _, m := range r.attach2(spare).pending() {
			for _, p := range m.GetWarm().GetPeers() {
				got = append(got, p.Worker)
				if w := r.Worker(p.Worker); p.Address != w.Address || p.Name != w.Name {
					t.Errorf("worker %s is named %v", p.Worker, p)
				}
			}
		}
		if want := []string{"a", "b", "0"}; !slices.Equal(got, want) {
			t.Errorf("named are %v, want %v", got, want)
		}
	})
}
