package exchange

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"colonnade/proto/exchangepb"
)

// files serves a worker's checkpoint files to peers that must restore them.
type files struct {
	exchangepb.UnimplementedFilesServer
	root string
}

// RegisterFiles adds the service to a server. It serves regular files below root and nothing else.
func RegisterFiles(s *grpc.Server, root string) {
	exchangepb.RegisterFilesServer(s, &files{root: root})
}

// Fetch sends a file in chunks.
func (f *files) Fetch(req *exchangepb.FetchRequest, out grpc.ServerStreamingServer[exchangepb.FetchChunk]) error {
	if !fs.ValidPath(req.Path) || path.Ext(req.Path) == ".tmp" {
		return status.Errorf(codes.InvalidArgument, "%q is no path of a checkpoint file", req.Path)
	}
	root, err := os.OpenRoot(f.root)
	if err != nil {
		return openError(err)
	}
	defer root.Close()
	file, err := root.Open(req.Path) // never leaves the root, through links neither
	if err != nil {
		return openError(err)
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return status.Errorf(codes.NotFound, "%s is no regular file", req.Path)
	}
	buf := make([]byte, ChunkBytes)
	for {
		n, err := file.Read(buf)
		if n > 0 {
			if err := out.Send(&exchangepb.FetchChunk{Data: buf[:n]}); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return status.Errorf(codes.Internal, "read %s: %v", req.Path, err)
		}
	}
}

// openError tells a file that is not there, which is final, from one that could not be opened now.
func openError(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return status.Errorf(codes.NotFound, "%v", err)
	}
	return status.Errorf(codes.Internal, "%v", err)
}

// ErrNoFile means that a worker answers, but has no such file.
var ErrNoFile = errors.New("it has no such file")

// fetchSilence is how long a worker may take for the next chunk of a file.
const fetchSilence = 10 * time.Second

// Fetch copies a checkpoint file of the worker at address to dst. The caller verifies what it got.
func Fetch(ctx context.Context, address, name string, dst io.Writer, dial ...grpc.DialOption) error {
	fail := func(err error) error { return fmt.Errorf("fetch %s from %s: %w", name, address, err) }
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(fetchSilence, func() { cancel(fmt.Errorf("silent for %v", fetchSilence)) })
	defer watch.Stop()
	dial = append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, dial...)
	conn, err := grpc.NewClient(address, dial...)
	if err != nil {
		return fail(err)
	}
	defer conn.Close()
	stream, err := exchangepb.NewFilesClient(conn).Fetch(ctx, &exchangepb.FetchRequest{Path: name})
	for err == nil {
		var chunk *exchangepb.FetchChunk
		if chunk, err = stream.Recv(); err != nil {
			break
		}
		watch.Reset(fetchSilence)
		if _, err := dst.Write(chunk.Data); err != nil {
			return fail(err)
		}
	}
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case ctx.Err() != nil:
		return fail(context.Cause(ctx))
	case status.Code(err) == codes.NotFound:
		return fail(fmt.Errorf("%w: %s", ErrNoFile, status.Convert(err).Message()))
	}
	return fail(errors.New(status.Convert(err).Message()))
}
