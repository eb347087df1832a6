package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"colonnade/checkpoint/cli/clitest"
)

// commandTree is the command line, and who has it.
func commandTree(t *testing.T) (console, *kong.Kong) {
	t.Helper()
	con := console{out: &lockedBuffer{}, err: &lockedBuffer{}, now: time.Now}
	tree, err := newParser(con, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	return con, tree
}

// Every command refuses every flag whose value is of another kind, flags that it does not have, arguments too many and
// too few: in one line, which names the flag and says what to type next.
func TestEveryFlagOfEveryCommand(t *testing.T) {
	con, tree := commandTree(t)
	if flags := clitest.Mistakes(t, con.named(), tree); flags < 100 {
		t.Errorf("only %d flags were looked at", flags)
	}
}

// Every command line on every page of this repository is one.
func TestEveryLineOfEveryPage(t *testing.T) {
	con, tree := commandTree(t)
	lines, err := clitest.Pages("..", con.named())
	if err != nil || len(lines) < 50 {
		t.Fatalf("%d lines, %v", len(lines), err)
	}
	for _, l := range lines {
		if err := l.Wrong(tree); err != nil {
			t.Errorf("%s: coordinator %s: %v", l.At, strings.Join(l.Args, " "), err)
		}
	}
}

// Every command that asks a coordinator says in one line what to do when there is none, and when what it names is not
// there.
func TestEveryCommandWithoutItsObject(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	con, tree := commandTree(t)
	c := startCluster(t)
	away := nobody(t)
	// shows are those that have something to show of any cluster.
	shows := []string{"status", "member list", "worker list", "job list", "queue", "events", "logs", "backup"}
	var all []wrong
	for path, n := range clitest.Commands(tree) {
		ask := slices.ContainsFunc(n.Flags, func(f *kong.Flag) bool { return f.Name == "coordinator" })
		if !ask || path == "doctor" { // which has more to say than a line
			continue
		}
		args := slices.DeleteFunc(clitest.Example(con.named(), path), func(s string) bool { return s == "--follow" })
		if i := slices.Index(args, "--coordinator"); i >= 0 {
			args = slices.Delete(args, i, i+2)
		}
		args = slices.Clip(args)
		all = append(all, wrong{path + " with nobody", append(args, "--coordinator", away), exitFailure, nil})
		if !slices.Contains(shows, path) {
			all = append(all, wrong{path + " without what it names",
				append(args, "--timeout=5s", "--coordinator", c.address), exitFailure, nil})
		}
	}
	if len(all) < 40 {
		t.Errorf("only %d commands were tried", len(all))
	}
	check(t, dir, all)
}
