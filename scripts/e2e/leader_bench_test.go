package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// BenchmarkLeaderKilled measures the time from the SIGKILL of the leader of three to the next write that is
// acknowledged, as a client of all three sees it:
//
//	go test ./scripts/e2e -run '^$' -bench LeaderKilled -benchtime 20x
func BenchmarkLeaderKilled(b *testing.B) {
	e := newEnsemble(b)
	writes := 0
	write := func() {
		writes++
		name := fmt.Sprintf("write-%d", writes)
		if out, err := perform(e.client, request{"submit", name}); err != nil || out != done {
			b.Fatalf("%s: %v, %v", name, out, err)
		}
	}
	var gaps []time.Duration
	var quiet []time.Duration // a write when nothing happens
	for range b.N {
		leader := e.leader()
		for range 20 { // everyone is up and has a connection
			began := time.Now()
			write()
			quiet = append(quiet, time.Since(began))
		}
		began := time.Now()
		e.nodes[leader].cmd.Process.Kill()
		write()
		gaps = append(gaps, time.Since(began))
		<-e.nodes[leader].done
		e.start(leader)
	}
	for name, all := range map[string][]time.Duration{"gap": gaps, "write": quiet} {
		slices.Sort(all)
		for at, q := range map[string]float64{"min": 0, "median": 0.5, "p95": 0.95, "max": 1} {
			v := all[int(q*float64(len(all)-1)+0.5)]
			b.ReportMetric(float64(v.Microseconds())/1000, name+"-"+at+"-ms")
		}
	}
	b.Logf("gaps in ms: %v", gaps)
}
