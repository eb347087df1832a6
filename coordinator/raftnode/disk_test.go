package raftnode

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	bolt "go.etcd.io/bbolt"
)

// A coordinator whose disk is full or fails stops with one line; the others go on, and it comes back with everything
// when there is room again. The full disk is a real one where the test may mount; the failed sync is not.
func TestDiskFails(t *testing.T) {
	for _, leader := range []bool{true, false} {
		name := map[bool]string{true: "leader", false: "follower"}[leader]
		t.Run("sync fails, "+name, func(t *testing.T) {
			testDisk(t, dirs(t), leader, func(n *Node, _ string) {
				n.store.mu.Lock()
				defer n.store.mu.Unlock()
				n.store.update = func(func(*bolt.Tx) error) error { return syscall.EIO }
			}, "input/output error")
		})
		t.Run("disk is full, "+name, func(t *testing.T) {
			if os.Getuid() != 0 {
				t.Skip("wants root to mount a small tmpfs")
			}
			d := dirs(t)
			for i := range d {
				if err := syscall.Mount("tmpfs", d[i], "tmpfs", 0, "size=4m"); err != nil {
					t.Skipf("cannot mount a tmpfs: %v", err)
				}
				t.Cleanup(func() { must(t, syscall.Unmount(d[i], 0)) })
			}
			testDisk(t, d, leader, func(_ *Node, dir string) {
				f, err := os.Create(filepath.Join(dir, "ballast"))
				must(t, err)
				defer f.Close()
				for _, size := range []int{1 << 16, 1 << 10, 1} {
					for err = nil; err == nil; {
						_, err = f.Write(make([]byte, size))
					}
				}
				if !errors.Is(err, syscall.ENOSPC) {
					t.Fatal(err)
				}
			}, "no space left on device")
		})
	}
}

// testDisk breaks the disk of one node of three.
func testDisk(t *testing.T, d [3]string, leader bool, ruin func(n *Node, dir string), why string) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, d)
		defer c.close()
		c.submit(jobs("before", 5)...)
		at := c.leader()
		if !leader {
			at = (at + 1) % 3
		}
		ruin(c.nodes[at], d[at])
		broken := false
		for i := 0; i < 2000 && !broken; i++ {
			c.submit(jobs("meanwhile", i+1)[i])
			select {
			case <-c.nodes[at].Broken():
				broken = true
			case <-time.After(20 * time.Millisecond): // virtual
			}
		}
		if !broken {
			t.Fatal("it goes on without a disk")
		}
		text := c.nodes[at].Failure().Error()
		for _, want := range []string{why, filepath.Join(d[at], logFile), "the other coordinators go on", "start it again"} {
			if !strings.Contains(text, want) || strings.Contains(text, "\n") {
				t.Errorf("%q, want %q in one line", text, want)
			}
		}
		c.stop(at)
		c.submit(jobs("after", 5)...)
		v, _ := c.nodes[c.leader()].View()
		total := len(v.Jobs)
		c.same(total)
		_ = os.Remove(filepath.Join(d[at], "ballast")) // if there is one
		c.start(at)
		c.same(total)
	})
}

// A directory that cannot be written in is refused in one line.
func TestReadOnlyDirectory(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("wants root to mount a read-only tmpfs")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_RDONLY, "size=1m"); err != nil {
		t.Skipf("cannot mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { must(t, syscall.Unmount(dir, 0)) })
	_, err := New(alone(t, dir))
	refused(t, err, syscall.EROFS, "data directory", "choose another --data")
}
