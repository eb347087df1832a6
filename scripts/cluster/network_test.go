package cluster

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"slices"
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

// wires is a network with a socket in each node.
type wires struct {
	*testing.T
	*Network
	sockets []*net.UDPConn
	sent    int
}

func (w *wires) send(from, to int) []byte {
	w.Helper()
	w.sent++
	text := fmt.Appendf(nil, "message %d from %d to %d", w.sent, from, to)
	if _, err := w.sockets[from].WriteTo(text, w.sockets[to].LocalAddr()); err != nil {
		w.Fatal(err)
	}
	return text
}

// arrives wants a message, and no other, within a time.
func (w *wires) arrives(to int, text []byte, within time.Duration) bool {
	w.Helper()
	if err := w.sockets[to].SetReadDeadline(time.Now().Add(within)); err != nil {
		w.Fatal(err)
	}
	buf := make([]byte, 100)
	n, err := w.sockets[to].Read(buf)
	if err == nil && !bytes.Equal(buf[:n], text) {
		w.Fatalf("got %q, want %q", buf[:n], text)
	}
	return err == nil
}

// heard wants all to hear each other, but for the directions that are cut.
func (w *wires) heard(what string, cut ...Link) {
	w.Helper()
	for from := range w.sockets {
		for to := range w.sockets {
			l, wait := Link{from, to}, limit
			if slices.Contains(cut, l) {
				wait = 50 * time.Millisecond
			}
			if from == to {
				continue
			}
			if heard := w.arrives(to, w.send(from, to), wait); heard == slices.Contains(cut, l) {
				w.Errorf("%s: %v: heard: %v", what, l, heard)
			}
		}
	}
}

func (w *wires) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func TestLinks(t *testing.T) {
	if !Isolated() {
		t.Skip("network namespaces need root")
	}
	l := NewLauncher()
	defer l.Close()
	network, err := Namespaced(l, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer network.Close()
	w := &wires{T: t, Network: network}
	for i := range 3 {
		w.sockets = append(w.sockets, socket(t, network, i))
	}
	w.heard("whole")
	w.must(w.Cut(Link{0, 1}))
	w.heard("cut", Link{0, 1})
	w.must(w.Mend(Link{0, 1}))
	w.heard("mended")

	w.must(w.Unplug(2, true))
	if w.arrives(2, w.send(0, 2), 50*time.Millisecond) {
		t.Error("an unplugged node hears")
	}
	w.must(w.Unplug(2, false))
	for began := time.Now(); !w.arrives(2, w.send(0, 2), 50*time.Millisecond); { // the kernel takes its time
		if time.Since(began) > limit {
			t.Fatal("a node that is plugged in again does not hear")
		}
	}
	w.heard("plugged in again")

	if !w.Slows() {
		t.Skip("no tap devices")
	}
	const late = 30 * time.Millisecond
	w.must(w.Slow(Quality{Delay: late, Jitter: late}, Link{1, 2}))
	began := time.Now()
	first, second := w.send(1, 2), w.send(1, 2)
	if !w.arrives(2, first, limit) || !w.arrives(2, second, limit) {
		t.Error("a slow link loses messages")
	}
	if took := time.Since(began); took < late {
		t.Errorf("a slow link takes %v, want %v at least", took, late)
	}
	w.must(w.Slow(Quality{Loss: 1}, Link{1, 2}))
	w.heard("all is lost", Link{1, 2})
	w.must(w.Mend(Link{1, 2}))
	w.heard("fast again")
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
