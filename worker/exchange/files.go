package exchange

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

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
		return status.Errorf(codes.NotFound, "no checkpoints here: %v", err)
	}
	defer root.Close()
	file, err := root.Open(req.Path) // never leaves the root, through links neither
	if err != nil {
		return status.Errorf(codes.NotFound, "%v", err)
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

// Fetch copies a checkpoint file of the worker at address to dst. The caller verifies what it got.
func Fetch(ctx context.Context, address, name string, dst io.Writer) error {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("dial worker at %s: %w", address, err)
	}
	defer conn.Close()
	stream, err := exchangepb.NewFilesClient(conn).Fetch(ctx, &exchangepb.FetchRequest{Path: name})
	if err != nil {
		return fmt.Errorf("fetch %s from %s: %w", name, address, err)
	}
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("fetch %s from %s: %w", name, address, err)
		}
		if _, err := dst.Write(chunk.Data); err != nil {
			return fmt.Errorf("fetch %s: %w", name, err)
		}
	}
}
