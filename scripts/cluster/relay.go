package cluster

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Quality is how bad a link is.
type Quality struct {
	Delay  time.Duration // of every packet
	Jitter time.Duration // at most that much more; packets do not overtake each other
	Loss   float64       // share of packets that get lost
}

// relay is a port of the bridge that hands on what is sent to it, late and not all of it: the kernel at hand may have
// no netem. Frames are read and written by a goroutine each.
type relay struct {
	tap   *os.File
	wg    sync.WaitGroup
	stop  chan struct{}
	woken chan struct{}

	mu     sync.Mutex
	links  map[[2]byte]*slowLink // by the numbers of both nodes
	queue  frames
	random *rand.Rand
}

type slowLink struct {
	quality Quality
	last    time.Time // when the newest packet is due
}

type frame struct {
	due   time.Time
	order uint64
	data  []byte
}

type frames struct {
	list []frame
	next uint64
}

func (f *frames) Len() int { return len(f.list) }
func (f *frames) Less(i, j int) bool {
	a, b := f.list[i], f.list[j]
	return a.due.Before(b.due) || a.due.Equal(b.due) && a.order < b.order
}
func (f *frames) Swap(i, j int) { f.list[i], f.list[j] = f.list[j], f.list[i] }
func (f *frames) Push(x any)    { f.list = append(f.list, x.(frame)) }
func (f *frames) Pop() any {
	last := f.list[len(f.list)-1]
	f.list = f.list[:len(f.list)-1]
	return last
}

// newRelay makes the relay's device, which is not on the bridge yet.
func newRelay(nodes int) (*relay, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq("relay")
	if err != nil {
		return nil, err
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make a tap device: %w", err)
	}
	r := &relay{tap: os.NewFile(uintptr(fd), "relay"), stop: make(chan struct{}), woken: make(chan struct{}, 1),
		links: map[[2]byte]*slowLink{}, random: rand.New(rand.NewPCG(uint64(nodes), 9))}
	r.wg.Go(r.read)
	r.wg.Go(r.write)
	return r, nil
}

func (r *relay) close() {
	close(r.stop)
	r.tap.Close()
	r.wg.Wait()
}

func (r *relay) set(from, to int, q Quality) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.links[[2]byte{byte(from), byte(to)}] = &slowLink{quality: q}
}

// read takes frames until the device is closed. What is not for the relay, such as what nobody wants, it drops.
func (r *relay) read() {
	buf := make([]byte, 1<<16)
	for {
		n, err := r.tap.Read(buf)
		if err != nil {
			return
		}
		b := buf[:n]
		// Ethernet with the relay's own address; IPv4, whose destination ends with the node's number.
		if n < 34 || b[5] != relayNumber || binary.BigEndian.Uint16(b[12:]) != 0x0800 {
			continue
		}
		from, to := b[11], b[33]
		r.mu.Lock()
		l := r.links[[2]byte{from, to}]
		if l != nil && r.random.Float64() >= l.quality.Loss {
			due := time.Now().Add(l.quality.Delay)
			if l.quality.Jitter > 0 {
				due = due.Add(time.Duration(r.random.Int64N(int64(l.quality.Jitter))))
			}
			if due.Before(l.last) {
				due = l.last
			}
			l.last = due
			data := append([]byte(nil), b...)
			data[5], data[11] = to, relayNumber // or the bridge would look for the sender here
			r.queue.next++
			heap.Push(&r.queue, frame{due, r.queue.next, data})
		}
		r.mu.Unlock()
		select {
		case r.woken <- struct{}{}:
		default:
		}
	}
}

// write hands frames on when they are due.
func (r *relay) write() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait := time.Hour
		var due [][]byte
		r.mu.Lock()
		for now := time.Now(); r.queue.Len() > 0; {
			if until := r.queue.list[0].due.Sub(now); until > 0 {
				wait = until
				break
			}
			due = append(due, heap.Pop(&r.queue).(frame).data)
		}
		r.mu.Unlock()
		for _, b := range due {
			_, _ = r.tap.Write(b) // a frame that cannot be written is a lost one
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-r.woken:
		case <-r.stop:
			return
		}
	}
}
