package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"colonnade/coordinator/control"
	"colonnade/coordinator/rpc"
	"colonnade/proto/clusterpb"
)

// defaultAddress is where a coordinator listens unless told otherwise.
const defaultAddress = "127.0.0.1:7400"

// defaultWeb is where a coordinator serves the dashboard unless told otherwise.
const defaultWeb = "127.0.0.1:7401"

// clientFlags are the flags of every command that talks to a coordinator.
type clientFlags struct {
	Coordinator []string      `default:"${address}" env:"COLONNADE_COORDINATOR" sep:"," placeholder:"ADDR" help:"Coordinators, host:port, comma-separated: any of the cluster's; the leader is found from there. Default: ${address}."`
	Timeout     time.Duration `default:"10s" help:"How long to wait for an answer."`
	JSON        bool          `help:"Print as JSON, in the words of proto/clusterpb/cluster.proto."`
}

// at is where the coordinators are said to be.
func (c *clientFlags) at() string { return strings.Join(c.Coordinator, ", ") }

// call runs f with a client of the coordinators.
func (c *clientFlags) call(ctx context.Context, f func(context.Context, clusterpb.OperatorClient) error) error {
	if len(c.Coordinator) == 0 {
		return usagef("--coordinator has no address; give host:port, e.g. %s", defaultAddress)
	}
	for _, a := range c.Coordinator {
		if err := checkAddress("--coordinator", a); err != nil {
			return err
		}
	}
	if c.Timeout <= 0 {
		return usagef("--timeout %v; give how long to wait, e.g. 10s", c.Timeout)
	}
	client, err := rpc.NewClient(c.Coordinator)
	if err != nil {
		return usagef("--coordinator %s: %w; give host:port, e.g. %s", c.at(), err, defaultAddress)
	}
	defer client.Close()
	return c.friendly(f(ctx, clusterpb.NewOperatorClient(client)))
}

// checkAddress wants host:port.
func checkAddress(flag, address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		var a *net.AddrError
		if errors.As(err, &a) {
			err = errors.New(a.Err)
		}
		return usagef("%s %s: %w; give host:port, e.g. %s", flag, address, err, defaultAddress)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return usagef("%s %s: %q is no port; give host:port, e.g. %s", flag, address, port, defaultAddress)
	}
	return nil
}

// leaderPoll is how often coordinators without a leader are looked at again.
const leaderPoll = 50 * time.Millisecond

// ask is call with the answer's time limit, within which a leader is waited for if there are coordinators at all.
func (c *clientFlags) ask(f func(context.Context, clusterpb.OperatorClient) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), c.Timeout)
	defer cancel()
	return c.call(ctx, f)
}

// interruptible is a context that ends when the program is interrupted.
func interruptible() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
}

// tail runs f, which shows what a stream brings, within the answer's time limit, or, to follow it, until ctx ends: then
// f is run again when its coordinator goes away, until none has been reached for the time limit.
func (c *clientFlags) tail(ctx context.Context, con console, follow bool, f func(context.Context,
	clusterpb.OperatorClient) error) error {
	if !follow {
		return c.ask(f)
	}
	return c.call(ctx, func(ctx context.Context, client clusterpb.OperatorClient) error {
		away := time.Time{} // since when
		for {
			err := f(ctx, client)
			switch {
			case ctx.Err() != nil:
				return nil
			case status.Code(err) != codes.Unavailable:
				return err
			case away.IsZero():
				away = con.now()
			}
			limited, cancel := context.WithTimeout(ctx, c.Timeout)
			if _, err = client.Status(limited, &clusterpb.StatusRequest{Local: true}); err == nil {
				away = time.Time{}
			}
			cancel()
			if !away.IsZero() && con.now().Sub(away) > c.Timeout {
				return err
			}
			again := time.NewTimer(leaderPoll)
			select {
			case <-again.C:
			case <-ctx.Done():
				again.Stop()
				return nil
			}
		}
	})
}

// friendly turns a gRPC error into one line that says what to do.
func (c *clientFlags) friendly(err error) error {
	s, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	switch known := rpc.FromStatus(err); {
	case errors.Is(known, control.ErrNotLeading):
		return fmt.Errorf("the coordinators at %s have no leader; see what one knows: coordinator status --local, or "+
			"try again with a longer --timeout", c.at())
	case known != err:
		return known
	}
	switch s.Code() {
	case codes.Unavailable:
		return fmt.Errorf("no coordinator answers at %s; start one with: coordinator start --data DIR, "+
			"or name another with --coordinator ADDR", c.at())
	case codes.DeadlineExceeded:
		return fmt.Errorf("no answer from %s within %v; see whether a coordinator runs there, or give it a longer --timeout",
			c.at(), c.Timeout)
	case codes.Unimplemented, codes.Unknown:
		return fmt.Errorf("what answers at %s is no coordinator of this version; name another with --coordinator ADDR",
			c.at())
	}
	return errors.New(s.Message())
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
