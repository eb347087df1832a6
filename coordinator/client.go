package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/term"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"colonnade/proto/clusterpb"
)

// defaultAddress is where a coordinator listens unless told otherwise.
const defaultAddress = "127.0.0.1:7400"

// clientFlags are the flags of every command that talks to a coordinator.
type clientFlags struct {
	Coordinator string        `default:"${address}" env:"COLONNADE_COORDINATOR" placeholder:"ADDR" help:"Coordinator, host:port."`
	Timeout     time.Duration `default:"10s" help:"How long to wait for an answer."`
	JSON        bool          `help:"Print as JSON."`
}

// call runs f with a client of the coordinator.
func (c *clientFlags) call(ctx context.Context, f func(context.Context, clusterpb.OperatorClient) error) error {
	conn, err := grpc.NewClient(c.Coordinator, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("coordinator %s: %w", c.Coordinator, err)
	}
	defer conn.Close()
	return friendly(f(ctx, clusterpb.NewOperatorClient(conn)), c.Coordinator)
}

// ask is call with the answer's time limit.
func (c *clientFlags) ask(f func(context.Context, clusterpb.OperatorClient) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), c.Timeout)
	defer cancel()
	return c.call(ctx, f)
}

// friendly turns a gRPC error into one line that says what to do.
func friendly(err error, address string) error {
	s, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	switch s.Code() {
	case codes.Unavailable, codes.DeadlineExceeded:
		return fmt.Errorf("no coordinator answers at %s; start one with: coordinator start --data DIR, "+
			"or name another with --coordinator ADDR", address)
	default:
		return errors.New(s.Message())
	}
}

// printProto prints a message as indented JSON.
func printProto(out io.Writer, m proto.Message) error {
	b, err := protojson.MarshalOptions{
		Multiline: true, Indent: "  ", UseProtoNames: true, EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, string(b))
	return err
}

// printJSON prints a value as indented JSON.
func printJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// maxInput bounds what is read from a file a user names: job and network files are a few kilobytes.
const maxInput = 1 << 20

// readFile reads a small file.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxInput+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxInput {
		return nil, fmt.Errorf("%s is larger than %d bytes: not a job or network file", path, maxInput)
	}
	return b, nil
}
