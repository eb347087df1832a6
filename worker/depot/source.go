package depot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"colonnade/proto/exchangepb"
)

func dial(address string, more []grpc.DialOption) (*grpc.ClientConn, error) {
	return grpc.NewClient(address, append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials())}, more...)...)
}

// source is a peer that is asked for a pack's files.
type source struct {
	ctx     context.Context
	conn    *grpc.ClientConn
	silence time.Duration
	want    Want
}

// incoming is a file as it comes. Its reader ends with io.EOF where the file does; err is set when the peer is lost.
type incoming struct {
	ctx    context.Context
	stream grpc.ServerStreamingClient[exchangepb.PackPiece]
	cancel context.CancelCauseFunc
	watch  *time.Timer
	after  time.Duration
	rest   []byte
	err    error
}

// open asks for a file from an offset on.
func (s *source) open(file uint32, offset int64) (*incoming, error) {
	ctx, cancel := context.WithCancelCause(s.ctx) // in.close ends it
	in := &incoming{ctx: ctx, cancel: cancel, after: s.silence}
	in.watch = time.AfterFunc(s.silence, func() { cancel(fmt.Errorf("silent for %v", s.silence)) })
	stream, err := exchangepb.NewPacksClient(s.conn).Fetch(ctx, &exchangepb.PackRequest{Identity: s.want.ID[:],
		Path: s.want.Path, File: file, Offset: uint64(offset)})
	if err != nil {
		err = in.failure(err)
	} else {
		in.stream = stream
		err = in.next()
	}
	if err == nil || errors.Is(err, io.EOF) { // at the end there is nothing behind the offset
		return in, nil
	}
	in.close()
	return nil, err
}

// next waits for a piece.
func (in *incoming) next() error {
	piece, err := in.stream.Recv()
	switch {
	case err == nil && len(piece.Data) > pieceBytes:
		return fmt.Errorf("%w: a piece of %d bytes", ErrWrong, len(piece.Data))
	case err == nil:
		in.watch.Reset(in.after)
		in.rest = piece.Data
		return nil
	case errors.Is(err, io.EOF):
		return io.EOF
	}
	return in.failure(err)
}

// failure is what a stream ended with.
func (in *incoming) failure(err error) error {
	switch status.Code(err) {
	case codes.NotFound:
		return errNone
	case codes.Unimplemented: // of an older version
		return errNone
	}
	if cause := context.Cause(in.ctx); cause != nil {
		return fmt.Errorf("%w: %w", ErrLost, cause)
	}
	return fmt.Errorf("%w: %s", ErrLost, status.Convert(err).Message())
}

// Read implements io.Reader.
func (in *incoming) Read(b []byte) (int, error) {
	for len(in.rest) == 0 {
		if in.err != nil {
			return 0, in.err
		}
		if err := in.next(); errors.Is(err, io.EOF) {
			return 0, io.EOF
		} else if err != nil {
			in.err = err
			return 0, err
		}
	}
	n := copy(b, in.rest)
	in.rest = in.rest[n:]
	return n, nil
}

func (in *incoming) close() {
	in.watch.Stop()
	in.cancel(nil)
}
