package arena

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func testKey() Key {
	return Key{Cluster: "c", Job: "j/ü", Replica: 1, Column: 3, Identity: [32]byte{1}, Plan: [32]byte{2},
		Numerics: "cpu/1", Layout: [32]byte{3}, HalfBytes: 3 * PageBytes}
}

func open(t testing.TB, dir string) *Store {
	t.Helper()
	return Open(Config{Shared: []string{dir}, Log: slog.New(slog.DiscardHandler)})
}

// step takes an arena one step on, as a cell does: what a half holds says which step it is of.
func step(a *Arena, s uint64) {
	half := int(s % 2)
	a.Begin(half)
	binary.LittleEndian.PutUint64(a.Half(half), s)
	a.Half(half)[len(a.Half(half))-1] = byte(s)
	a.Finish(half, s)
}

func holdsIts(t testing.TB, a *Arena, s uint64) {
	t.Helper()
	h := a.Half(int(s % 2))
	if a.HalfOf(s) != int(s%2) || binary.LittleEndian.Uint64(h) != s || h[len(h)-1] != byte(s) {
		t.Errorf("step %d is not what the arena holds: %v", s, a.Held())
	}
}

func mustMake(t testing.TB, s *Store, generation uint64) *Arena {
	t.Helper()
	a, err := s.Make(testKey(), generation)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func files(t testing.TB, dir string) []string {
	t.Helper()
	out, err := filepath.Glob(filepath.Join(dir, "colonnade-*", "*"+suffix))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestStepsAreHeldOverAClose(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	a := mustMake(t, s, 1)
	if len(a.Held()) != 0 || a.Kind() != Shared {
		t.Fatalf("a new arena in %s holds %v", a.Kind(), a.Held())
	}
	for i := range uint64(8) {
		step(a, i)
	}
	if !slices.Equal(a.Held(), []uint64{7, 6}) {
		t.Errorf("holds %v", a.Held())
	}
	a.Close()
	other := open(t, dir) // as another process has it
	held := other.Held("c", "j/ü")
	if len(held) != 1 || held[0].Busy || held[0].Generation != 1 || !slices.Equal(held[0].Steps, []uint64{7, 6}) ||
		held[0].Replica != 1 || held[0].Column != 3 || held[0].Numerics != "cpu/1" {
		t.Errorf("held: %+v", held)
	}
	b, err := other.Adopt(testKey(), 2, 6, 0)
	if err != nil {
		t.Fatal(err)
	}
	holdsIts(t, b, 6)
	if !slices.Equal(b.Held(), []uint64{6}) || b.Path() != a.Path() {
		t.Errorf("gone back to step 6, it holds %v, in %s instead of %s", b.Held(), b.Path(), a.Path())
	}
	b.Close()
	if n := other.Forget("c", "j/ü", 2); n != 0 {
		t.Error("what generation 2 has is forgotten with what was before it")
	}
	if n := other.Forget("c", "j/ü", 3); n != 1 || len(files(t, dir)) != 0 {
		t.Errorf("%d forgotten, %v left", n, files(t, dir))
	}
}

func TestWhatIsNotTheCellsIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	a := mustMake(t, s, 1)
	step(a, 4)
	a.Close()
	for name, change := range map[string]func(*Key){
		"cluster": func(k *Key) { k.Cluster = "d" }, "job": func(k *Key) { k.Job = "k" },
		"replica": func(k *Key) { k.Replica = 0 }, "column": func(k *Key) { k.Column = 0 },
		"identity": func(k *Key) { k.Identity[31]++ }, "plan": func(k *Key) { k.Plan[0]++ },
		"numerics": func(k *Key) { k.Numerics = "cpu/2" }, "layout": func(k *Key) { k.Layout[5]++ },
		"size": func(k *Key) { k.HalfBytes += PageBytes },
	} {
		k := testKey()
		change(&k)
		if _, err := s.Adopt(k, 2, 4, 0); err == nil {
			t.Errorf("an arena of another %s is taken over", name)
		} else if strings.Contains(err.Error(), "\n\n") {
			t.Errorf("%s: %q", name, err)
		}
	}
	if _, err := s.Adopt(testKey(), 2, 3, 0); !errors.Is(err, ErrStep) {
		t.Errorf("a step it does not hold: %v", err)
	}
	if _, err := s.Adopt(testKey(), 1, 4, 0); err == nil {
		t.Error("a generation takes over its own arena")
	}
	if _, err := s.Adopt(testKey(), 3, 4, 2); !errors.Is(err, ErrStep) {
		t.Errorf("of a history that was given up in generation 2: %v", err)
	}
	if b, err := s.Adopt(testKey(), 2, 4, 1); err != nil {
		t.Error(err)
	} else {
		b.Close()
	}
}

// Every byte of the header page is damaged in turn, and the file cut at random places: nothing but the step that was
// held is ever said to be, and nothing panics.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	a := mustMake(t, s, 1)
	step(a, 4)
	step(a, 5)
	a.Close()
	path := files(t, dir)[0]
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	try := func(b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, h := range s.Held("c", "j/ü") {
			for _, x := range h.Steps {
				if x != 4 && x != 5 {
					t.Fatalf("a damaged arena holds step %d", x)
				}
			}
		}
		b2, err := s.Adopt(testKey(), 2, 5, 0)
		if err != nil {
			refused++
			return
		}
		holdsIts(t, b2, 5)
		b2.Close()
	}
	tried := 0
	for at := range headerBytes {
		// Of names and the zeros behind them a few, of unused bytes none; of the owner's records it takes both.
		if at > offText && at < offSum && at%61 > 0 || at >= offSum+8 && at%64 >= 8 {
			continue
		}
		tried++
		b := slices.Clone(whole)
		b[at] ^= 0x10
		try(b)
	}
	if refused < tried/2 {
		t.Errorf("%d damaged headers of %d are refused", refused, tried)
	}
	refused = 0
	for range 20 {
		try(whole[:rand.IntN(len(whole))])
	}
	if refused != 20 {
		t.Errorf("%d files of 20 that are cut short are refused", refused)
	}
	if removed := s.Sweep("c"); len(removed) != 1 || len(files(t, dir)) != 0 {
		t.Errorf("swept %v", removed)
	}
}

func TestWithoutADirectoryMemoryIsPrivate(t *testing.T) {
	s := Open(Config{Shared: []string{filepath.Join(t.TempDir(), "none", "such")}, Log: slog.New(slog.DiscardHandler)})
	a := mustMake(t, s, 1)
	if a.Kind() != Private || a.Path() != "" {
		t.Errorf("it is in %s at %q", a.Kind(), a.Path())
	}
	step(a, 1)
	step(a, 2)
	a.Close()
	if h := s.Held("c", "j/ü"); len(h) != 1 || !slices.Equal(h[0].Steps, []uint64{2, 1}) {
		t.Errorf("held: %v", h)
	}
	b, err := s.Adopt(testKey(), 2, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	holdsIts(t, b, 1)
	b.Close()
	if n := s.Forget("c", "j/ü", 9); n != 1 || len(s.Held("c", "")) != 0 {
		t.Errorf("%d forgotten", n)
	}
}

func TestDirectoriesOthersCanWriteToAreNotUsed(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if len(s.dirs) != 1 {
		t.Fatalf("directories %v", s.dirs)
	}
	own := s.dirs[0].path
	if err := os.Chmod(own, 0o777); err != nil {
		t.Fatal(err)
	}
	if s := open(t, dir); len(s.dirs) != 0 {
		t.Error("a directory that anybody can write to is used")
	}
	if err := errors.Join(os.Remove(own), os.Symlink(t.TempDir(), own)); err != nil {
		t.Fatal(err)
	}
	if s := open(t, dir); len(s.dirs) != 0 {
		t.Error("a link is followed")
	}
}

func TestMakeUsesWhatLiesAbout(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	a := mustMake(t, s, 1)
	step(a, 1)
	a.Close()
	b := mustMake(t, s, 2)
	defer b.Close()
	if b.Path() != a.Path() || len(b.Held()) != 0 {
		t.Errorf("made %s, which holds %v, though %s lay about", b.Path(), b.Held(), a.Path())
	}
	c := mustMake(t, s, 3) // b is in use
	if c.Path() == b.Path() {
		t.Error("two have one arena")
	}
	c.Close()
	s.Retire(b, 4) // c's, of generation 3
	if left := files(t, dir); !slices.Equal(left, []string{b.Path()}) {
		t.Errorf("left: %v", left)
	}
}

// TestMain is the owner that other tests kill, if they say so in the environment: it steps for ever.
func TestMain(m *testing.M) {
	dir := os.Getenv("ARENA_OWNER")
	if dir == "" {
		os.Exit(m.Run())
	}
	s := Open(Config{Shared: []string{dir}, Log: slog.New(slog.DiscardHandler)})
	k := testKey()
	k.HalfBytes = 64 * PageBytes
	a, err := s.Make(k, 1)
	if err != nil {
		panic(err)
	}
	for n := uint64(0); ; n++ {
		half := int(n % 2)
		a.Begin(half)
		b := a.Half(half)
		for i := 0; i < len(b); i += 8 { // slow enough to be killed in
			binary.LittleEndian.PutUint64(b[i:], n)
		}
		a.Finish(half, n)
		if n == 0 {
			os.Stdout.WriteString("begun\n")
		}
	}
}

// startOwner starts a process that has an arena in dir and steps.
func startOwner(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "ARENA_OWNER="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if n, err := out.Read(make([]byte, 6)); n == 0 {
		t.Fatal(err)
	}
	return cmd
}

// whole wants every number of a half to be of one step.
func whole(t *testing.T, a *Arena, s uint64) {
	t.Helper()
	want := bytes.Repeat(binary.LittleEndian.AppendUint64(nil, s), len(a.Half(0))/8)
	if !bytes.Equal(a.Half(int(s%2)), want) {
		t.Errorf("step %d is torn", s)
	}
}

// TestKilledOwner kills a process in the middle of its steps, many times: what it held is there, whole, and free.
func TestKilledOwner(t *testing.T) {
	k := testKey()
	k.HalfBytes = 64 * PageBytes
	for range 20 {
		dir := t.TempDir()
		cmd := startOwner(t, dir)
		s := open(t, dir)
		if h := s.Held("c", "j/ü"); len(h) != 1 || !h[0].Busy {
			t.Fatalf("of a process that lives: %+v", h)
		}
		<-time.After(time.Duration(rand.IntN(3000)) * time.Microsecond) // any moment will do
		cmd.Process.Kill()
		cmd.Wait()
		h := s.Held("c", "j/ü")
		if len(h) != 1 || h[0].Busy || len(h[0].Steps) == 0 {
			t.Fatalf("of a process that was killed: %+v", h)
		}
		a, err := s.Adopt(k, 2, h[0].Steps[len(h[0].Steps)-1], 0)
		if err != nil {
			t.Fatal(err)
		}
		whole(t, a, a.Held()[0])
		a.Close()
	}
}

// TestStoppedOwner stops a process: its steps are copied, and what it does when it wakes reaches nobody. From one that
// goes on nothing is taken.
func TestStoppedOwner(t *testing.T) {
	k := testKey()
	k.HalfBytes = 64 * PageBytes
	dir := t.TempDir()
	cmd := startOwner(t, dir)
	s := open(t, dir)
	refused := 0
	for range 20 {
		at := s.Held("c", "j/ü")[0].Steps[0]
		a, err := s.Adopt(k, 2, at, 0)
		if err != nil {
			refused++
			continue
		}
		whole(t, a, at) // it was quick enough
		a.Remove()
	}
	if refused == 0 {
		t.Error("copies are made of what goes on, and nothing notices")
	}
	if n := s.Forget("c", "j/ü", 9) + len(s.Sweep("d")); n > 0 {
		t.Errorf("%d arenas in use are removed", n)
	}
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for stopped := false; !stopped; {
		var status syscall.WaitStatus
		if _, err := syscall.Wait4(cmd.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil {
			t.Fatal(err)
		}
		stopped = status.Stopped()
	}
	held := s.Held("c", "j/ü")[0].Steps
	at := held[len(held)-1]
	a, err := s.Adopt(k, 2, at, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for s.peekNewest(t, 1) <= at+4 { // until it has written both halves again
		runtime.Gosched()
	}
	whole(t, a, at)
	if n := len(files(t, dir)); n != 2 {
		t.Errorf("%d files", n)
	}
}

// peekNewest is the newest step of a generation's arena.
func (s *Store) peekNewest(t *testing.T, generation uint64) uint64 {
	for _, h := range s.Held("c", "j/ü") {
		if h.Generation == generation && len(h.Steps) > 0 {
			return h.Steps[0]
		}
	}
	return 0
}

// TestWatch sees steps from outside, through arenas that come, go, and come again under the same name.
func TestWatch(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	w := open(t, dir).Watch(testKey().Cluster, testKey().Job)
	defer w.Close()
	cell := [2]int{testKey().Replica, testKey().Column}
	sees := func(want uint64) {
		t.Helper()
		deadline := time.Now().Add(10 * time.Second)
		for w.Newest()[cell] != want { // the directory is looked at again after a while
			if time.Now().After(deadline) {
				t.Fatalf("it sees %v, want step %d", w.Newest(), want)
			}
			runtime.Gosched()
		}
	}
	sees(0)
	for n := range uint64(3) {
		a := mustMake(t, s, 1)
		step(a, 10*n+1)
		sees(10*n + 1)
		step(a, 10*n+2)
		if got := w.Newest()[cell]; got != 10*n+2 {
			t.Errorf("step %d, want %d: a step is seen at once", got, 10*n+2)
		}
		if len(w.Newest()) != 1 {
			t.Errorf("%v: one cell has an arena", w.Newest())
		}
		for _, path := range files(t, dir) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		sees(0)
	}
	other := s.Watch(testKey().Cluster, "another")
	defer other.Close()
	mustMake(t, s, 1)
	if got := other.Newest(); len(got) > 0 {
		t.Errorf("another job's: %v", got)
	}
}
