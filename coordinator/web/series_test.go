package web

import (
	"fmt"
	"math"
	"testing"
	"time"

	"colonnade/proto/clusterpb"
)

func TestGroups(t *testing.T) {
	for phase, want := range map[string]string{"data": "data", "input": "data", "conv1": "forward",
		"conv1/w weights": "backward",
		"pool1 gradient":  "backward", "conv2 wait for column 1": "wait", "update": "update", "guard": "update",
		"snapshot": "checkpoint", "loss": "forward"} {
		if got := groupOf(phase); got != want {
			t.Errorf("phase %q is %s, want %s", phase, got, want)
		}
	}
}

// Whatever happens to a series, its points are in order, stand for every look, and hold the extremes.
func TestMemoryIsBoundedAndLosesNoExtreme(t *testing.T) {
	m := NewMemory()
	const looks = 5 * keptPoints
	for i := range looks {
		v := 1.0
		if i == 17 {
			v = 100
		}
		m.Add("j", time.UnixMilli(int64(i+1)), Measured{Step: uint64(i + 1), Values: map[string]float64{"loss": v}})
	}
	kept := m.jobs["j"].series["loss"]
	if len(kept) > keptPoints {
		t.Errorf("%d points are kept, at most %d may be", len(kept), keptPoints)
	}
	n := 0.0
	for i, p := range kept {
		n += p.n
		if i > 0 && p.ms <= kept[i-1].ms {
			t.Fatalf("point %d is not behind the one before", i)
		}
	}
	if n != looks {
		t.Errorf("the points stand for %v looks of %d", n, looks)
	}
	got := m.Series("j", []string{"loss"}, 50)[0]
	most, last := 0.0, len(got.Step)-1
	for _, v := range got.Max {
		most = math.Max(most, v)
	}
	if len(got.Step) != 50 || most != 100 || got.Step[last] != looks {
		t.Errorf("%d points, the highest %v, the last of step %d", len(got.Step), most, got.Step[last])
	}
	if since := m.Since("j", looks-3); fmt.Sprint(since[0].Time) != fmt.Sprint([]int{looks - 2, looks - 1, looks}) {
		t.Errorf("since then: %v", since)
	}
	if since := m.Since("j", looks); len(since) != 0 {
		t.Errorf("after the last: %v", since)
	}
}

func TestMemoryOfJobs(t *testing.T) {
	m := NewMemory()
	for i := range keptJobs + 5 {
		m.Add(fmt.Sprint(i), time.UnixMilli(int64(i+1)), Measured{Step: 1, Values: map[string]float64{"loss": 1}})
	}
	if len(m.jobs) != keptJobs || m.jobs["4"] != nil || m.jobs["5"] == nil {
		t.Errorf("%d jobs are kept", len(m.jobs))
	}
	m.Keep([]string{"7"})
	if len(m.jobs) != 1 || len(m.Series("7", nil, 5)) != 1 || len(m.Series("8", nil, 5)) != 0 {
		t.Error("Keep keeps others")
	}
	m.Add("7", time.UnixMilli(1e6), Measured{Step: 1, Values: map[string]float64{"loss": 2}})
	if len(m.Series("7", nil, 5)[0].Step) != 1 {
		t.Error("a look without a new step counts")
	}
	m.Add("7", time.UnixMilli(1e6), Measured{Step: 0, Values: map[string]float64{"loss": 2}})
	if got := m.Series("7", nil, 5)[0].Step; fmt.Sprint(got) != "[1 0]" {
		t.Errorf("going back to an older step: %v", got)
	}
}

func TestNoNumberIsMeasured(t *testing.T) {
	m := measure(&clusterpb.Job{Loss: math.NaN(), ImagesPerSecond: math.Inf(1)})
	if len(m.Values) != 0 {
		t.Errorf("measured %v", m.Values)
	}
}
