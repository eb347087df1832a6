package doctor

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dir   string
		want  uint64
		grade Grade // of the first, or of space
		says  string
	}{
		{dir, 1, OK, "can be written"},
		{filepath.Join(dir, "new", "deeper"), 1, OK, "can be made"},
		{dir, 1 << 62, Warn, "free"},
		{file, 1, Bad, "is no directory"},
		{filepath.Join(file, "below"), 1, Bad, "not a directory"},
	} {
		all := Directory("data", c.dir, c.want)
		got := all[0]
		if c.grade == Warn {
			got = all[1]
		}
		if got.Grade != c.grade || !strings.Contains(got.Says, c.says) || (got.Mend == "") != (c.grade == OK) {
			t.Errorf("%s: %+v", c.dir, all)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("it leaves %v, %v", left, err)
	}
}

func TestListen(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	used := l.Addr().String()
	nobody, somebody := func() string { return "" }, func() string { return "a coordinator" }
	if f := Listen("address", "--http", used, nobody); f.Grade != Bad || !strings.Contains(f.Mend, "--http") {
		t.Errorf("in use: %+v", f)
	}
	if f := Listen("address", "--http", used, somebody); f.Grade != OK || !strings.Contains(f.Says, "a coordinator") {
		t.Errorf("in use by one of ours: %+v", f)
	}
	l.Close()
	if f := Listen("address", "--http", used, nobody); f.Grade != OK || !strings.Contains(f.Says, "this machine only") {
		t.Errorf("free: %+v", f)
	}
	f := Listen("address", "--http", "192.0.2.77:0", nobody)
	if f.Grade != Bad || !strings.Contains(f.Mend, "of this machine") {
		t.Errorf("of another machine: %+v", f)
	}
}

func TestJudgements(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	for _, c := range []struct {
		f     Finding
		grade Grade
	}{
		{Clock("c", now.Add(time.Second), now, now.Add(2*time.Second)), OK},
		{Clock("c", now.Add(-time.Hour), now, now), Warn},
		{Clock("c", now.Add(6*time.Second), now, now), Warn},
		{Memory(2<<30, 1<<30), OK},
		{Memory(1<<20, 1<<30), Warn},
		{Versions("a", "c", "a"), OK},
		{Versions("0123456789abcdef", "c", "b"), Warn},
		{Versions("unversioned", "c", "unversioned"), Warn},
		{Err("device", Bad, errors.New("there is none; buy one"), "see elsewhere"), Bad},
		{SharedMemory(t.TempDir(), 1), OK},
		{SharedMemory(t.TempDir(), 1<<62), Warn},
		{SharedMemory("/no/such/directory", 1), Warn},
	} {
		if c.f.Grade != c.grade || (c.f.Mend == "") != (c.grade == OK) {
			t.Errorf("%+v, want %s", c.f, c.grade)
		}
	}
}

// An error's own next step is what to do; where it has none, what is given.
func TestErr(t *testing.T) {
	want := Finding{"device", Bad, "open a; b: no driver", "install it"}
	if got := Err("device", Bad, errors.New("open a; b: no driver; install it"), "look"); got != want {
		t.Errorf("%+v", got)
	}
	if got := Err("device", Bad, errors.New("no driver"), "look"); got != (Finding{"device", Bad, "no driver", "look"}) {
		t.Errorf("%+v", got)
	}
}

func TestReport(t *testing.T) {
	all := []Finding{{What: "memory", Grade: OK, Says: "enough"}, {"port", Bad, "in use", "another"}}
	var out bytes.Buffer
	err := Report(&out, false, all)
	want := "ok    memory  enough\nbad   port    in use\n              another\n"
	if !errors.Is(err, ErrBad) || out.String() != want {
		t.Errorf("%v:\n%q\n%q", err, out.String(), want)
	}
	out.Reset()
	if err := Report(&out, true, all[:1]); err != nil || !strings.Contains(out.String(), `"grade": "ok"`) {
		t.Errorf("%v: %s", err, &out)
	}
}
