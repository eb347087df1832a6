package rpc

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestLooksAreShared: watchers who want the same are told what was made once, until something changes or a pause has
// passed; what could not be made is tried again by the next one.
func TestLooksAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l looks
		var made atomic.Int32
		one := func() (*look, error) {
			time.Sleep(time.Millisecond) // the others come meanwhile
			return &look{seen: uint64(made.Add(1))}, nil
		}
		changed, later := make(chan struct{}), make(chan struct{})
		tell := func(changed <-chan struct{}, key lookKey, want int32) {
			t.Helper()
			var all sync.WaitGroup
			for range 20 {
				all.Go(func() {
					got, err := l.share(t.Context(), changed, key, one)
					if err != nil || got.seen != uint64(want) {
						t.Errorf("%+v, %v, want the look %d", got, err, want)
					}
				})
			}
			all.Wait()
		}
		tell(changed, lookKey{"a", 1}, 1)
		tell(changed, lookKey{"a", 1}, 1)
		tell(changed, lookKey{"a", 2}, 2)
		tell(changed, lookKey{"b", 1}, 3)
		tell(later, lookKey{"a", 1}, 4)
		time.Sleep(watchEvery)
		tell(later, lookKey{"a", 1}, 5)

		wrong := errors.New("no leader")
		key := lookKey{"c", 1}
		if _, err := l.share(t.Context(), later, key, func() (*look, error) { return nil, wrong }); !errors.Is(err, wrong) {
			t.Errorf("%v, want that it failed", err)
		}
		tell(later, key, 6)
	})
}

// TestLookAwaited: who waits for another's look goes when his own time is up.
func TestLookAwaited(t *testing.T) {
	var l looks
	changed, key := make(chan struct{}), lookKey{"a", 1}
	begun, end := make(chan struct{}), make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		_, _ = l.share(t.Context(), changed, key, func() (*look, error) {
			close(begun)
			<-end
			return &look{}, nil
		})
	})
	<-begun
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.share(ctx, changed, key, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want that it was cancelled", err)
	}
	close(end)
	all.Wait()
}
