package depot

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"colonnade/proto/exchangepb"
	"colonnade/shard/pack"
)

// pieceBytes is what one message carries.
const pieceBytes = 1 << 20

// mostStreams is how many files are sent at once: whoever trains here must not wait for the disk.
const mostStreams = 4

// Find says where this host has a pack: path is where a job has it, on whatever host that was. An error that is
// fs.ErrNotExist means that it has none.
type Find func(id [32]byte, path string) (string, error)

// service sends packs.
type service struct {
	exchangepb.UnimplementedPacksServer
	find  Find
	slots chan struct{}
}

// Register adds the service to a server.
func Register(s *grpc.Server, find Find) {
	exchangepb.RegisterPacksServer(s, &service{find: find, slots: make(chan struct{}, mostStreams)})
}

// Fetch sends a file of a pack.
func (s *service) Fetch(r *exchangepb.PackRequest, out grpc.ServerStreamingServer[exchangepb.PackPiece]) error {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-out.Context().Done():
		return status.FromContextError(context.Cause(out.Context())).Err()
	}
	f, err := s.open(r)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Seek(int64(r.Offset), io.SeekStart); err != nil {
		return status.Errorf(codes.InvalidArgument, "offset %d: %v", r.Offset, err)
	}
	buf := make([]byte, pieceBytes)
	for {
		n, err := io.ReadFull(f, buf)
		if n > 0 {
			if err := out.Send(&exchangepb.PackPiece{Data: buf[:n]}); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return status.Errorf(codes.Internal, "read pack: %v", err)
		}
	}
}

// open opens the file that is asked for. Nothing but files of a pack of that identity is ever sent.
func (s *service) open(r *exchangepb.PackRequest) (*os.File, error) {
	if len(r.Identity) != 32 || int64(r.Offset) < 0 {
		return nil, status.Error(codes.InvalidArgument, "the request names no pack, or no place in it")
	}
	path, err := s.find([32]byte(r.Identity), r.Path)
	var h *pack.Header
	if err == nil {
		h, err = pack.ReadFile(path)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && h.ID != [32]byte(r.Identity):
		return nil, status.Errorf(codes.NotFound, "it has no pack of identity %.6x", r.Identity)
	case err != nil:
		return nil, status.Error(codes.Internal, err.Error())
	case int64(r.File) > int64(h.Shards()):
		return nil, status.Errorf(codes.InvalidArgument, "the pack has no file %d", r.File)
	case r.File > 0:
		path = h.ShardName(path, int(r.File)-1)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, status.Errorf(codes.Internal, "%s is no regular file", path)
	}
	return f, nil
}
