package exchange

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"

	"colonnade/proto/exchangepb"
)

// serveFiles serves a directory with a checkpoint in it, something half-written, and something outside of it.
func serveFiles(t *testing.T) (address string, content []byte) {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "checkpoints")
	content = payload(3*ChunkBytes+17, 9)
	for name, b := range map[string][]byte{"checkpoints/job/1/a.ckpt": content, "checkpoints/job/1/b.ckpt.tmp": content,
		"secret": []byte("secret")} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../../secret", filepath.Join(root, "job", "link.ckpt")); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(ServerOptions()...)
	RegisterFiles(s, root)
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := s.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serve: %v", err)
		}
	}()
	t.Cleanup(func() {
		s.Stop()
		<-served
	})
	return l.Addr().String(), content
}

func TestFetch(t *testing.T) {
	address, content := serveFiles(t)
	var got bytes.Buffer
	err := Fetch(context.Background(), address, "job/1/a.ckpt", &got)
	if err != nil || !bytes.Equal(got.Bytes(), content) {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
	for name, absent := range map[string]bool{"job/1/none.ckpt": true, "job/1": true, "job/link.ckpt": false,
		"../secret": false, "/etc/passwd": false, "job/1/b.ckpt.tmp": false, "": false, "job/../../secret": false} {
		got.Reset()
		err := Fetch(context.Background(), address, name, &got)
		if err == nil || got.Len() > 0 || errors.Is(err, ErrNoFile) != absent || strings.ContainsAny(err.Error(), "\n") {
			t.Errorf("%q: %d bytes, %v", name, got.Len(), err)
		}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	enough := errors.New("enough")
	cancel(enough)
	if err := Fetch(ctx, address, "job/1/a.ckpt", &got); !errors.Is(err, enough) {
		t.Errorf("cancelled: %v", err)
	}
	full := errors.New("disk full")
	noRoom := writer(func([]byte) (int, error) { return 0, full })
	if err := Fetch(context.Background(), address, "job/1/a.ckpt", noRoom); !errors.Is(err, full) {
		t.Errorf("cannot write: %v", err)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

// silentFiles takes requests and never answers.
type silentFiles struct {
	exchangepb.UnimplementedFilesServer
}

func (silentFiles) Fetch(_ *exchangepb.FetchRequest, out grpc.ServerStreamingServer[exchangepb.FetchChunk]) error {
	if err := out.Send(&exchangepb.FetchChunk{Data: []byte("and then")}); err != nil {
		return err
	}
	<-out.Context().Done()
	return nil
}

func TestASilentHolderOfAFileIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bubble{t: t, listeners: map[string]*bufconn.Listener{}}
		b.start("127.0.0.1:1", func(s *grpc.Server) { exchangepb.RegisterFilesServer(s, silentFiles{}) })
		began := time.Now()
		var got bytes.Buffer
		err := Fetch(context.Background(), "127.0.0.1:1", "x", &got, grpc.WithContextDialer(b.dial))
		if err == nil || errors.Is(err, ErrNoFile) || !strings.Contains(err.Error(), "silent for 10s") {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took != fetchSilence {
			t.Errorf("gave up after %v", took)
		}
		b.stop()
	})
}
