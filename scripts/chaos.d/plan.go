package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"colonnade/scripts/cluster"
)

const (
	coordinators = 3
	workers      = 3 // two that train and a spare
	nodes        = coordinators + workers
)

// A kind is a way to disturb.
type kind struct {
	name   string
	weight int
	needs  need
	what   string
}

// need is what a kind wants of the machine.
type need int

const (
	nothing need = iota
	cuts         // network namespaces
	slows        // a tap device besides
	mounts       // to mount file systems
	apart        // that workers have no memory in common
)

var kinds = []kind{
	{"worker killed", 12, nothing, "SIGKILL of a worker that trains; it is started again at once, later, or much later"},
	{"worker stopped", 8, nothing, "SIGSTOP of a worker that trains, SIGCONT after a while"},
	{"any worker killed", 3, nothing, "SIGKILL of any worker, the spare too"},
	{"all workers killed", 4, nothing, "SIGKILL of all workers"},
	{"all workers stopped", 2, nothing, "SIGSTOP of all workers, SIGCONT after a while"},
	{"leader killed", 8, nothing, "SIGKILL of the coordinator that leads"},
	{"leader stopped", 5, nothing, "SIGSTOP of the coordinator that leads, SIGCONT after a while"},
	{"coordinator killed", 3, nothing, "SIGKILL of any coordinator"},
	{"coordinator stopped", 2, nothing, "SIGSTOP of any coordinator, SIGCONT after a while"},
	{"all coordinators killed", 4, nothing, "SIGKILL of all coordinators, each started again after a while"},
	{"leader and worker killed", 4, nothing, "SIGKILL of both at once"},
	{"everything killed", 3, nothing, "SIGKILL of every process"},
	{"everything stopped", 2, nothing, "SIGSTOP of every process, SIGCONT after a while"},
	{"checkpoint damaged", 4, nothing,
		"a byte of the newest checkpoint flipped, all workers killed, their memory lost"},
	{"memory lost", 3, apart, "SIGKILL of a worker that trains, and its host's memory is gone, as when a machine dies"},
	{"unplugged", 4, cuts, "a node's link down"},
	{"partition", 5, cuts, "all nodes in two parts that do not hear each other"},
	{"one-way partition", 4, cuts, "all nodes in two parts, of which one does not hear the other"},
	{"cut off", 3, cuts, "one node hears nobody, or nobody hears it"},
	{"link cut", 4, cuts, "two nodes do not hear each other, all others hear both"},
	{"holes", 4, cuts, "a third of all directions between two nodes carry nothing"},
	{"workers without coordinators", 3, cuts, "no worker hears or is heard by a coordinator"},
	{"coordinators apart", 2, cuts, "no coordinator hears another"},
	{"slow links", 3, slows, "some directions deliver late"},
	{"lossy links", 3, slows, "some directions lose packets"},
	{"disk full", 4, mounts, "no room in the data directory of a worker or of a coordinator"},
	{"memory full", 2, mounts, "no room in memory for cells' states, and a worker killed"},
}

// A fault is one of a run's plan: all of it is drawn from the seed, but for whom the leader is by then.
type fault struct {
	kind    *kind
	after   time.Duration // since the one before was over, or, if that was not waited for, since it began
	hold    time.Duration // of what ends by itself: stopped, cut, full
	back    [nodes]time.Duration
	waits   bool // the next one waits until this one is over and training goes on
	pick    int  // one of those that it could be
	links   []cluster.Link
	quality cluster.Quality
}

// plan is a run's: how the cluster is made, and what is done to it.
type plan struct {
	seed    uint64
	apart   bool   // no memory in common
	carrier string // of the exchange
	faults  []fault
	every   time.Duration // between faults, whatever they say themselves; 0: as they say
	length  time.Duration // after which the run is over; 0: with the job
}

// newPlan draws a run's plan. can says which needs this machine meets; the same seed gives the same plan on all
// machines that meet the same.
func newPlan(seed uint64, faults int, can func(need) bool) plan {
	r := rand.New(rand.NewPCG(seed, 0xc4a05))
	p := plan{seed: seed, apart: r.IntN(2) == 0, carrier: "auto"}
	if p.apart {
		p.carrier = "grpc" // as between hosts
	}
	var possible []*kind
	for i := range kinds {
		k := &kinds[i]
		if k.needs == nothing || k.needs == apart && p.apart || k.needs != apart && can(k.needs) {
			for range k.weight {
				possible = append(possible, k)
			}
		}
	}
	for range faults {
		f := fault{kind: possible[r.IntN(len(possible))], after: between(r, 100*time.Millisecond, 1500*time.Millisecond),
			hold: between(r, 50*time.Millisecond, 4*time.Second), waits: r.IntN(4) > 0, pick: r.IntN(1 << 20)}
		for i := range f.back {
			switch r.IntN(4) {
			case 0, 1: // as systemd would
				f.back[i] = between(r, 0, 200*time.Millisecond)
			case 2:
				f.back[i] = between(r, 200*time.Millisecond, 3*time.Second)
			default: // the spare has to
				f.back[i] = between(r, 6*time.Second, 10*time.Second)
			}
		}
		f.links = links(f.kind.name, r)
		switch f.kind.name {
		case "slow links":
			f.quality = cluster.Quality{Delay: between(r, time.Millisecond, 60*time.Millisecond),
				Jitter: between(r, time.Millisecond, 40*time.Millisecond)}
		case "lossy links":
			f.quality = cluster.Quality{Loss: 0.01 + 0.2*r.Float64(), Delay: between(r, 0, 2*time.Millisecond)}
		}
		p.faults = append(p.faults, f)
	}
	return p
}

func between(r *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(r.Int64N(int64(most-least)))
}

// links are the directions that a kind of fault is about.
func links(kind string, r *rand.Rand) (out []cluster.Link) {
	var part [nodes]bool // which of two parts a node is in
	for i := range part {
		part[i] = r.IntN(2) == 0
	}
	a := r.IntN(nodes)
	b := (a + 1 + r.IntN(nodes-1)) % nodes
	part[a], part[b] = true, false // neither part is empty
	hears, holes := r.IntN(2) == 0, r.IntN(2)
	for from := range nodes {
		for to := range nodes {
			is := false
			switch kind {
			case "partition":
				is = part[from] != part[to]
			case "one-way partition":
				is = part[from] && !part[to]
			case "cut off":
				is = hears && to == a || !hears && from == a
			case "link cut":
				is = from == a && to == b || from == b && to == a
			case "holes":
				is = r.IntN(3) == 0
			case "workers without coordinators":
				is = (from < coordinators) != (to < coordinators)
			case "coordinators apart":
				is = from < coordinators && to < coordinators
			case "slow links", "lossy links":
				is = holes == 0 || r.IntN(3) == 0 // all, or some
			}
			if is && from != to {
				out = append(out, cluster.Link{From: from, To: to})
			}
		}
	}
	return out
}

func (f *fault) String() string {
	parts := []string{f.kind.name}
	if f.quality != (cluster.Quality{}) {
		parts = append(parts, fmt.Sprintf("late by %v + %v, %.0f %% lost", f.quality.Delay.Round(time.Millisecond),
			f.quality.Jitter.Round(time.Millisecond), 100*f.quality.Loss))
	}
	if len(f.links) > 0 {
		parts = append(parts, fmt.Sprint("links ", f.links))
	}
	return strings.Join(parts, ", ")
}
