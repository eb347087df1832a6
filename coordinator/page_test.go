package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"colonnade/proto/clusterpb"
)

var escapes = regexp.MustCompile(`\x1b\[[?0-9;]*[a-zA-Z]`)

// pageOf is a page that a job of many steps, cells and events was shown on.
func pageOf(colours bool, out *lockedBuffer) *page {
	p := &page{con: console{out: out, err: out, terminal: true, colours: colours, now: time.Now}}
	j := &clusterpb.Job{Name: "fashion", State: "running", Generation: 3, Steps: 6558, Epochs: 7, Batch: 64,
		ImagesPerSecond: 1992, CommittedStep: 3000}
	for column := range int32(2) {
		cell := &clusterpb.Cell{Column: column}
		j.Placement = append(j.Placement, &clusterpb.Placement{Cell: cell, WorkerName: "a-host-with-a-long-name-1"})
		j.Cells = append(j.Cells, &clusterpb.CellStatus{Cell: cell, Step: 3201, Phase: "conv2", ImagesPerSecond: 1992,
			Carrier: "shm"})
	}
	for step := uint64(1); step <= 3201; step++ {
		j.Step, j.Loss = step, 2.3/float64(1+step/100)
		u := &clusterpb.JobUpdate{Job: j}
		if step%937 == 0 {
			j.Evaluations = append(j.Evaluations, &clusterpb.Evaluation{Epoch: step / 937, Images: 10_000,
				Top1Errors: 2000 / float64(step/937), Top5Errors: 30, Rate: 0.01})
		}
		if step%100 == 0 {
			u.Events = []*clusterpb.LogEvent{{Index: step, Kind: "worker", Text: fmt.Sprintf("event at step %d", step),
				At: timestamppb.New(time.Unix(int64(step), 0))}}
		}
		if err := p.update(u); err != nil {
			panic(err)
		}
	}
	return p
}

func TestPage(t *testing.T) {
	var out lockedBuffer
	p := pageOf(false, &out)
	text := strings.Join(p.lines(80, 24), "\n")
	like(t, text, `fashion  running {30,}generation 3  step 3201/6558
█+.?░+   49 %  1992 images/s  1m47s left

loss          0.0697    █[▁-█]{53,55}
test error    6.67 %    █▂▁  epoch 3/7  top-5 0.30 %
batch 64  checkpoint of step 3000  rate 0.01

CELL   WORKER +STEP  PHASE +IMAGES/S  CARRIER
r0c0   a-host-with-a-long-na…      3201  conv2                 1992  shm
r0c1   a-host-with-a-long-na…      3201  conv2                 1992  shm

(\d\d:\d\d:\d\d  event at step \d+\n){11}
Ctrl-C ends the watching, not the job.`)
	if !strings.Contains(text, "event at step 3200\n") {
		t.Error("the newest event is left out")
	}
	if strings.Contains(text, "\x1b") {
		t.Errorf("colours that were not asked for: %q", text)
	}
	p.note("the coordinator is away")
	p.clear()
	p.note("the job goes on")
	if s := out.String(); strings.Count(s, "\x1b[?1049h") != 1 || !strings.Contains(s, "the coordinator is away") ||
		!strings.HasSuffix(s, "\x1b[?25h\x1b[?1049lfashion: running  step 3201/6558  loss 0.0697  1992 images/s  "+
			"1m47s left\nthe job goes on\n") {
		t.Error("the other screen is not left as it was entered, with what was seen last and what is to be said")
	}
	if p.losses != nil && len(p.losses) > pageLosses {
		t.Errorf("%d losses are kept", len(p.losses))
	}
}

// A job that goes on from an older step keeps the curve up to there.
func TestPageGoesBack(t *testing.T) {
	var out lockedBuffer
	p := &page{con: console{out: &out, err: &out, terminal: true, now: time.Now}}
	for _, step := range []uint64{1, 2, 3, 4, 3, 4, 5} {
		if err := p.update(&clusterpb.JobUpdate{Job: &clusterpb.Job{Step: step, Steps: 9, Loss: float64(step)}}); err != nil {
			t.Fatal(err)
		}
	}
	var steps []uint64
	for _, s := range p.losses {
		steps = append(steps, s.step)
	}
	if !slices.Equal(steps, []uint64{1, 2, 3, 4, 5}) {
		t.Errorf("losses of steps %v", steps)
	}
}

// It fits into any terminal, with colours too.
func TestPageFits(t *testing.T) {
	var out lockedBuffer
	p := pageOf(true, &out)
	p.last.Reason, p.last.State = strings.Repeat("waits ", 40), "recovering"
	for _, size := range [][2]int{{80, 24}, {40, 10}, {132, 50}, {80, 3}} {
		lines := p.lines(size[0], size[1])
		if len(lines) > size[1] {
			t.Errorf("%v: %d lines", size, len(lines))
		}
		for _, line := range lines {
			if n := len([]rune(escapes.ReplaceAllString(line, ""))); n > size[0] {
				t.Errorf("%v: %d columns: %q", size, n, line)
			}
		}
		if !strings.Contains(lines[0], "\x1b[33mrecovering\x1b[0m") {
			t.Errorf("%v: no colour in %q", size, lines[0])
		}
	}
}
