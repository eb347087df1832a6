package web

import (
	"cmp"
	"encoding/json"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"colonnade/coordinator/fsm"
	"colonnade/proto/clusterpb"
)

// Store keeps what jobs measured, by job and name of a series.
type Store interface {
	// Add writes one look at a job down. A job that has finished no step since the last look adds nothing.
	Add(job string, at time.Time, m Measured)
	// Series returns a job's series of some names, of all if there are none, each of at most limit points.
	Series(job string, names []string, limit int) []Series
	// Since returns the points that came after a time, in milliseconds since 1970.
	Since(job string, ms int64) []Series
	// Keep forgets the jobs that are not named.
	Keep(jobs []string)
	// Has says whether there is anything of a job. Fill gives it a past if there is not.
	Has(job string) bool
	Fill(job string, past []Series)
}

// Measured is one look at a job.
type Measured struct {
	Step   uint64
	Values map[string]float64 // by series
}

// Series is one quantity in columns. A point stands for all looks since the point before.
type Series struct {
	Name string    `json:"name"`
	Step []uint64  `json:"step"` // of the newest look
	Time []int64   `json:"time"` // its milliseconds since 1970
	Mean []float64 `json:"mean"`
	Min  []float64 `json:"min"`
	Max  []float64 `json:"max"`
}

type seriesReply struct {
	Job    string   `json:"job"`
	Cursor string   `json:"cursor,omitempty"`
	Series []Series `json:"series"`
}

// groups are what the phases of a step are added up to, in the order of a step.
var groups = []string{"data", "forward", "backward", "wait", "update", "checkpoint"}

// groupOf says where a phase belongs: workers name them by layer and what is done there.
func groupOf(phase string) string {
	switch {
	case strings.Contains(phase, "wait for"):
		return "wait"
	case phase == "data" || phase == "input":
		return "data"
	case phase == "snapshot" || strings.HasPrefix(phase, "checkpoint"):
		return "checkpoint"
	case phase == "update" || phase == "guard":
		return "update"
	case strings.HasSuffix(phase, " gradient") || strings.HasSuffix(phase, " weights") ||
		strings.Contains(phase, "reduce"):
		return "backward"
	}
	return "forward"
}

// measure is what one look at a job says.
func measure(j *clusterpb.Job) Measured {
	m := Measured{Step: j.Step, Values: map[string]float64{}}
	if j.Loss != 0 {
		m.Values["loss"] = j.Loss
	}
	if j.ImagesPerSecond > 0 {
		m.Values["images_per_second"] = j.ImagesPerSecond
	}
	if top1, top5, ok := trained(j.Cells); ok {
		m.Values["train_error"], m.Values["train_top5_error"] = top1, top5
	}
	for _, c := range j.Cells {
		if len(c.PhaseSeconds) == 0 {
			continue
		}
		sums := grouped(c.PhaseSeconds)
		for _, g := range groups {
			m.Values["seconds/"+fsm.CellName(c.Cell)+"/"+g] = sums[g]
		}
	}
	for name, v := range m.Values {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			delete(m.Values, name)
		}
	}
	return m
}

// trained are the errors of the last batch's images, as a share, over all cells that tell of them.
func trained(cells []*clusterpb.CellStatus) (top1, top5 float64, ok bool) {
	images := uint64(0)
	for _, c := range cells {
		images += c.Scored
		top1 += c.Top1Errors
		top5 += c.Top5Errors
	}
	n := float64(max(images, 1))
	return top1 / n, top5 / n, images > 0
}

// Bounds of what is kept in memory.
const (
	keptPoints = 8192 // of a series, before neighbours are merged
	keptJobs   = 200  // that have series; the ones that were measured longest ago go first
)

// point is some looks in a row.
type point struct {
	step     uint64
	ms       int64
	n        float64 // looks
	sum      float64
	min, max float64
}

func (p point) with(q point) point {
	return point{step: q.step, ms: q.ms, n: p.n + q.n, sum: p.sum + q.sum, min: min(p.min, q.min), max: max(p.max, q.max)}
}

// merged returns points with every few in a row made one, so that there are at most limit. The newest stands alone.
func merged(points []point, limit int) []point {
	if len(points) <= limit {
		return points
	}
	out := make([]point, 0, limit)
	for i := range limit {
		from, to := i*len(points)/limit, (i+1)*len(points)/limit
		p := points[from]
		for _, q := range points[from+1 : to] {
			p = p.with(q)
		}
		out = append(out, p)
	}
	return out
}

// Memory is a Store that lasts as long as the process. When a series is full, its older half is merged pair by pair:
// what is new is fine, what is old gets coarser.
type Memory struct {
	mu   sync.Mutex
	jobs map[string]*measuredJob
}

type measuredJob struct {
	step   uint64
	ms     int64
	series map[string][]point
}

// NewMemory makes an empty store.
func NewMemory() *Memory { return &Memory{jobs: map[string]*measuredJob{}} }

// Add implements Store.
func (m *Memory) Add(job string, at time.Time, got Measured) {
	m.mu.Lock()
	defer m.mu.Unlock()
	j := m.jobs[job]
	if j == nil {
		m.makeRoom()
		j = &measuredJob{series: map[string][]point{}}
		m.jobs[job] = j
	}
	if ms := at.UnixMilli(); got.Step != j.step && ms > j.ms {
		j.step, j.ms = got.Step, ms
		for name, v := range got.Values {
			s := append(j.series[name], point{step: got.Step, ms: ms, n: 1, sum: v, min: v, max: v})
			if len(s) >= keptPoints {
				s = append(merged(s[:keptPoints/2], keptPoints/4), s[keptPoints/2:]...)
			}
			j.series[name] = s
		}
	}
}

// Has implements Store.
func (m *Memory) Has(job string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.jobs[job] != nil
}

// Fill implements Store.
func (m *Memory) Fill(job string, past []Series) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.jobs[job] != nil {
		return
	}
	j := &measuredJob{series: map[string][]point{}}
	for _, s := range past {
		for i, step := range s.Step {
			j.series[s.Name] = append(j.series[s.Name],
				point{step: step, ms: s.Time[i], n: 1, sum: s.Mean[i], min: s.Min[i], max: s.Max[i]})
			if s.Time[i] > j.ms {
				j.step, j.ms = step, s.Time[i]
			}
		}
	}
	if len(j.series) > 0 {
		m.makeRoom()
		m.jobs[job] = j
	}
}

// makeRoom forgets the job that was measured longest ago, if there are too many.
func (m *Memory) makeRoom() {
	if len(m.jobs) < keptJobs {
		return
	}
	oldest := ""
	for name, j := range m.jobs {
		if oldest == "" || j.ms < m.jobs[oldest].ms || j.ms == m.jobs[oldest].ms && name < oldest {
			oldest = name
		}
	}
	delete(m.jobs, oldest)
}

// Series implements Store.
func (m *Memory) Series(job string, names []string, limit int) []Series {
	return m.read(job, names, func(s []point) []point { return merged(s, limit) })
}

// Since implements Store.
func (m *Memory) Since(job string, ms int64) []Series {
	return m.read(job, nil, func(s []point) []point {
		i, _ := slices.BinarySearchFunc(s, ms+1, func(p point, ms int64) int { return cmp.Compare(p.ms, ms) })
		return s[i:]
	})
}

// read returns what a function leaves of a job's series, without the empty ones, by name.
func (m *Memory) read(job string, names []string, of func([]point) []point) []Series {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := []Series{}
	j := m.jobs[job]
	if j == nil {
		return out
	}
	for name, points := range j.series {
		if len(names) > 0 && !slices.Contains(names, name) {
			continue
		}
		if points = of(points); len(points) > 0 {
			out = append(out, columns(name, points))
		}
	}
	slices.SortFunc(out, func(a, b Series) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func columns(name string, points []point) Series {
	s := Series{Name: name}
	for _, p := range points {
		s.Step, s.Time = append(s.Step, p.step), append(s.Time, p.ms)
		s.Mean, s.Min, s.Max = append(s.Mean, p.sum/p.n), append(s.Min, p.min), append(s.Max, p.max)
	}
	return s
}

// Keep implements Store.
func (m *Memory) Keep(jobs []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range m.jobs {
		if !slices.Contains(jobs, name) {
			delete(m.jobs, name)
		}
	}
}

// Bounds of the points of one series in one answer.
const (
	usualPoints = 2000
	mostPoints  = 100_000
)

// series is what a job measured so far, and the id from which a stream goes on.
func (s *Server) series(w http.ResponseWriter, r *http.Request) {
	limit, ok := s.number(w, r, "points", usualPoints)
	if !ok {
		return
	}
	if limit < 1 || limit > mostPoints {
		s.refuse(w, http.StatusBadRequest, "INVALID", "points is out of bounds; give between 1 and 100000")
		return
	}
	out := seriesReply{Job: r.PathValue("job"), Cursor: s.cursorNow().String()}
	seen, _ := s.now()
	if !slices.ContainsFunc(seen.list, func(j *clusterpb.Job) bool { return j.Name == out.Job }) {
		s.refuse(w, http.StatusNotFound, "NO_JOB", "there is no job "+out.Job+" among those that this coordinator has seen")
		return
	}
	s.fill(r.Context(), out.Job)
	out.Series = s.store.Series(out.Job, r.Form["name"], int(limit))
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(out) // whom it cannot be told does not listen
}
