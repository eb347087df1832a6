package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Node is where processes run: a network namespace of its own, or, without one, this machine's loopback.
type Node struct {
	Address string // IP
	space   *os.File
	hub     *os.File
	number  int
}

// within runs a function in the node's network; on the launcher's thread only.
func (n Node) within(f func() error) error {
	if n.space == nil {
		return f()
	}
	if err := unix.Setns(int(n.space.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the network of node %s: %w", n.Address, err)
	}
	err := f()
	return errors.Join(err, unix.Setns(int(n.hub.Fd()), unix.CLONE_NEWNET))
}

// Network is some nodes, joined by a bridge. Every node knows the others' hardware addresses by heart, so a direction
// between two nodes is cut by a wrong one, without either noticing, and slowed by that of a relay of ours.
type Network struct {
	Nodes    []Node
	launcher *Launcher
	hub      *os.File
	relay    *relay
	inside   bool
}

const subnet = "198.18.0." // for tests of networks, RFC 2544

// Hardware addresses end with a node's number, or with one of these. The relay's port has another one than the relay:
// what is for a port's own is for the bridge.
const bridgeNumber, relayNumber, relayPort, nobody = 254, 253, 252, 251

func hardware(i int) string { return fmt.Sprintf("02:00:00:00:00:%02x", i) }

// Loopback is a network whose nodes all are this machine: nothing of it can be cut.
func Loopback(l *Launcher, nodes int) *Network {
	w := &Network{launcher: l}
	for i := range nodes {
		w.Nodes = append(w.Nodes, Node{Address: "127.0.0.1", number: i + 1})
	}
	return w
}

// Namespaced makes a network of namespaces. The process must have a network namespace of its own, in which it may do
// all (see Isolate): the bridge is made there, and goes with it.
func Namespaced(l *Launcher, nodes int) (*Network, error) {
	w := &Network{launcher: l, inside: true}
	hub, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return nil, err
	}
	w.hub = hub
	for i := range nodes {
		n := Node{Address: fmt.Sprint(subnet, i+1), hub: hub, number: i + 1}
		if err := l.do(func() (err error) {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("make a network namespace: %w", err)
			}
			n.space, err = os.Open("/proc/thread-self/ns/net")
			return errors.Join(err, unix.Setns(int(hub.Fd()), unix.CLONE_NEWNET))
		}); err != nil {
			return nil, err
		}
		w.Nodes = append(w.Nodes, n)
	}
	if err := w.wire(); err != nil {
		w.Close()
		return nil, fmt.Errorf("join the namespaces by a bridge: %w", err)
	}
	return w, nil
}

// wire makes the bridge and a link from every node to it.
func (w *Network) wire() error {
	here := Node{}
	if err := w.ip(here, "link set lo up", "link add hub type bridge",
		"link set hub address "+hardware(bridgeNumber)+" up",
		fmt.Sprintf("addr add %s%d/24 dev hub", subnet, bridgeNumber)); err != nil {
		return err
	}
	for _, n := range w.Nodes {
		lines := []string{
			"link set lo up",
			fmt.Sprintf("link add eth0 address %s type veth peer name port%d netns %d", hardware(n.number), n.number,
				os.Getpid()),
			"addr add " + n.Address + "/24 dev eth0", "link set eth0 up",
			fmt.Sprintf("neigh replace %s%d lladdr %s dev eth0 nud permanent", subnet, bridgeNumber, hardware(bridgeNumber)),
		}
		for _, m := range w.Nodes {
			if m.number != n.number {
				lines = append(lines, neighbour(m, m.number))
			}
		}
		if err := w.ip(n, lines...); err != nil {
			return err
		}
		if err := w.ip(here, fmt.Sprintf("link set port%d master hub up", n.number),
			fmt.Sprintf("neigh replace %s lladdr %s dev hub nud permanent", n.Address, hardware(n.number))); err != nil {
			return err
		}
	}
	for _, n := range w.Nodes {
		if err := errors.Join(w.running(here, fmt.Sprint("port", n.number)), w.running(n, "eth0")); err != nil {
			return err
		}
	}
	r, err := newRelay(len(w.Nodes))
	if err != nil {
		return nil // links can be cut, not slowed: see Slows
	}
	w.relay = r
	return w.ip(here, "link set relay address "+hardware(relayPort)+" master hub up")
}

// running waits until a link of a node is up, which the kernel sees to in the background.
func (w *Network) running(n Node, link string) error {
	request, err := unix.NewIfreq(link)
	if err != nil {
		return err
	}
	return w.launcher.do(func() error {
		return n.within(func() error {
			s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(s)
			for began := time.Now(); time.Since(began) < 10*time.Second; time.Sleep(time.Millisecond) {
				if err := unix.IoctlIfreq(s, unix.SIOCGIFFLAGS, request); err != nil {
					return fmt.Errorf("link %s: %w", link, err)
				}
				if request.Uint16()&unix.IFF_RUNNING != 0 {
					return nil
				}
			}
			return fmt.Errorf("link %s does not come up", link)
		})
	})
}

// neighbour says where frames for a node go.
func neighbour(to Node, number int) string {
	return fmt.Sprintf("neigh replace %s lladdr %s dev eth0 nud permanent", to.Address, hardware(number))
}

// ip has iproute2 do something in a node.
func (w *Network) ip(n Node, lines ...string) error {
	var out bytes.Buffer
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(strings.Join(lines, "\n")), &out, &out
	if err := w.launcher.do(func() error { return n.within(cmd.Run) }); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(lines, "; "), err, bytes.TrimSpace(out.Bytes()))
	}
	return nil
}

// Cuts says whether links can be cut.
func (w *Network) Cuts() bool { return w.inside }

// Slows says whether links can be slowed and made to lose packets.
func (w *Network) Slows() bool { return w.relay != nil }

// Link is a direction between two nodes, by their place in Nodes.
type Link struct{ From, To int }

func (l Link) String() string { return fmt.Sprintf("%d>%d", l.From+1, l.To+1) }

// Cut loses all that is sent over links, silently, until they are mended.
func (w *Network) Cut(links ...Link) error { return w.point(nobody, links) }

// Mend has links carry again what is sent over them.
func (w *Network) Mend(links ...Link) error { return w.point(0, links) }

// Slow has links deliver late, and lose some packets, until they are mended.
func (w *Network) Slow(q Quality, links ...Link) error {
	for _, l := range links {
		w.relay.set(w.Nodes[l.From].number, w.Nodes[l.To].number, q)
	}
	return w.point(relayNumber, links)
}

// point has frames over links go to a hardware address; 0: to the right one.
func (w *Network) point(at int, links []Link) error {
	by := map[int][]string{}
	for _, l := range links {
		number := at
		if at == 0 {
			number = w.Nodes[l.To].number
		}
		by[l.From] = append(by[l.From], neighbour(w.Nodes[l.To], number))
	}
	for from, lines := range by {
		if err := w.ip(w.Nodes[from], lines...); err != nil {
			return err
		}
	}
	return nil
}

// Unplug takes a node's link to the bridge down, or up again.
func (w *Network) Unplug(node int, down bool) error {
	state := "up"
	if down {
		state = "down"
	}
	return w.ip(Node{}, fmt.Sprintf("link set port%d %s", w.Nodes[node].number, state))
}

// Close ends the network; processes in it must have ended.
func (w *Network) Close() {
	if w.relay != nil {
		w.relay.close()
	}
	for _, n := range w.Nodes {
		if n.space != nil {
			n.space.Close()
		}
	}
	if w.hub != nil {
		for _, n := range w.Nodes { // namespaces go some time later; what was not made is no matter here
			_ = w.ip(Node{}, fmt.Sprintf("link del port%d", n.number))
		}
		_ = w.ip(Node{}, "link del hub")
		w.hub.Close()
	}
}

// FreePort is a port of this machine's loopback that nobody listens at.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// Isolated says whether this process was started by Isolate.
func Isolated() bool { return os.Getenv(isolated) != "" }

const isolated = "COLONNADE_CLUSTER_ISOLATED"

// Isolate starts this program again with network and mounts of its own and the same arguments, as root or, where the
// system lets everybody, in a user namespace. It returns the exit status, or why it cannot be.
func Isolate() (int, error) {
	if _, err := exec.LookPath("ip"); err != nil {
		return 0, errors.New("there is no ip command: install iproute2")
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), isolated+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("network namespaces need root: %w", err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case s := <-signals:
				_ = cmd.Process.Signal(s) // it may have ended
			case <-ended:
				return
			}
		}
	})
	err := cmd.Wait()
	close(ended)
	wg.Wait()
	signal.Stop(signals)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	if cmd.ProcessState.ExitCode() < 0 {
		return 1, nil
	}
	return cmd.ProcessState.ExitCode(), nil
}

// PrivateMounts keeps what this process mounts to itself; for one that Isolate started.
func PrivateMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	return nil
}
