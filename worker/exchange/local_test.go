package exchange

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"testing"
	"time"
)

// TestAWaitingReceiverIsHandedTheMessage has the receiver wait before the sender sends: nothing is queued on the way, a
// message that is not due is refused at the receiver, and a receiver that gave up does not take what comes later.
func TestAWaitingReceiverIsHandedTheMessage(t *testing.T) {
	gaveUp := errors.New("gave up")
	for name, c := range map[string]struct {
		tag    Tag
		n      int
		cancel bool
		want   error
	}{
		"due":          {tag: due, n: 1000},
		"other tag":    {tag: Tag{Step: 1}, n: 1000, want: ErrOutOfOrder},
		"other length": {tag: due, n: 999, want: ErrOutOfOrder},
		"cancelled":    {tag: due, n: 1000, cancel: true, want: gaveUp},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, stop := context.WithTimeout(context.Background(), time.Minute)
			defer stop()
			ex, members := carriers["local"].join(t, ctx, 2, Config{})
			link := members[0].outs[[2]Cell{{}, {Column: 1}}].(*localLink)
			rctx, cancel := context.WithCancelCause(ctx)
			defer cancel(nil)
			got, err := make([]byte, 1000), make(chan error, 1)
			go func() { err <- ex[1].Recv(rctx, Cell{}, due, got) }()
			waits := func() bool {
				link.mu.Lock()
				defer link.mu.Unlock()
				return link.posted != nil
			}
			for !waits() && ctx.Err() == nil {
				runtime.Gosched()
			}
			if c.cancel {
				cancel(gaveUp)
				if got := <-err; !errors.Is(got, gaveUp) {
					t.Fatal(got)
				}
				err <- gaveUp
			}
			data := payload(c.n, 1)
			if err := ex[0].Send(ctx, Cell{Column: 1}, c.tag, data); err != nil {
				t.Fatal(err)
			}
			if queued := len(link.queue) > 0; queued != c.cancel {
				t.Errorf("queued %v", queued)
			}
			if got := <-err; !errors.Is(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
			if c.want == nil && !bytes.Equal(got, data) || c.cancel && !bytes.Equal(got, make([]byte, 1000)) {
				t.Error("bytes differ")
			}
			if !c.cancel {
				return
			}
			if err := ex[1].Recv(ctx, Cell{}, due, got); err != nil || !bytes.Equal(got, data) {
				t.Errorf("the next one who waits: %v", err)
			}
		})
	}
}
