package exchange

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// peerVariable makes this test binary the other process of a pair; it holds the directory for shared memory.
const peerVariable = "COLONNADE_EXCHANGE_PEER"

// deviceVariable puts its cell on a device: "work", or "sleep" to stop itself before it puts the tenth message.
const deviceVariable = "COLONNADE_EXCHANGE_DEVICE"

// peerSilence is long enough for a crowded machine, and short for a test.
const peerSilence = time.Second

// peerProcess is the life of the other process: it prints its address, reads "address generation" lines, and trades
// messages with cell 0 there as cell 1 until the link breaks; then it says why and reads the next line.
func peerProcess() int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	mesh := New(Config{Worker: "child", Silence: peerSilence, Rings: []string{os.Getenv(peerVariable)},
		Log: slog.New(slog.DiscardHandler)})
	server := mesh.NewServer()
	go func() { _ = server.Serve(l) }() // ends with the process
	fmt.Println(l.Addr())
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		g := Group{Job: "job", Numerics: "test", Local: []Cell{{Column: 1}}, Carrier: CarrierSHM}
		peer := Peer{Worker: "parent"}
		if _, err := fmt.Sscan(lines.Text(), &peer.Address, &g.Generation); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		g.Peers = []Peer{peer}
		if os.Getenv(deviceVariable) != "" {
			d := newMemory(os.Getenv(peerVariable))
			g.Carrier = CarrierPeer
			devices(&g, d)
			g.Largest = tradeBytes
			puts := 0
			d.puts = func() {
				if puts++; puts == 10 && os.Getenv(deviceVariable) == "sleep" {
					_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
				}
			}
		}
		m, err := mesh.Join(context.Background(), g)
		if err == nil {
			if ex := m.Exchanger(Cell{Column: 1}); g.Devices != nil {
				err = trade(deviceEnd(m, Cell{Column: 1}), 1, 1<<62, nil)
			} else {
				err = trade(ex, 1, 1<<62, nil)
			}
			m.Close()
		}
		fmt.Println(err)
	}
	return 0
}

// tradeBytes are larger than what the two slots hold, so that there is always someone in the middle of a message.
const tradeBytes = 5*ChunkBytes + 5

// trade sends and receives a message a step, as cell `me` of two.
func trade(ex Exchanger, me int, steps uint64, each func(step uint64)) error {
	ctx, other := context.Background(), Cell{Column: 1 - me}
	got := make([]byte, tradeBytes)
	for step := range steps {
		tag := Tag{Step: step, Exchange: 1}
		if err := ex.Send(ctx, other, tag, payload(tradeBytes, byte(step)+byte(me))); err != nil {
			return err
		}
		if err := ex.Recv(ctx, other, tag, got); err != nil {
			return err
		}
		if !bytes.Equal(got, payload(tradeBytes, byte(step)+byte(1-me))) {
			return fmt.Errorf("step %d: bytes differ", step)
		}
		if each != nil {
			each(step)
		}
	}
	return nil
}

// child is the other process.
type child struct {
	cmd     *exec.Cmd
	in      io.Writer
	out     *bufio.Scanner
	address string
}

func startChild(t *testing.T, dir string, env ...string) *child {
	t.Helper()
	c := &child{cmd: exec.Command(os.Args[0])}
	c.cmd.Env = append(append(os.Environ(), env...), peerVariable+"="+dir)
	c.cmd.Stderr = os.Stderr
	in, errIn := c.cmd.StdinPipe()
	out, errOut := c.cmd.StdoutPipe()
	if err := errors.Join(errIn, errOut, c.cmd.Start()); err != nil {
		t.Fatal(err)
	}
	c.in, c.out = in, bufio.NewScanner(out)
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill() // it may be gone
		_ = c.cmd.Wait()         // killed is no clean exit
	})
	c.address = c.line(t)
	return c
}

func (c *child) line(t *testing.T) string {
	t.Helper()
	if !c.out.Scan() {
		t.Fatalf("the child has ended: %v", c.out.Err())
	}
	return c.out.Text()
}

// join links with the child in a generation, from a device if there is one.
func (c *child) join(t *testing.T, n *node, generation uint64, d *memory) *Membership {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := fmt.Fprintln(c.in, n.address, generation); err != nil {
		t.Fatal(err)
	}
	g := Group{Job: "job", Numerics: "test", Generation: generation, Local: []Cell{{}}, Carrier: CarrierSHM,
		Peers: []Peer{{Cell: Cell{Column: 1}, Worker: "child", Address: c.address}}}
	if d != nil {
		devices(&g, d)
		g.Carrier, g.Largest = CarrierPeer, tradeBytes
	}
	m, err := n.mesh.Join(ctx, g)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestTwoProcesses trades messages with another process through shared memory and kills it, or stops it, in the middle
// of a step: it is named, at once when it is dead and after the silence when it is stopped; nothing is left in the
// directory; and the next generation works, whatever the stopped one does when it goes on.
func TestTwoProcesses(t *testing.T) {
	for name, c := range map[string]struct {
		signal syscall.Signal
		says   string
	}{
		"killed":  {syscall.SIGKILL, "its connection broke"},
		"stopped": {syscall.SIGSTOP, fmt.Sprintf("silent for %v", peerSilence)},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			n := startNode(t, "parent", Config{Silence: peerSilence, Rings: []string{dir}})
			first := startChild(t, dir)
			m := first.join(t, n, 1, nil)
			if got := m.Carriers(Cell{}); got != "shm" {
				t.Errorf("carrier %q", got)
			}
			err := trade(m.Exchanger(Cell{}), 0, 1<<62, func(step uint64) {
				if step == 20 {
					if err := first.cmd.Process.Signal(c.signal); err != nil {
						t.Error(err)
					}
				}
			})
			var peer *PeerError
			if !errors.As(err, &peer) || peer.Worker != "child" || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want the lost peer's name and %q", err, c.says)
			}
			m.Abort("peer lost")
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
			second := startChild(t, dir)
			m = second.join(t, n, 2, nil)
			defer m.Close()
			awake := c.signal == syscall.SIGKILL
			err = trade(m.Exchanger(Cell{}), 0, 40, func(step uint64) {
				if step == 10 && !awake {
					awake = true
					if err := first.cmd.Process.Signal(syscall.SIGCONT); err != nil {
						t.Error(err)
					}
				}
			})
			if err != nil {
				t.Errorf("the next generation: %v", err)
			}
			if c.signal == syscall.SIGSTOP {
				if why := first.line(t); why == "<nil>" || strings.Contains(why, "differ") {
					t.Errorf("the one that slept says %q", why)
				}
			}
		})
	}
}

// BenchmarkExchange has two cells send each other a message and receive the other's, as columns do before a layer.
func BenchmarkExchange(b *testing.B) {
	for _, name := range []string{"local", "shm", "grpc"} {
		for _, kib := range []int{11 << 10, 2458, 1 << 10} {
			b.Run(fmt.Sprintf("%s/%.1fMiB", name, float64(kib)/1024), func(b *testing.B) {
				benchmarkPair(b, carriers[name], kib<<10)
			})
		}
	}
}

func benchmarkPair(b *testing.B, c carrier, size int) {
	ctx := context.Background()
	ex, _ := joinAll(b, ctx, c.at(2), Config{}, func(_ int, g *Group) { g.Carrier, g.Largest = c.force, uint64(size) })
	data := [2][]byte{payload(size, 0), payload(size, 1)}
	got := [2][]byte{make([]byte, size), make([]byte, size)}
	both := func(me int, steps int) error {
		for step := range steps {
			tag, other := Tag{Step: uint64(step)}, Cell{Column: 1 - me}
			if err := ex[me].Send(ctx, other, tag, data[me]); err != nil {
				return err
			}
			if err := ex[me].Recv(ctx, other, tag, got[me]); err != nil {
				return err
			}
		}
		return nil
	}
	b.SetBytes(2 * int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	second := make(chan error, 1)
	go func() { second <- both(1, b.N) }()
	if err := errors.Join(both(0, b.N), <-second); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	if !bytes.Equal(got[0], data[1]) || !bytes.Equal(got[1], data[0]) {
		b.Fatal("bytes differ")
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(b.N), "ms/exchange")
}
