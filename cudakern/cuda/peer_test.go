//go:build cuda && cgo

package cuda

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"colonnade/cudakern"
)

func init() { cases["land"], cases["no peers"] = land, noPeers }

// TestPeers copies between two GPUs of this process, straight and by way of the host.
func TestPeers(t *testing.T) {
	t.Setenv(ptxVariable, emptyImage(t))
	a, b := openTest(t, "cuda:0"), openTest(t, "cuda:1")
	st := streamTest(t, a)
	const n = 100_003
	src, dst := must(a.AllocBytes(n))(t), must(b.AllocBytes(n))(t)
	defer src.Free()
	defer dst.Free()
	want, got := pattern(n), make([]byte, n)
	other := streamTest(t, b)
	if err := errors.Join(a.CopyIn(st, src, want), a.Copy(st, dst, src)); err != nil {
		t.Fatal(err)
	}
	done := must(st.Record())(t)
	if err := errors.Join(other.Wait(done), b.CopyOut(other, got, dst), other.Sync()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("other bytes arrive on the other GPU")
	}
}

// TestLanding puts bytes into memory of another GPU of this process, and of the same one, at an odd place. The landing
// outlives the devices.
func TestLanding(t *testing.T) {
	t.Setenv(ptxVariable, emptyImage(t))
	for _, name := range []string{"cuda:0", "cuda:1"} {
		t.Run(name, func(t *testing.T) {
			const n, at = 100_003, 4099
			want, got := pattern(n), make([]byte, n)
			var l cudakern.Landing
			func() {
				a, b := must(openWith("cuda:0"))(t), must(openWith(name))(t)
				sa, sb := must(a.NewStream())(t), must(b.NewStream())(t)
				src, dst := must(a.AllocBytes(n))(t), must(b.AllocBytes(n))(t)
				l = must(b.NewLanding(at + n))(t)
				if err := errors.Join(a.Reach(l), a.CopyIn(sa, src, want), a.Put(sa, l, at, src), sa.Sync(),
					b.Take(sb, dst, l, at), b.CopyOut(sb, got, dst), sb.Sync()); err != nil {
					t.Error(err)
				}
				if !bytes.Equal(got, want) {
					t.Error("other bytes arrive")
				}
				for what, err := range map[string]error{"put past the end": a.Put(sa, l, at+1, src),
					"put before the start": a.Put(sa, l, -1, src), "take past the end": b.Take(sb, dst, l, at+1)} {
					if !errors.Is(err, cudakern.ErrShape) {
						t.Errorf("%s: %v", what, err)
					}
				}
				if err := a.Take(sa, src, l, 0); name != "cuda:0" && !errors.Is(err, cudakern.ErrUnsupported) {
					t.Errorf("taken by another GPU: %v", err)
				}
				src.Free()
				dst.Free()
				if err := errors.Join(sa.Close(), sb.Close(), a.Close(), b.Close()); err != nil {
					t.Error(err)
				}
			}()
			if err := errors.Join(l.Close(), l.Close()); err != nil {
				t.Error(err)
			}
			d := openTest(t, "cuda:0")
			st, src := streamTest(t, d), must(d.AllocBytes(n))(t)
			defer src.Free()
			if err := d.Put(st, l, 0, src); !errors.Is(err, cudakern.ErrClosed) {
				t.Errorf("put into what is closed: %v", err)
			}
		})
	}
}

// noPeers says what a GPU that reaches no other one says.
func noPeers() error {
	a, err := openWith("cuda:0")
	if err != nil {
		return err
	}
	b, err := openWith("cuda:1")
	if err != nil {
		return err
	}
	l, err := b.NewLanding(10)
	if err != nil {
		return err
	}
	fmt.Println(errors.Is(a.Reach(l), cudakern.ErrUnsupported), a.Reach(l), b.Reach(l))
	return errors.Join(l.Close(), a.Close(), b.Close())
}

func TestNoPeers(t *testing.T) {
	t.Setenv(ptxVariable, emptyImage(t))
	out, ok := isolated(t, "no peers", "CUDAEMU_PEER=0")
	if !ok || out != "true cuda:0 has no way to memory of cuda:1 but through the host <nil>" {
		t.Error(out)
	}
}

const landBytes = 70_001

// land is a process that makes a landing, and prints its handle; when it is told, what is there.
func land() error {
	return onDevice(func(d *Device, st cudakern.Stream) error {
		l, err := d.NewLanding(landBytes)
		if err != nil {
			return err
		}
		h, err := l.Handle()
		if err != nil {
			return err
		}
		fmt.Printf("%x\n", h)
		if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
			return err
		}
		b, err := d.AllocBytes(landBytes)
		if err != nil {
			return err
		}
		defer b.Free()
		got := make([]byte, landBytes)
		err = errors.Join(d.Take(st, b, l, 0), d.CopyOut(st, got, b))
		fmt.Printf("%x\n", got)
		return errors.Join(err, l.Close())
	})()
}

// TestProcesses puts bytes into memory of another process, on another GPU.
func TestProcesses(t *testing.T) {
	t.Setenv(ptxVariable, emptyImage(t))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), caseVariable+"=land")
	in, errIn := cmd.StdinPipe()
	out, errOut := cmd.StdoutPipe()
	if err := errors.Join(errIn, errOut, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	line := func() []byte {
		s, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		b, err := hex.DecodeString(strings.TrimSpace(s))
		if err != nil {
			t.Fatalf("%v: %.80s", err, s)
		}
		return b
	}
	h := line()
	d := openTest(t, "cuda:1")
	st := streamTest(t, d)
	b := must(d.AllocBytes(landBytes))(t)
	defer b.Free()
	r := must(d.Attach(h))(t)
	want := pattern(landBytes)
	if err := errors.Join(d.CopyIn(st, b, want), d.Put(st, r, 0, b), st.Sync(), r.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(in); err != nil {
		t.Fatal(err)
	}
	if got := line(); !bytes.Equal(got, want) {
		t.Error("other bytes arrive in the other process")
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	own := must(d.NewLanding(10))(t)
	defer own.Close()
	mine := must(own.Handle())(t)
	if _, err := d.Attach(mine); !errors.Is(err, cudakern.ErrUnsupported) {
		t.Errorf("attached to memory of this process: %v", err)
	}
	if _, err := d.Attach(mine[1:]); !errors.Is(err, cudakern.ErrShape) {
		t.Errorf("attached by a handle that is cut: %v", err)
	}
	if _, err := d.Attach(h); !errors.Is(err, cudakern.ErrUnsupported) {
		t.Errorf("attached to memory of a process that has ended: %v", err)
	}
}
