package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"colonnade/checkpoint/bearer"
	"colonnade/checkpoint/cli"
	"colonnade/checkpoint/promtext"
	"colonnade/proto/clusterpb"
	"colonnade/worker/exchange"
)

// noAddress is in place of the HTTP port's address: there is none.
const noAddress = "none"

// httpPort is a worker's HTTP port: metrics and two probes, all read-only.
type httpPort struct {
	listener            net.Listener // nil: there is no such port
	name, device, model string
	threads             int
	token               string // that metrics want; empty: none
	host                *host
	health              *gauge // nil: there is no GPU
	connected           func() bool
	pending             func() int
	patience            time.Duration // 0: stuckAfter; tests have less
}

// listenHTTP opens the HTTP port; nil: there is to be none.
func (c *runCmd) listenHTTP() (l net.Listener, token string, err error) {
	if c.HTTP == noAddress {
		if c.HTTPToken != "" {
			return nil, "", usageError{errors.New("--http-token-file without --http; give --http an address")}
		}
		return nil, "", nil
	}
	if l, err = net.Listen("tcp", c.HTTP); err != nil {
		return nil, "", fmt.Errorf("listen for metrics and probes: %w; choose another --http", err)
	}
	if token, err = bearer.Read(c.HTTPToken, c.HTTP, l.Addr()); err != nil {
		if errors.As(err, &bearer.Misuse{}) {
			err = usageError{err}
		}
		return nil, "", also(err, l.Close())
	}
	return l, token, nil
}

// openPort opens the HTTP port and what spans go to, as far as they are wanted.
func (c *runCmd) openPort(h *host, device *clusterpb.Device) (*httpPort, error) {
	l, token, err := c.listenHTTP()
	if err != nil {
		return nil, err
	}
	if h.spans, err = c.exporter(h.worker, device, h.log); err != nil {
		return nil, err
	}
	h.traceEvery = uint64(c.TraceEvery)
	return &httpPort{listener: l, token: token, host: h, name: c.called(), device: device.Name, model: device.Model,
		threads: c.Threads}, nil
}

// serve answers until ctx ends; at once, if there is no port.
func (p *httpPort) serve(ctx context.Context, log *slog.Logger) error {
	if p.listener == nil {
		return nil
	}
	log.Info("metrics and probes", "http", p.listener.Addr().String())
	s := &http.Server{Handler: p.handler(), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() }) // what is under way is worth nothing any more
	defer stop()
	if err := s.Serve(p.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics and probes: %w", err)
	}
	return nil
}

func (p *httpPort) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", p.healthz)
	mux.HandleFunc("GET /readyz", p.readyz)
	mux.HandleFunc("GET /metrics", p.metrics)
	return mux
}

// stuckAfter is how long a worker may take to say what its cells do: it is a matter of microseconds.
const stuckAfter = 2 * time.Second

// cells are what the host says of its cells, or not, if it does not get to it: a lock that nobody gives back.
func (p *httpPort) cells(ctx context.Context) ([]*clusterpb.CellStatus, bool) {
	said := make(chan []*clusterpb.CellStatus, 1)
	go func() { said <- p.host.Cells() }() // ends with the lock; while it does not, the worker is to be started again
	limit := time.NewTimer(cmp.Or(p.patience, stuckAfter))
	defer limit.Stop()
	select {
	case all := <-said:
		return all, true
	case <-limit.C:
	case <-ctx.Done():
	}
	return nil, false
}

// healthz says whether the process is of any use: it is not when its own state is locked up or its device is lost.
// A worker without a coordinator trains on, and is well.
func (p *httpPort) healthz(w http.ResponseWriter, r *http.Request) {
	if _, ok := p.cells(r.Context()); !ok {
		http.Error(w, "the worker does not say what its cells do; start it again", http.StatusServiceUnavailable)
		return
	}
	if p.host.ending() {
		http.Error(w, "the worker ends", http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// readyz says whether the worker may be given cells.
func (p *httpPort) readyz(w http.ResponseWriter, _ *http.Request) {
	switch {
	case !p.connected():
		http.Error(w, "no coordinator has it in its cluster now", http.StatusServiceUnavailable)
	case p.host.isDraining():
		http.Error(w, "it is drained, or about to be", http.StatusServiceUnavailable)
	case p.host.ending():
		http.Error(w, "the worker ends", http.StatusServiceUnavailable)
	default:
		fmt.Fprintln(w, "ok")
	}
}

func (p *httpPort) metrics(w http.ResponseWriter, r *http.Request) {
	if !bearer.Admits(p.token, r) {
		w.Header().Set("WWW-Authenticate", bearer.Challenge)
		http.Error(w, bearer.Want, http.StatusUnauthorized)
		return
	}
	cells, ok := p.cells(r.Context())
	if !ok {
		http.Error(w, "the worker does not say what its cells do; start it again", http.StatusServiceUnavailable)
		return
	}
	e := &promtext.Exposition{}
	e.Gauge("colonnade_build_info", "1, labelled with the version of the program.", 1, "version", cli.Version())
	e.Gauge("colonnade_worker_info", "1, labelled with what the worker is.", 1, "worker", p.host.worker, "name", p.name,
		"device", p.device, "model", p.model)
	e.Gauge("colonnade_worker_connected", "1 if a coordinator has the worker in its cluster now.",
		promtext.Truth(p.connected()))
	e.Gauge("colonnade_worker_draining", "1 if the worker is drained or about to be.", promtext.Truth(p.host.isDraining()))
	e.Gauge("colonnade_worker_pending_reports", "Reports that no coordinator has written down yet.", float64(p.pending()))
	e.Gauge("colonnade_worker_threads", "Threads that the worker computes with.", float64(p.threads))
	trainingMetrics(e, cells)
	for _, g := range promtext.GPUGauges {
		g.Begin(e)
		g.Sample(e, p.health.read(), "worker", p.host.worker, "name", p.name)
	}
	e.Process()
	e.Answer(w)
}

// cellGauges are what is said of every cell that the worker hosts; a value that is no number is not there.
var cellGauges = []struct {
	name, help string
	value      func(*clusterpb.CellStatus) float64
}{
	{"step", "Finished steps of a cell.", func(s *clusterpb.CellStatus) float64 { return float64(s.Step) }},
	{"generation", "Generation that the cell is of.",
		func(s *clusterpb.CellStatus) float64 { return float64(s.Generation) }},
	{"images_per_second", "Images of the whole batch that are trained on in a second.",
		func(s *clusterpb.CellStatus) float64 { return s.ImagesPerSecond }},
	{"loss", "Training loss of the last finished step, in nats.",
		func(s *clusterpb.CellStatus) float64 { return unless(s.Loss, s.Loss == 0) }},
	{"train_error_ratio", "Top-1 error of the cell's part of the last step's images.",
		func(s *clusterpb.CellStatus) float64 { return unless(s.Top1Errors/float64(s.Scored), s.Scored == 0) }},
	{"train_top5_error_ratio", "Top-5 error of the cell's part of the last step's images.",
		func(s *clusterpb.CellStatus) float64 { return unless(s.Top5Errors/float64(s.Scored), s.Scored == 0) }},
	{"busy_seconds", "Seconds of a step that a cell does not wait for others, smoothed.",
		func(s *clusterpb.CellStatus) float64 { return unless(s.BusySeconds, s.BusySeconds == 0) }},
	{"in_phase_seconds", "How long a cell has been in what it does now.",
		func(s *clusterpb.CellStatus) float64 { return s.InPhaseSeconds }},
}

// unless is a value, or none.
func unless(v float64, not bool) float64 {
	if not {
		return math.NaN()
	}
	return v
}

func trainingMetrics(e *promtext.Exposition, cells []*clusterpb.CellStatus) {
	slices.SortFunc(cells, func(a, b *clusterpb.CellStatus) int {
		return strings.Compare(a.Job+" "+nameOf(a), b.Job+" "+nameOf(b))
	})
	for _, g := range cellGauges {
		name := "colonnade_worker_cell_" + g.name
		e.Family(name, "gauge", g.help)
		for _, s := range cells {
			if v := g.value(s); !math.IsNaN(v) && !math.IsInf(v, 0) {
				e.Sample(name, v, "job", s.Job, "cell", nameOf(s))
			}
		}
	}
	const name = "colonnade_worker_cell_phase_seconds"
	e.Family(name, "gauge", "Seconds of a step, by phase as the cell names it; mean of the last.")
	for _, s := range cells {
		for _, phase := range slices.Sorted(maps.Keys(s.PhaseSeconds)) {
			e.Sample(name, s.PhaseSeconds[phase], "job", s.Job, "cell", nameOf(s), "phase", phase)
		}
	}
}

func nameOf(s *clusterpb.CellStatus) string {
	return exchange.Cell{Replica: int(s.Cell.GetReplica()), Column: int(s.Cell.GetColumn())}.String()
}
