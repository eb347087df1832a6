// Command watchers measures what open dashboards and watchers cost training: a job on two workers and one coordinator,
// with nobody looking and with everybody, in turn. scripts/bench watchers runs it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"colonnade/coordinator/rpc"
	"colonnade/proto/clusterpb"
	"colonnade/scripts/browser"
)

type options struct {
	dashboards, watchers int
	window               time.Duration
	rounds, batch        int
	read                 string // in the process that reads: the page's address
	coordinators         string // likewise
}

const jobName = "watched"

func main() {
	var o options
	flag.IntVar(&o.dashboards, "dashboards", 20, "open pages of the job: two streams each")
	flag.IntVar(&o.watchers, "watchers", 50, "coordinator job watch")
	flag.DurationVar(&o.window, "window", 20*time.Second, "how long each is measured")
	flag.IntVar(&o.rounds, "rounds", 3, "windows without anybody, and as many with everybody")
	flag.IntVar(&o.batch, "batch", 64, "images a step")
	flag.StringVar(&o.read, "read", "", "for itself")
	flag.StringVar(&o.coordinators, "coordinators", "", "for itself")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := o.measure
	if o.read != "" {
		run = o.look
	}
	if err := run(ctx); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "watchers:", err)
		os.Exit(1)
	}
}

// window is what was seen in a while.
type window struct {
	Watched     bool    `json:"watched"`
	Steps       float64 `json:"steps_per_second"`
	Coordinator float64 `json:"coordinator_cpu"` // cores
	Workers     float64 `json:"workers_cpu"`
	Readers     float64 `json:"readers_cpu"`
}

func (o *options) measure(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "colonnade-watchers-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	r, err := browser.NewRig(ctx, dir, 1, 2)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := r.Submit(ctx, jobName, 1_000_000, 0.001, "evaluate.every=0", "checkpoint.every=100000",
		fmt.Sprintf("recipe.batch=%d", o.batch)); err != nil {
		return err
	}
	if _, err := r.Await(ctx, jobName, "trains", func(j *clusterpb.Job) bool { return j.Step > 20 }); err != nil {
		return err
	}
	var all []window
	for range o.rounds {
		for _, watched := range []bool{false, true} {
			w, err := o.once(ctx, r, watched)
			if err != nil {
				return err
			}
			fmt.Fprintf(os.Stderr, "%+v\n", w)
			all = append(all, w)
		}
	}
	return json.NewEncoder(os.Stdout).Encode(summary(all))
}

// result is what it comes to: medians.
type result struct {
	Windows []window `json:"windows"`
	Alone   window   `json:"alone"`
	Watched window   `json:"watched"`
	Slower  float64  `json:"slower"` // share of steps a second that is lost
}

func summary(all []window) result {
	out := result{Windows: all}
	for _, watched := range []bool{false, true} {
		median := func(of func(window) float64) float64 {
			var v []float64
			for _, w := range all {
				if w.Watched == watched {
					v = append(v, of(w))
				}
			}
			slices.Sort(v)
			return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
		}
		w := window{watched, median(func(w window) float64 { return w.Steps }),
			median(func(w window) float64 { return w.Coordinator }), median(func(w window) float64 { return w.Workers }),
			median(func(w window) float64 { return w.Readers })}
		if watched {
			out.Watched = w
		} else {
			out.Alone = w
		}
	}
	out.Slower = 1 - out.Watched.Steps/out.Alone.Steps
	return out
}

// once measures for a window. Readers are a process of their own at the lowest priority, since those who look sit
// elsewhere.
func (o *options) once(ctx context.Context, r *browser.Rig, watched bool) (w window, err error) {
	w.Watched = watched
	reader := 0
	if watched {
		self, err := os.Executable()
		if err != nil {
			return w, err
		}
		cmd := exec.CommandContext(ctx, "nice", "-n", "19", self, "--read", r.URL(0, ""), "--coordinators", r.Addresses(),
			"--dashboards", fmt.Sprint(o.dashboards), "--watchers", fmt.Sprint(o.watchers))
		cmd.Stderr = os.Stderr
		said, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			return w, fmt.Errorf("start those who look: %w", err)
		}
		defer func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // it was killed
		}()
		if _, err := io.ReadFull(said, make([]byte, 1)); err != nil {
			return w, fmt.Errorf("those who look do not see anything: %w", err)
		}
		reader = cmd.Process.Pid
	}
	pids := []int{r.Coordinators[0].Pid(), r.Workers[0].Pid(), r.Workers[1].Pid(), reader}
	before := make([]float64, len(pids))
	for i, pid := range pids {
		before[i] = cpu(pid)
	}
	from, began, err := atStep(ctx, r)
	if err != nil {
		return w, err
	}
	rest := time.NewTimer(o.window)
	defer rest.Stop()
	select {
	case <-rest.C:
	case <-ctx.Done():
		return w, ctx.Err()
	}
	to, ended, err := atStep(ctx, r)
	if err != nil {
		return w, err
	}
	seconds := ended.Sub(began).Seconds()
	w.Steps = float64(to-from) / seconds
	used := func(i int) float64 { return (cpu(pids[i]) - before[i]) / seconds }
	w.Coordinator, w.Workers = used(0), used(1)+used(2)
	if watched {
		w.Readers = used(3)
	}
	return w, nil
}

// atStep waits for the end of a step of all cells, as their memory has it.
func atStep(ctx context.Context, r *browser.Rig) (step uint64, at time.Time, err error) {
	const cells = 2
	before := r.InMemory(jobName, cells)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if now := r.InMemory(jobName, cells); now > before {
			return now, time.Now(), nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, at, ctx.Err()
		}
	}
}

// ticks are of a second in /proc.
const ticks = 100

// cpu is the processor time of a process in seconds; 0: there is none.
func cpu(pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	words := strings.Fields(rest)
	if len(words) < 13 {
		return 0
	}
	user, err1 := strconv.ParseFloat(words[11], 64)
	system, err2 := strconv.ParseFloat(words[12], 64)
	if err1 != nil || err2 != nil {
		return 0
	}
	return (user + system) / ticks
}

// look opens what pages and watchers open and reads it until ctx ends. It says a byte when all have been told
// something.
func (o *options) look(ctx context.Context) error {
	client, err := rpc.NewClient(strings.Split(o.coordinators, ","))
	if err != nil {
		return err
	}
	defer client.Close()
	var first, all sync.WaitGroup
	failed := make(chan error, 1)
	one := func(read func(heard func()) error) {
		first.Add(1)
		var once sync.Once
		all.Go(func() {
			err := read(func() { once.Do(first.Done) })
			if err == nil {
				err = errors.New("a stream has ended")
			}
			select {
			case failed <- err:
			default:
			}
		})
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 2 * o.dashboards}
	for range o.dashboards {
		query := url.Values{"job": {jobName}}.Encode()
		for _, path := range []string{"/api/v1/stream?", "/api/v1/logs/stream?"} {
			one(func(heard func()) error { return stream(ctx, transport, o.read+path+query, heard) })
		}
	}
	for range o.watchers {
		one(func(heard func()) error {
			s, err := clusterpb.NewOperatorClient(client).WatchJob(ctx, &clusterpb.GetJobRequest{Name: jobName})
			for err == nil {
				if _, err = s.Recv(); err == nil {
					heard()
				}
			}
			return err
		})
	}
	begun := make(chan struct{})
	go func() {
		first.Wait()
		close(begun)
	}()
	select {
	case <-begun:
		fmt.Print(".")
	case err := <-failed:
		return err
	}
	return <-failed
}

// stream reads server-sent events and forgets them.
func stream(ctx context.Context, t http.RoundTripper, address string, heard func()) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	answer, err := t.RoundTrip(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", address, answer.Status)
	}
	b := make([]byte, 1<<16)
	for {
		if _, err := answer.Body.Read(b); err != nil {
			return err
		}
		heard()
	}
}
