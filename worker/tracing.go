package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"

	"colonnade/checkpoint/cli"
	"colonnade/proto/clusterpb"
	"colonnade/worker/exchange"
	"colonnade/worker/otlp"
	"colonnade/worker/train"
)

// endpointVariable is where OpenTelemetry's programs find the collector, and usualEndpoint where it is without.
const (
	endpointVariable = "OTEL_EXPORTER_OTLP_ENDPOINT"
	usualEndpoint    = "http://localhost:4318"
)

// exporter opens what spans are sent to; nil: nobody wants any.
func (c *runCmd) exporter(worker string, device *clusterpb.Device, log *slog.Logger) (*otlp.Exporter, error) {
	switch {
	case c.TraceSteps == "":
		return nil, nil
	case c.TraceEvery < 1:
		return nil, usageError{fmt.Errorf("--trace-every %d; give 1 or more", c.TraceEvery)}
	}
	to := c.TraceSteps
	if to == "otlp" {
		to = cmp.Or(os.Getenv(endpointVariable), usualEndpoint)
	}
	return otlp.New(to, []otlp.Attribute{{Key: "service.name", Value: "colonnade-worker"},
		{Key: "service.instance.id", Value: worker}, {Key: "service.version", Value: cli.Version()},
		{Key: "colonnade.device", Value: device.Model}}, log)
}

// spans are those of one cell. All cells of a step have one trace: its ids follow from job, generation, step and cell,
// so nothing has to be handed on between workers. The first cell's step is the root.
type spans struct {
	to         *otlp.Exporter
	every      uint64
	job        string
	generation uint64
	cell       exchange.Cell
	next       atomic.Uint64 // spans so far
}

// spansOf is the tracer of a cell; nil: nobody wants to know.
func (h *host) spansOf(job string, generation uint64, cell exchange.Cell) train.Tracer {
	if h.spans == nil {
		return nil // and no interface that holds a nil
	}
	return &spans{to: h.spans, every: h.traceEvery, job: job, generation: generation, cell: cell}
}

// Wants implements train.Tracer.
func (s *spans) Wants(step uint64) bool { return step%s.every == 0 }

// id is a hash of what something is; it is never zero.
func (s *spans) id(what string, step uint64, cell exchange.Cell, n uint64) [32]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d\x00%d\x00%s\x00%d", what, s.job, s.generation, step, cell, n))
}

// stepID is the id of a cell's step.
func (s *spans) stepID(step uint64, cell exchange.Cell) [8]byte {
	sum := s.id("step", step, cell, 0)
	return [8]byte(sum[:8])
}

// Span implements train.Tracer.
func (s *spans) Span(of train.Span) {
	trace := s.id("trace", of.Step, exchange.Cell{}, 0)
	out := otlp.Span{Trace: [16]byte(trace[:16]), Parent: s.stepID(of.Step, s.cell), Name: of.Name, Began: of.Began,
		Ended: of.Ended, Attributes: []otlp.Attribute{{Key: "colonnade.job", Value: s.job},
			{Key: "colonnade.generation", Value: int64(s.generation)}, {Key: "colonnade.step", Value: int64(of.Step)},
			{Key: "colonnade.cell", Value: s.cell.String()}}}
	binary.BigEndian.PutUint64(out.ID[:], s.next.Add(1))
	own := s.id("span", of.Step, s.cell, binary.BigEndian.Uint64(out.ID[:]))
	out.ID = [8]byte(own[:8])
	add := func(key string, value any) {
		out.Attributes = append(out.Attributes, otlp.Attribute{Key: key, Value: value})
	}
	switch of.What {
	case train.StepSpan:
		out.Name, out.ID, out.Parent = "step", s.stepID(of.Step, s.cell), s.stepID(of.Step, exchange.Cell{})
		if s.cell == (exchange.Cell{}) {
			out.Parent = [8]byte{}
		}
	case train.PhaseSpan:
		add("colonnade.kind", string(of.Kind))
	case train.SendSpan, train.ReceiveSpan:
		out.Name = map[train.SpanKind]string{train.SendSpan: "send to ", train.ReceiveSpan: "receive from "}[of.What] +
			of.Peer.String()
		add("colonnade.peer", of.Peer.String())
		add("colonnade.bytes", int64(of.Bytes))
	}
	s.to.Add(out)
}
