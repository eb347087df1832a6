package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestDoctor: what is bad is named with what to do, and makes it fail; every coordinator is asked for its clock and its
// version, and one that is down is named.
func TestDoctor(t *testing.T) {
	r := startTrio(t)
	own := r.nodes[0].address
	out := succeeds(t, "doctor", "--data", filepath.Join(t.TempDir(), "new"), "--listen", own, "--http", "none")
	says(t, out, `.*ok +address +`+own+` is listened on by coordinator \S+ of cluster \S+\n.*`)
	says(t, out, `.*ok +coordinators +3 of 3 answer\n.*`)
	for _, what := range []string{"  version ", "  clock "} {
		if n := strings.Count(out, what); n != 3 {
			t.Errorf("%d lines of a %s, want one for each coordinator:\n%s", n, what, out)
		}
	}

	taken := loopback(t)
	defer taken.Close()
	go func() { // a program that is none of ours
		for {
			c, err := taken.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	got := command("doctor", "--listen", taken.Addr().String(), "--http", taken.Addr().String())
	if got.status != exitFailure || !strings.Contains(got.err, "not all is well") {
		t.Errorf("addresses in use: status %d, %s", got.status, got.err)
	}
	says(t, got.out, `.*bad +address +\S+ is in use by another program\n +end that, or give another port: --listen .*`)
	says(t, got.out, `.*bad +HTTP port +\S+ is in use by another program\n +end that, or give another port: --http .*`)

	r.nodes[2].stop()
	out = succeeds(t, "doctor", "--listen", own, "--http", "none", "--coordinator", own)
	says(t, out, `.*warn +coordinator +\S+ at `+r.nodes[2].address+` does not answer\n +start it, .*member remove .*`)
	says(t, out, `.*warn +coordinators +2 of 3 answer\n +2 have to: start .*`)
}
