package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"colonnade/checkpoint/tensors"
)

// record is what is kept of a run.
type record struct {
	Name        string       `json:"name"`
	Done        bool         `json:"done"`
	Diverged    bool         `json:"diverged,omitempty"` // the guard paused it for good
	Steps       uint64       `json:"steps"`              // done
	Of          uint64       `json:"of"`
	Kills       int          `json:"kills"`
	Digest      string       `json:"digest"`
	Numerics    string       `json:"numerics"`
	Seconds     float64      `json:"seconds"`           // of all tries, starts included, whatever else the machine did
	Processor   float64      `json:"processor_seconds"` // of all tries that were not killed
	Processing  uint64       `json:"processor_steps"`   // done in these
	Machine     string       `json:"machine"`           // of the last try
	Commit      string       `json:"commit"`            // of the last try; "": not known
	Evaluations []evaluation `json:"evaluations"`       //
	Losses      []loss       `json:"losses"`            // of steps, as far as they were told of
}

// evaluation and update are as `coordinator dev --json` prints them.
type evaluation struct {
	Step      uint64  `json:"step"`
	Epoch     uint64  `json:"epoch"`
	Images    uint64  `json:"images"`
	Top1      float64 `json:"top1_errors"`
	Top5      float64 `json:"top5_errors"`
	Loss      float64 `json:"loss"`
	TrainLoss float64 `json:"train_loss"`
	Rate      float64 `json:"rate"`
}

type loss struct {
	Step uint64  `json:"step"`
	Loss float64 `json:"loss"`
}

type update struct {
	Job struct {
		State       string       `json:"state"`
		Step        uint64       `json:"step"`
		Steps       uint64       `json:"steps"`
		Loss        float64      `json:"loss"`
		Digest      string       `json:"digest"`
		Numerics    string       `json:"numerics"`
		Evaluations []evaluation `json:"evaluations"`
	} `json:"job"`
}

// error1 is an evaluation's top-1 error, a share of 1.
func (e evaluation) error1() float64 { return e.Top1 / float64(max(e.Images, 1)) }

// take adds an update. A loss that is told again is the step's before.
func (r *record) take(u update) {
	j := u.Job
	r.Diverged = j.State == "paused"
	r.Done, r.Steps, r.Of, r.Evaluations, r.Numerics = j.State == "done", max(r.Steps, j.Step), j.Steps, j.Evaluations,
		j.Numerics
	if r.Done {
		r.Digest, r.Steps = j.Digest, j.Steps
	}
	if n := len(r.Losses); j.Loss > 0 && (n == 0 || r.Losses[n-1].Step < j.Step && r.Losses[n-1].Loss != j.Loss) {
		r.Losses = append(r.Losses, loss{j.Step, j.Loss})
	}
}

// reached is the first epoch behind which a quarter of the images was wrong at most; 0 if none.
func (r *record) reached() uint64 {
	for _, e := range r.Evaluations {
		if e.Images > 0 && e.error1() <= 0.25 {
			return e.Epoch
		}
	}
	return 0
}

// last is the newest evaluation's error in percent; false if there is none.
func (r *record) last() (float64, bool) {
	if len(r.Evaluations) == 0 {
		return 0, false
	}
	return 100 * r.Evaluations[len(r.Evaluations)-1].error1(), true
}

// fall is the mean of the first losses and of the last ones, an eighth of all each.
func (r *record) fall() (first, last float64) {
	n := len(r.Losses) / 8
	if n == 0 {
		return 0, 0
	}
	for i := range n {
		first += r.Losses[i].Loss / float64(n)
		last += r.Losses[len(r.Losses)-1-i].Loss / float64(n)
	}
	return first, last
}

// finished says whether a run has what it is for.
func (w run) finished(r *record) bool { return r.Done || r.Diverged || w.until && r.reached() > 0 }

// file is where a run's record lies while it is worked on, keptFile where it is kept.
func (o options) file(name string) string     { return filepath.Join(o.data, name+".json") }
func (o options) keptFile(name string) string { return filepath.Join(o.kept, "results", name+".json") }

// readRecord reads what is known of a run; nothing is of one that has not begun.
func readRecord(path, name string) (*record, error) {
	r := &record{Name: name}
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%s: %w; remove it", path, err)
	}
	return r, nil
}

// best is what is known of a run: what was done here, unless what is kept has gone further.
func (o options) best(w run) (*record, error) {
	kept, err := readRecord(o.keptFile(w.name), w.name)
	if err != nil {
		return nil, err
	}
	own, err := readRecord(o.file(w.name), w.name)
	if err != nil || own.Of == 0 || w.finished(kept) && !w.finished(own) || kept.Steps > own.Steps && !w.finished(own) {
		return kept, err
	}
	return own, nil
}

func write(path string, r *record) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return tensors.Create(path, func(w io.Writer) error {
		_, err := w.Write(append(b, '\n'))
		return err
	})
}

// mostLosses is how many losses of a run are kept: enough to draw.
const mostLosses = 100

// thin is a record with fewer losses, the first and the last among them.
func (r *record) thin() *record {
	out := *r
	n := len(r.Losses)
	if n <= mostLosses {
		return &out
	}
	out.Losses = nil
	for i := range mostLosses {
		out.Losses = append(out.Losses, r.Losses[i*(n-1)/(mostLosses-1)])
	}
	return &out
}

// keepAll keeps what was done here where results are kept.
func (o options) keepAll() error {
	if err := os.MkdirAll(filepath.Dir(o.keptFile("x")), 0o755); err != nil {
		return err
	}
	for _, w := range runs() {
		r, err := o.best(w)
		if err != nil {
			return err
		}
		if r.Of == 0 {
			continue
		}
		if err := write(o.keptFile(w.name), r.thin()); err != nil {
			return err
		}
	}
	return nil
}

// machine names the processor and how many there are.
func machine() string {
	name := "unknown processor"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				name = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%s, %d cores", name, runtime.NumCPU())
}

// commit is that of the checkout in the working directory; "" where there is none.
func commit() string {
	b, err := exec.Command("git", "rev-parse", "--short=7", "HEAD").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
