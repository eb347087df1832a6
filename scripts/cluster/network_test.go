package cluster

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain runs the tests in a network namespace of their own, where the system lets it.
func TestMain(m *testing.M) {
	if !Isolated() {
		if code, err := Isolate(); err == nil {
			os.Exit(code)
		}
	}
	os.Exit(m.Run())
}

// limit ends a test that hangs; short waits show only that nothing arrives.
const limit = 20 * time.Second

// socket is a UDP socket in a node's network.
func socket(t *testing.T, w *Network, node int) *net.UDPConn {
	t.Helper()
	var c *net.UDPConn
	err := w.launcher.do(func() error {
		return w.Nodes[node].within(func() (err error) {
			c, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(w.Nodes[node].Address), Port: 9})
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestLinks(t *testing.T) {
	if !Isolated() {
		t.Skip("network namespaces need root")
	}
	l := NewLauncher()
	defer l.Close()
	w, err := Namespaced(l, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var nodes []*net.UDPConn
	for i := range 3 {
		nodes = append(nodes, socket(t, w, i))
	}
	sent := 0
	send := func(from, to int) []byte {
		t.Helper()
		sent++
		text := fmt.Appendf(nil, "message %d from %d to %d", sent, from, to)
		if _, err := nodes[from].WriteTo(text, nodes[to].LocalAddr()); err != nil {
			t.Fatal(err)
		}
		return text
	}
	// arrives wants a message, and no other, within a time.
	arrives := func(to int, text []byte, within time.Duration) bool {
		t.Helper()
		if err := nodes[to].SetReadDeadline(time.Now().Add(within)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		n, err := nodes[to].Read(buf)
		if err == nil && !bytes.Equal(buf[:n], text) {
			t.Fatalf("got %q, want %q", buf[:n], text)
		}
		return err == nil
	}
	each := func(f func(from, to int)) {
		for from := range 3 {
			for to := range 3 {
				if from != to {
					f(from, to)
				}
			}
		}
	}
	all := func(what string) {
		t.Helper()
		each(func(from, to int) {
			if !arrives(to, send(from, to), limit) {
				t.Errorf("%s: %d does not hear %d", what, to, from)
			}
		})
	}
	all("whole")

	cut := Link{0, 1}
	if err := w.Cut(cut); err != nil {
		t.Fatal(err)
	}
	each(func(from, to int) {
		wait := limit
		if (Link{from, to}) == cut {
			wait = 50 * time.Millisecond
		}
		if heard := arrives(to, send(from, to), wait); heard == (Link{from, to} == cut) {
			t.Errorf("0 to 1 is cut: %d hears %d: %v", to, from, heard)
		}
	})
	if err := w.Mend(cut); err != nil {
		t.Fatal(err)
	}
	all("mended")

	if err := w.Unplug(2, true); err != nil {
		t.Fatal(err)
	}
	if arrives(2, send(0, 2), 50*time.Millisecond) {
		t.Error("an unplugged node hears")
	}
	if err := w.Unplug(2, false); err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); !arrives(2, send(0, 2), 50*time.Millisecond); { // the kernel takes its time
		if time.Since(began) > limit {
			t.Fatal("a node that is plugged in again does not hear")
		}
	}
	all("plugged in again")

	if !w.Slows() {
		t.Skip("no tap devices")
	}
	const late = 30 * time.Millisecond
	if err := w.Slow(Quality{Delay: late, Jitter: late}, Link{1, 2}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	first, second := send(1, 2), send(1, 2)
	if !arrives(2, first, limit) || !arrives(2, second, limit) {
		t.Error("a slow link loses messages")
	}
	if took := time.Since(began); took < late {
		t.Errorf("a slow link takes %v, want %v at least", took, late)
	}
	if err := w.Slow(Quality{Loss: 1}, Link{1, 2}); err != nil {
		t.Fatal(err)
	}
	if arrives(2, send(1, 2), 50*time.Millisecond) {
		t.Error("a link that loses all delivers")
	}
	if err := w.Mend(Link{1, 2}); err != nil {
		t.Fatal(err)
	}
	all("fast again")
}

// TestProcessesDie wants what was started to die with the launcher, even when it is stopped.
func TestProcessesDie(t *testing.T) {
	l := NewLauncher()
	p, err := l.Start(Node{}, t.TempDir()+"/log", "sleep", "1000")
	if err != nil {
		t.Fatal(err)
	}
	p.Signal(unix.SIGSTOP)
	l.Close()
	select {
	case <-p.Done():
	case <-time.After(limit):
		t.Error("it lives")
		p.Kill()
	}
}
