package e2e

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"colonnade/coordinator/rpc"
	"colonnade/proto/clusterpb"
)

// ensemble is a cluster of three coordinators, as processes.
type ensemble struct {
	*cluster  // its address is that of all three
	addresses []string
	nodes     []*process
	flags     []string // of every coordinator
}

// freeAddress is one that nobody listens at.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// newEnsemble starts three coordinators and waits until all of them vote.
func newEnsemble(t testing.TB, flags ...string) *ensemble {
	t.Helper()
	e := &ensemble{flags: flags, cluster: &cluster{t: t, dir: t.TempDir(), carrier: "auto", workers: map[int]*process{}}}
	for range 3 {
		e.addresses = append(e.addresses, freeAddress(t))
	}
	e.address = strings.Join(e.addresses, ",")
	e.client = e.newClient()
	t.Cleanup(e.showLogs)
	e.nodes = make([]*process, 3)
	e.start(0)
	e.start(1, "--join", e.addresses[0])
	e.start(2, "--join", e.addresses[1]+","+e.addresses[0])
	e.until("all three vote", func(ctx context.Context) bool {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		r, err := e.client.ListMembers(ctx, &clusterpb.ListMembersRequest{})
		voters := 0
		for _, m := range r.GetMembers() {
			if m.Role != "joining" {
				voters++
			}
		}
		return err == nil && voters == 3
	})
	return e
}

// newClient is a client of all three.
func (e *ensemble) newClient() clusterpb.OperatorClient {
	e.t.Helper()
	c, err := rpc.NewClient(e.addresses)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { c.Close() })
	return clusterpb.NewOperatorClient(c)
}

// start starts a coordinator in its directory.
func (e *ensemble) start(i int, more ...string) {
	e.t.Helper()
	e.nodes[i] = launch(e.t, filepath.Join(e.dir, fmt.Sprintf("coordinator-%d.log", i)), coordinatorProgram,
		slices.Concat([]string{"start", "--data", e.directory(i), "--listen", e.addresses[i], "--http", "none"}, e.flags,
			more)...)
}

func (e *ensemble) directory(i int) string {
	return filepath.Join(e.dir, fmt.Sprintf("coordinator-%d", i))
}

// leader waits until one of the coordinators leads.
func (e *ensemble) leader() (found int) {
	e.t.Helper()
	e.until("a coordinator leads", func(ctx context.Context) bool {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		r, err := e.client.ListMembers(ctx, &clusterpb.ListMembersRequest{})
		if err != nil {
			return false
		}
		for _, m := range r.Members {
			for i, a := range e.addresses {
				if m.Role == "leader" && m.Address == a {
					found = i
					return true
				}
			}
		}
		return false
	})
	return found
}
