package port

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open starts a port on loopback; stop ends it and says how it ended.
func open(t *testing.T) (p *Port, stop func() error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p = New(l, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() { stop() })
	return p, stop
}

func dial(t *testing.T, p *Port) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", p.Peers().Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func accept(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// reads wants a connection to say a text and then to end.
func reads(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	b, err := io.ReadAll(conn)
	if err != nil || string(b) != want {
		t.Errorf("read %q: %v; want %q", b, err, want)
	}
}

func say(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
}

func TestFirstByteDecides(t *testing.T) {
	p, _ := open(t)
	silent := dial(t, p) // keeps nobody waiting
	for range 3 {
		say(t, dial(t, p), string([]byte{Peer})+"raft")
		reads(t, accept(t, p.Peers()), "raft")
		say(t, dial(t, p), "PRI * HTTP/2.0")
		reads(t, accept(t, p.Others()), "PRI * HTTP/2.0")
	}
	say(t, silent, "\x16late")
	reads(t, accept(t, p.Others()), "\x16late")
}

// One side's connections that nobody takes are not in the other's way, and closing a side refuses its connections.
func TestSidesDoNotHinderEachOther(t *testing.T) {
	p, _ := open(t)
	var ignored []net.Conn
	for range 20 {
		conn := dial(t, p)
		say(t, conn, string([]byte{Peer}))
		ignored = append(ignored, conn)
	}
	say(t, dial(t, p), "others")
	reads(t, accept(t, p.Others()), "others")
	if err := p.Peers().Close(); err != nil {
		t.Fatal(err)
	}
	for _, conn := range ignored {
		reads(t, conn, "")
	}
	if _, err := p.Peers().Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept on a closed side: %v", err)
	}
	say(t, dial(t, p), "others")
	reads(t, accept(t, p.Others()), "others")
}

// When Run has returned, nobody waits any more: not those who accept, nor those who have not said what they are.
func TestStop(t *testing.T) {
	p, stop := open(t)
	silent, untaken := dial(t, p), dial(t, p)
	say(t, untaken, "others")
	say(t, dial(t, p), string([]byte{Peer})) // taken after all that came before it
	taken := accept(t, p.Peers())
	waiting := make(chan error, 1)
	go func() {
		_, err := p.Peers().Accept()
		waiting <- err
	}()
	if err := stop(); err != nil {
		t.Errorf("Run ended with %v", err)
	}
	if err := <-waiting; !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept: %v", err)
	}
	for _, conn := range []net.Conn{silent, untaken} {
		if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) || err == nil {
			t.Errorf("a connection nobody took: %v", err)
		}
	}
	if _, err := net.Dial("tcp", p.Others().Addr().String()); err == nil {
		t.Error("the port still listens")
	}
	if _, err := taken.Write([]byte("x")); err != nil {
		t.Errorf("a connection that was handed over has ended too: %v", err)
	}
}

// failing is a listener that fails a few times, and then for good.
type failing struct {
	net.Listener
	fails chan error
}

func (f failing) Accept() (net.Conn, error) {
	select {
	case err := <-f.fails:
		return nil, err
	default:
		return f.Listener.Accept()
	}
}

func TestFailuresToAccept(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := failing{l, make(chan error, 2)}
	f.fails <- errors.New("too many open files")
	f.fails <- errors.New("too many open files")
	p := New(f, slog.New(slog.DiscardHandler))
	ended := make(chan error, 1)
	go func() { ended <- p.Run(t.Context()) }()
	say(t, dial(t, p), "others")
	reads(t, accept(t, p.Others()), "others")
	l.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Run ended with %v", err)
	}
}
