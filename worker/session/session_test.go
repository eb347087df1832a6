package session

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"colonnade/proto/clusterpb"
)

const one, two = "127.0.0.1:1", "127.0.0.2:1"

var errBroken = status.Error(codes.Unavailable, "broken by the test")

func TestWhatTheCoordinatorSaysReachesTheCells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		c := n.start(one)
		w := startWorker(n, nil, one)
		a := <-c.attached
		if r := a.register; r.Worker != "w" || r.Protocol != Protocol || len(r.Running) != 1 || r.Running[0].Generation != 7 {
			t.Errorf("registered as %v", r)
		}
		for _, m := range []*clusterpb.CoordinatorMessage{
			{Kind: &clusterpb.CoordinatorMessage_Assign{Assign: &clusterpb.Assign{Job: "a"}}},
			{Kind: &clusterpb.CoordinatorMessage_Stop{Stop: &clusterpb.Stop{Job: "b"}}},
			{}, // of a kind this worker does not know
			{Kind: &clusterpb.CoordinatorMessage_Revoke{Revoke: &clusterpb.Revoke{Job: "c"}}},
			{Kind: &clusterpb.CoordinatorMessage_Ask{Ask: &clusterpb.Ask{Job: "e"}}},
			{Kind: &clusterpb.CoordinatorMessage_Forget{Forget: &clusterpb.Forget{Job: "f"}}},
			{Kind: &clusterpb.CoordinatorMessage_Buddies{Buddies: &clusterpb.Buddies{Job: "g"}}},
		} {
			a.say(m)
		}
		a.ack(0, &clusterpb.Manifest{Job: "d"})
		time.Sleep(10*heartbeat + heartbeat/2)
		want := []string{"assign a", "stop b", "revoke c", "ask e", "forget f", "buddies of g", "dropped d"}
		if diff := cmp.Diff(want, w.cells.notes()); diff != "" {
			t.Errorf("what the cells were told (-want +got):\n%s", diff)
		}
		if a.mu.Lock(); a.beats != 10 {
			t.Errorf("%d heartbeats in ten periods", a.beats)
		}
		a.mu.Unlock()
		w.finish(t)
		c.stop()
	})
}

// TestReportsSurviveBreaks breaks the stream forty times at random points, with acknowledgements that lag behind or
// get lost, and wants every report at the coordinator, in order, on every stream without a gap.
func TestReportsSurviveBreaks(t *testing.T) {
	for seed := range uint64(5) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			n := newNetwork(t)
			c := n.start(one)
			w := startWorker(n, nil, one)
			written, reported := uint64(0), uint64(0) // what the coordinator has, what there is
			for range 40 {
				a := <-c.attached
				for range r.IntN(4) {
					for range r.IntN(5) {
						w.Report(&clusterpb.Report{Job: "j"})
						reported++
					}
					time.Sleep(time.Duration(r.IntN(1000)) * time.Millisecond)
					if got := a.got(); r.IntN(2) == 0 && len(got) > 0 {
						a.ack(got[r.IntN(len(got))])
					}
				}
				synctest.Wait()
				got := a.got()
				for i, sequence := range got {
					if sequence != got[0]+uint64(i) {
						t.Fatalf("seed %d: one stream carried %v", seed, got)
					}
				}
				if len(got) > 0 {
					if got[0] > written+1 {
						t.Fatalf("seed %d: reports %d to %d are missing", seed, written+1, got[0]-1)
					}
					written = max(written, got[len(got)-1])
				}
				a.end <- errBroken
			}
			a := <-c.attached
			synctest.Wait()
			if got := a.got(); len(got) > 0 {
				written = got[len(got)-1]
			}
			if written != reported || reported == 0 {
				t.Errorf("seed %d: %d reports were made, %d arrived", seed, reported, written)
			}
			a.ack(reported)
			synctest.Wait()
			if w.Pending() != 0 {
				t.Errorf("seed %d: %d reports pending after all were acknowledged", seed, w.Pending())
			}
			w.finish(t)
			c.stop()
		})
	}
}

func TestACoordinatorGoneForLongLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		c := n.start(one)
		w := startWorker(n, func(cfg *Config) { cfg.FirstTimeout = time.Second }, one)
		<-c.attached
		synctest.Wait()
		c.stop()
		n.taken()
		for range 1000 {
			w.Report(&clusterpb.Report{Job: "j"})
			time.Sleep(time.Second)
		}
		if tries := len(n.taken()); tries < 1000 || tries > 2100 {
			t.Errorf("%d attempts in 1,000 seconds of pauses up to %v", tries, lastBackoff)
		}
		c = n.start(one)
		a := <-c.attached
		synctest.Wait()
		if got := a.got(); len(got) != 1000 || got[0] != 1 || !slices.IsSorted(got) {
			t.Errorf("%d reports arrived, %v...", len(got), got[:min(3, len(got))])
		}
		w.finish(t)
		c.stop()
	})
}

func TestPausesDouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		w := startWorker(n, nil, one)
		time.Sleep(time.Minute)
		check := func(when string, pause time.Duration) {
			t.Helper()
			dials := n.taken()
			if len(dials) < 10 {
				t.Fatalf("%s: %d attempts in a minute", when, len(dials))
			}
			for i := range len(dials) - 1 {
				if gap := dials[i+1].Sub(dials[i]); gap < pause/2 || gap > pause {
					t.Errorf("%s: pause %d is %v, want within %v and %v", when, i, gap, pause/2, pause)
				}
				pause = min(2*pause, lastBackoff)
			}
		}
		check("at the start", firstBackoff)
		c := n.start(one)
		<-c.attached
		synctest.Wait()
		c.stop()
		n.taken() // the one that got through, and those before it
		time.Sleep(time.Minute)
		check("after a session", 2*firstBackoff) // the first pause came before the first attempt
		w.finish(t)
	})
}

func TestNobodyAnswers(t *testing.T) {
	for name, setup := range map[string]func(n *network) func(){
		"refused": func(*network) func() { return func() {} },
		"silent": func(n *network) func() {
			c := n.start(one)
			c.mute = true
			return c.stop
		},
		"follower": func(n *network) func() {
			c := n.start(one)
			c.follower.Store(true)
			return c.stop
		},
		"answers nonsense": func(n *network) func() {
			c := n.start(one)
			c.first = &clusterpb.CoordinatorMessage{}
			return c.stop
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				stop := setup(n)
				began := time.Now()
				w := startWorker(n, func(cfg *Config) { cfg.FirstTimeout = 10 * time.Second }, one, two)
				err := <-w.ended
				if name == "refused" && !strings.Contains(err.Error(), "connection refused") {
					t.Errorf("got %v, want why", err)
				}
				if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), one+", "+two) ||
					strings.ContainsAny(err.Error(), "\n") {
					t.Errorf("got %v, want one line with the addresses", err)
				}
				if took := time.Since(began); took < 10*time.Second || took > 12*time.Second {
					t.Errorf("gave up after %v", took)
				}
				stop()
			})
		})
	}
}

// TestTheNextCoordinatorIsAsked walks through coordinators that are down, silent or followers to the one that leads.
func TestTheNextCoordinatorIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		follower, mute, leader := n.start("127.0.0.3:1"), n.start("127.0.0.4:1"), n.start("127.0.0.5:1")
		follower.follower.Store(true)
		mute.mute = true
		began := time.Now()
		w := startWorker(n, nil, one, follower.address, mute.address, leader.address)
		<-leader.attached
		if took := time.Since(began); took > answerTimeout+time.Second {
			t.Errorf("found the leader after %v", took)
		}
		w.finish(t)
		for _, c := range []*coordinator{follower, mute, leader} {
			c.stop()
		}
	})
}

// A coordinator that does not lead sends the worker to the one that does, whether it knew of that one or not.
func TestRedirectsAreFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		follower, leader := n.start(one), n.start("127.0.0.9:1")
		follower.follower.Store(true)
		follower.leader = leader.address
		began := time.Now()
		w := startWorker(n, nil, one)
		<-leader.attached
		if took := time.Since(began); took >= firstBackoff/2 {
			t.Errorf("followed after %v", took)
		}
		// Two that send the worker to each other do not keep it busy.
		leader.stop()
		other := n.start(leader.address)
		other.follower.Store(true)
		other.leader = one
		n.taken()
		time.Sleep(time.Minute)
		if tries := len(n.taken()); tries > 60*(redirects+2)*2*int(time.Second/lostBackoff) {
			t.Errorf("%d attempts in a minute", tries)
		}
		w.finish(t)
		follower.stop()
		other.stop()
	})
}

// A worker that was told of one coordinator finds the others when that one is gone.
func TestOtherCoordinatorsAreLearned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		a, b := n.start(one), n.start(two)
		a.first.GetWelcome().Coordinators = []string{one, two}
		w := startWorker(n, nil, one)
		<-a.attached
		synctest.Wait()
		a.stop()
		began := time.Now()
		<-b.attached
		if took := time.Since(began); took > firstBackoff {
			t.Errorf("found the other after %v", took)
		}
		w.finish(t)
		b.stop()
	})
}

// While coordinators elect a leader, the worker looks again soon, however long it has been waiting.
func TestElectionsAreWaitedForClosely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		w := startWorker(n, nil, one, two)
		time.Sleep(time.Minute)
		a, b := n.start(one), n.start(two)
		a.follower.Store(true)
		b.follower.Store(true)
		time.Sleep(2 * lastBackoff)
		n.taken()
		time.Sleep(10 * time.Second)
		if tries := len(n.taken()); tries < 2*10*int(time.Second/lostBackoff) {
			t.Errorf("%d attempts in ten seconds", tries)
		}
		w.finish(t)
		a.stop()
		b.stop()
	})
}

// One of several that takes connections and says nothing, as a stopped process does, is passed over within a second.
func TestAStoppedCoordinatorIsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		stopped := bufconn.Listen(1 << 20) // its connections wait to be accepted
		n.at[one] = stopped
		b := n.start(two)
		began := time.Now()
		w := startWorker(n, nil, one, two)
		<-b.attached
		if took := time.Since(began); took > connectLimit+firstBackoff {
			t.Errorf("passed over after %v", took)
		}
		w.finish(t)
		b.stop()
		stopped.Close()
	})
}

func TestASilentCoordinatorIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		a, b := n.start(one), n.start(two)
		w := startWorker(n, nil, one, two)
		first := <-a.attached
		time.Sleep(time.Hour) // it answers heartbeats
		if len(a.attached)+len(b.attached) > 0 {
			t.Fatal("the worker left a coordinator that answers")
		}
		first.silence()
		w.Report(&clusterpb.Report{Job: "j"})
		began := time.Now()
		second := <-b.attached
		if took := time.Since(began); took < lease-heartbeat || took > lease+time.Second {
			t.Errorf("left a silent coordinator after %v, lease is %v", took, lease)
		}
		synctest.Wait()
		if got := second.got(); len(got) != 1 {
			t.Errorf("the other coordinator got reports %v", got)
		}
		w.finish(t)
		a.stop()
		b.stop()
	})
}

func TestACoordinatorThatNeverAnswersHeartbeatsIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		c := n.start(one)
		w := startWorker(n, nil, one)
		a := <-c.attached
		a.silence()
		time.Sleep(time.Hour)
		if len(c.attached) > 0 {
			t.Error("the worker has left it")
		}
		w.finish(t)
		c.stop()
	})
}

func TestGoodbyeEndsTheSession(t *testing.T) {
	goodbye := &clusterpb.CoordinatorMessage{Kind: &clusterpb.CoordinatorMessage_Goodbye{Goodbye: &clusterpb.Goodbye{
		Reason: "speak protocol 2"}}}
	for _, late := range []bool{false, true} {
		t.Run(fmt.Sprintf("late %v", late), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				c := n.start(one)
				if !late {
					c.first = goodbye
				}
				w := startWorker(n, nil, one)
				a := <-c.attached
				if late {
					a.say(goodbye)
				}
				err := <-w.ended
				if !errors.Is(err, ErrGoodbye) || !strings.Contains(err.Error(), "speak protocol 2") {
					t.Errorf("got %v, want the coordinator's reason", err)
				}
				c.stop()
			})
		})
	}
}

// TestTheRegistrationIsFresh wants every registration to say what runs at that time.
func TestTheRegistrationIsFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		c := n.start(one)
		w := startWorker(n, nil, one)
		for generation := range uint64(3) {
			a := <-c.attached
			if got := a.register.Running; len(got) != 1 || generation > 0 && got[0].Generation != generation-1 {
				t.Errorf("attachment %d says it runs %v", generation, a.register.Running)
			}
			synctest.Wait()
			w.cells.run(&clusterpb.Running{Job: "j", Generation: generation})
			a.end <- errBroken
		}
		<-c.attached
		w.finish(t)
		c.stop()
	})
}
