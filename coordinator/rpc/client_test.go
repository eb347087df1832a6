package rpc

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"colonnade/coordinator/control"
	"colonnade/coordinator/fsm"
	"colonnade/proto/clusterpb"
)

// fake is a coordinator that answers as it is told to.
type fake struct {
	clusterpb.UnimplementedOperatorServer
	address string
	stop    func()

	mu     sync.Mutex
	asked  int
	answer func(n int) error // to the n-th question
}

func (f *fake) GetJob(context.Context, *clusterpb.GetJobRequest) (*clusterpb.Job, error) {
	f.mu.Lock()
	f.asked++
	n, answer := f.asked, f.answer
	f.mu.Unlock()
	if err := answer(n); err != nil {
		return nil, err
	}
	return &clusterpb.Job{Name: f.address}, nil
}

func (f *fake) WatchJob(r *clusterpb.GetJobRequest, stream grpc.ServerStreamingServer[clusterpb.JobUpdate]) error {
	j, err := f.GetJob(stream.Context(), r)
	if err != nil {
		return err
	}
	return stream.Send(&clusterpb.JobUpdate{Job: j})
}

func startFake(t *testing.T, answer func(int) error) *fake {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{address: l.Addr().String(), answer: answer}
	s := grpc.NewServer()
	clusterpb.RegisterOperatorServer(s, f)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	f.stop = sync.OnceFunc(func() { s.Stop(); <-served })
	t.Cleanup(f.stop)
	return f
}

func leads(int) error { return nil }

func follows(leader string) func(int) error {
	return func(int) error { return toStatus(control.ErrNotLeading, &clusterpb.Redirect{Leader: leader}) }
}

// ask asks for a job and returns who answered.
func ask(t *testing.T, limit time.Duration, addresses ...string) (string, error) {
	t.Helper()
	c, err := NewClient(addresses)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	j, err := clusterpb.NewOperatorClient(c).GetJob(ctx, &clusterpb.GetJobRequest{})
	return j.GetName(), err
}

// nobody is an address at which nothing listens.
func nobody(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestClientFindsTheLeader(t *testing.T) {
	leader := startFake(t, leads)
	knows, lost := startFake(t, follows(leader.address)), startFake(t, follows(""))
	wrong := startFake(t, follows(nobody(t)))
	loop := startFake(t, nil)
	loop.answer = follows(loop.address)
	soon := startFake(t, func(n int) error {
		if n < 5 {
			return follows("")(n)
		}
		return nil
	})
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for name, tt := range map[string]struct {
		addresses []string
		want      string
	}{
		"the first":               {[]string{leader.address}, leader.address},
		"the last":                {[]string{nobody(t), lost.address, leader.address}, leader.address},
		"sent there":              {[]string{knows.address}, leader.address},
		"sent to one who is gone": {[]string{wrong.address, leader.address}, leader.address},
		"sent in circles":         {[]string{loop.address, leader.address}, leader.address},
		"behind a stopped one":    {[]string{silent.Addr().String(), knows.address}, leader.address},
		"elected meanwhile":       {[]string{nobody(t), soon.address}, soon.address},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := ask(t, limit, tt.addresses...); err != nil || got != tt.want {
				t.Errorf("%q answered: %v; want %q", got, err, tt.want)
			}
		})
	}
}

// dies is the address of one that is there until the first call, and is gone before it has looked at that: its
// connection says so (HTTP/2's GOAWAY, of no stream), whereupon gRPC makes the call again, on the next connection there
// is.
func dies(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		const settings, goAway, headers = 4, 7, 1
		frame := func(kind byte, length byte) []byte { return []byte{0, 0, length, kind, 0, 0, 0, 0, 0} }
		preface := make([]byte, len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
		if _, err := io.ReadFull(c, preface); err != nil {
			return
		}
		c.Write(frame(settings, 0))
		for {
			head := make([]byte, 9)
			if _, err := io.ReadFull(c, head); err != nil {
				return
			}
			if head[3] == headers {
				l.Close() // nobody gets there any more
				c.Write(append(frame(goAway, 8), make([]byte, 8)...))
				return
			}
			if _, err := io.CopyN(io.Discard, c, int64(head[0])<<16|int64(head[1])<<8|int64(head[2])); err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { l.Close(); <-served })
	return l.Addr().String()
}

// A stream that is opened again and again gets to the leader, whether its coordinator is gone, sends it elsewhere or
// does not know.
func TestStreamsFindTheLeader(t *testing.T) {
	leader := startFake(t, leads)
	for name, addresses := range map[string][]string{
		"gone":  {nobody(t), leader.address},
		"sent":  {startFake(t, follows(leader.address)).address},
		"lost":  {startFake(t, follows("")).address, leader.address},
		"wrong": {startFake(t, follows(nobody(t))).address, leader.address},
		"dies":  {dies(t), leader.address},
	} {
		c, err := NewClient(addresses)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		for range 4 {
			w, err := clusterpb.NewOperatorClient(c).WatchJob(ctx, &clusterpb.GetJobRequest{Name: "j"},
				grpc.WaitForReady(true))
			if err != nil {
				continue
			}
			if u, err := w.Recv(); err == nil {
				got = u.Job.Name
				break
			}
		}
		if got != leader.address {
			t.Errorf("%s: %q answered", name, got)
		}
		cancel()
		c.Close()
	}
}

func TestClientGivesUp(t *testing.T) {
	began := time.Now()
	_, err := ask(t, limit, nobody(t), nobody(t))
	if status.Code(err) != codes.Unavailable || time.Since(began) > limit/2 {
		t.Errorf("nobody there: %v after %v", err, time.Since(began))
	}
	lost := startFake(t, follows(""))
	_, err = ask(t, 300*time.Millisecond, nobody(t), lost.address)
	if !errors.Is(FromStatus(err), control.ErrNotLeading) {
		t.Errorf("no leader: %v", err)
	}
	if lost.asked < 2 {
		t.Errorf("asked %d times", lost.asked)
	}
	refuses := startFake(t, func(int) error { return toStatus(fsm.ErrNoJob) })
	if _, err := ask(t, limit, refuses.address, startFake(t, leads).address); !errors.Is(FromStatus(err), fsm.ErrNoJob) {
		t.Errorf("an answer is an answer: %v", err)
	}
	if _, err := NewClient([]string{"\x7f:1"}); err == nil {
		t.Error("nonsense is an address")
	} else if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than a line: %v", err)
	}
}

// A client that has had answers waits for them to come back, and asks the one that answered last first.
func TestClientStays(t *testing.T) {
	a, b := startFake(t, leads), startFake(t, leads)
	c, err := NewClient([]string{a.address, b.address})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	client := clusterpb.NewOperatorClient(c)
	who := func() string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		j, err := client.GetJob(ctx, &clusterpb.GetJobRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return j.Name
	}
	if got := who(); got != a.address {
		t.Errorf("%s answered", got)
	}
	a.stop()
	if got := who(); got != b.address {
		t.Errorf("%s answered", got)
	}
	b.stop()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := client.GetJob(ctx, &clusterpb.GetJobRequest{}); err == nil || time.Since(began) < 100*time.Millisecond {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}
