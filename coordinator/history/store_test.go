package history

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"colonnade/proto/clusterpb"
)

// clock is a clock that goes on by a second whenever it is looked at.
func clock() func() time.Time {
	t := time.Unix(1_700_000_000, 0)
	return func() time.Time { t = t.Add(time.Second); return t }
}

// tester is what both testing and rapid have.
type tester interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func must(t tester, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t tester, path string) *Store {
	t.Helper()
	s, aside, err := Open(path, clock())
	must(t, err)
	if aside != "" {
		t.Fatal(aside)
	}
	return s
}

func status(replica, column int32, step uint64, loss, rate float64) *clusterpb.CellStatus {
	return &clusterpb.CellStatus{Cell: &clusterpb.Cell{Replica: replica, Column: column}, Step: step, Loss: loss,
		Scored: step % 3 * 8, Top1Errors: float64(step % 5), Top5Errors: float64(step % 2),
		ImagesPerSecond: rate, PhaseSeconds: map[string]float64{"conv1": loss / 10, "wait": rate / 1000}}
}

// model is the same history by brute force: every level keeps its observations one by one.
type model struct {
	newest map[series]uint64
	seen   map[series]uint64
	all    map[series]*[levels][]*clusterpb.CellStatus
}

func newModel() *model {
	return &model{newest: map[series]uint64{}, seen: map[series]uint64{},
		all: map[series]*[levels][]*clusterpb.CellStatus{}}
}

func (m *model) add(st *clusterpb.CellStatus) {
	of := seriesOf(st.Cell)
	if st.Step <= m.seen[of] {
		return
	}
	m.seen[of] = st.Step
	for _, of := range []series{whole, of} {
		if m.all[of] == nil {
			m.all[of] = &[levels][]*clusterpb.CellStatus{}
		}
		m.newest[of] = max(m.newest[of], st.Step)
		for level := range levels {
			m.all[of][level] = append(m.all[of][level], st)
		}
	}
}

// purge takes away what is older than a level keeps. The newest step only goes on until a cut, so that it is enough to
// do this before one, and before a check.
func (m *model) purge() {
	for of, all := range m.all {
		for level := range levels {
			all[level] = slices.DeleteFunc(all[level], func(o *clusterpb.CellStatus) bool {
				return o.Step/width(level)+of.keep() <= m.newest[of]/width(level)
			})
		}
	}
}

func (m *model) cut(base uint64) {
	m.purge()
	clear(m.seen)
	for of, all := range m.all {
		if m.newest[of] <= base {
			continue
		}
		m.newest[of] = 0
		for level := range levels {
			place := base / width(level)
			in := func(o *clusterpb.CellStatus) bool { return o.Step/width(level) == place }
			torn := slices.ContainsFunc(all[level], func(o *clusterpb.CellStatus) bool { return in(o) && o.Step > base })
			all[level] = slices.DeleteFunc(all[level], func(o *clusterpb.CellStatus) bool {
				return o.Step > base || torn && in(o)
			})
			if torn && level > 0 {
				for _, o := range all[level-1] {
					if in(o) {
						all[level] = append(all[level], o)
					}
				}
			}
			for _, o := range all[level] {
				m.newest[of] = max(m.newest[of], o.Step)
			}
		}
		if m.newest[of] == 0 {
			m.newest[of] = base
		}
	}
}

// check compares every point of a store with the sum of a model's observations.
func (m *model) check(t tester, s *Store, job string) {
	t.Helper()
	m.purge()
	h := s.jobs[job]
	for of, all := range m.all {
		for level := range levels {
			got, err := s.scan(job, h, of, level, 0, math.MaxUint64)
			must(t, err)
			want := map[uint64][]*clusterpb.CellStatus{}
			for _, o := range all[level] {
				want[o.Step/width(level)] = append(want[o.Step/width(level)], o)
			}
			if len(got) != len(want) || uint64(len(got)) > of.keep() {
				t.Fatalf("series %v, level %d: %d points instead of %d", of, level, len(got), len(want))
			}
			for _, p := range got {
				compare(t, p, want[p.FirstStep/width(level)], of != whole)
			}
		}
	}
}

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-9*(1+math.Abs(b)) }

func compare(t tester, p *point, all []*clusterpb.CellStatus, phases bool) {
	t.Helper()
	var loss, rate, conv1, top1, top5, scores float64
	first, last, losses := uint64(math.MaxUint64), uint64(0), 0
	lo, hi := math.Inf(1), math.Inf(-1)
	for _, o := range all {
		first, last = min(first, o.Step), max(last, o.Step)
		rate += o.ImagesPerSecond / float64(len(all))
		conv1 += o.PhaseSeconds["conv1"] / float64(len(all))
		if n := float64(o.Scored); n > 0 {
			scores++
			top1, top5 = top1+o.Top1Errors/n, top5+o.Top5Errors/n
		}
		if o.Loss != 0 {
			losses++
			loss, lo, hi = loss+o.Loss, min(lo, o.Loss), max(hi, o.Loss)
		}
	}
	switch {
	case p.FirstStep != first || p.LastStep != last || p.Observations != uint64(len(all)) || p.Losses != uint64(losses):
		t.Fatalf("%v is not of %d observations of steps %d to %d with %d losses", p, len(all), first, last, losses)
	case losses > 0 && (!near(p.Loss, loss/float64(losses)) || p.LossMin != lo || p.LossMax != hi):
		t.Fatalf("%v has not loss %g (%g to %g)", p, loss/float64(losses), lo, hi)
	case float64(p.Scores) != scores, scores > 0 && (!near(p.Top1Error, top1/scores) || !near(p.Top5Error, top5/scores)):
		t.Fatalf("%v has not errors %g and %g of %g", p, top1, top5, scores)
	case !near(p.ImagesPerSecond, rate):
		t.Fatalf("%v has not %g images/s", p, rate)
	case phases && !near(p.PhaseSeconds["conv1"], conv1), !phases && len(p.PhaseSeconds) > 0:
		t.Fatalf("%v has not conv1 %g", p, conv1)
	}
}

// Whatever is added, in whatever order it is written, restarted and cut off: every point of every level is the sum of
// what was observed, and there are no more than there may be.
func TestLevelsAreSumsOfObservations(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		path := filepath.Join(dir, fmt.Sprint(n))
		s := open(t, path)
		defer func() { must(t, s.Close()) }()
		m, generation, step := newModel(), uint64(1), uint64(0)
		must(t, s.Begin("job", 1, generation, 0))
		stride := rapid.SampledFrom([]uint64{1, 2, 7, 100, 5000}).Draw(t, "stride")
		for range rapid.IntRange(1, 12).Draw(t, "rounds") {
			switch rapid.SampledFrom([]string{"train", "train", "train", "flush", "restart", "back"}).Draw(t, "what") {
			case "train":
				for range rapid.IntRange(1, 120).Draw(t, "steps") {
					step += 1 + step%stride
					for column := range int32(2) {
						st := status(0, column, step-min(uint64(column), step-1), float64(step%13)/10, 100+float64(step%31))
						must(t, s.Add("job", generation, st))
						must(t, s.Add("job", generation, st)) // a second time it is nothing new
						must(t, s.Add("job", generation-1, status(0, 0, step+1, 9, 9)))
						m.add(st)
					}
				}
			case "flush":
				must(t, s.Flush())
			case "restart":
				must(t, s.Close())
				s = open(t, path)
				clear(m.seen)
			case "back":
				generation++
				step -= min(step, rapid.SampledFrom([]uint64{0, 1, 50, 3000, 1 << 40}).Draw(t, "steps back"))
				must(t, s.Begin("job", 1, generation, step))
				must(t, s.Begin("job", 1, generation-1, 0))
				m.cut(step)
			}
			if h := s.jobs["job"]; h.newest[whole] != m.newest[whole] && m.newest[whole] > 0 && len(m.all[whole][0]) > 0 {
				t.Fatalf("newest is %d, not %d", h.newest[whole], m.newest[whole])
			}
		}
		m.check(t, s, "job")
	})
}

// trained is a store with a job of many steps.
func trained(t *testing.T, path string, steps uint64) *Store {
	s := open(t, path)
	must(t, s.Begin("job", 1, 1, 0))
	for step := uint64(1); step <= steps; step++ {
		must(t, s.Add("job", 1, status(0, 0, step, 1+1/float64(step), 50)))
	}
	return s
}

func TestSeriesFitAndReachBack(t *testing.T) {
	s := trained(t, filepath.Join(t.TempDir(), "h"), 6_000)
	defer s.Close()
	for _, points := range []int{0, 1, 5, 100, 1000, 2048, 1 << 30} {
		for _, span := range [][2]uint64{{0, 0}, {1, 6_000}, {5_000, 5_100}, {5_990, 0}, {100, 500}, {5_999, 20_000},
			{20_000, 0}, {500, 100}} {
			got, err := s.Series("job", nil, span[0], span[1], points)
			must(t, err)
			limit, to := points, span[1]
			if limit == 0 {
				limit = DefaultPoints
			}
			if to == 0 || to > 6_000 {
				to = 6_000
			}
			n := uint64(len(got.Points))
			if span[0] > to {
				if n > 0 {
					t.Errorf("%d points of steps %v", n, span)
				}
				continue
			}
			from := max(span[0], 1)
			if n == 0 || n > uint64(limit) && n > to/width(levels-1)-from/width(levels-1)+1 {
				t.Errorf("%d points of steps %v, at most %d were asked for", n, span, limit)
				continue
			}
			if got.Points[0].FirstStep/got.Width > from/got.Width || got.Points[n-1].LastStep < to {
				t.Errorf("steps %v: points reach from %d to %d", span, got.Points[0].FirstStep, got.Points[n-1].LastStep)
			}
			if from+2048 > 6_000 && (to-from) < uint64(limit) && got.Width != 1 {
				t.Errorf("steps %v in %d points are told by width %d", span, points, got.Width)
			}
			for i, p := range got.Points[1:] {
				if p.FirstStep <= got.Points[i].LastStep {
					t.Errorf("point of step %d follows that of %d", p.FirstStep, got.Points[i].LastStep)
				}
			}
		}
	}
}

// What a coordinator has seen it has again, and what was deleted stays so.
func TestRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h")
	s := trained(t, path, 2500)
	must(t, s.Begin("other", 2, 4, 0))
	must(t, s.Add("other", 4, status(1, 1, 7, 2, 3)))
	must(t, s.Flush())
	s.AddEvents([]*clusterpb.LogEvent{{Index: 5, Text: "a"}, {Index: 5, Text: "b"}, {Index: 9, Text: "c"}})
	r := &clusterpb.HistoryRequest{Job: "job", Cells: true}
	before, err := s.History(r)
	must(t, err)
	s.Delete("other")
	must(t, s.Close())
	if _, err := s.History(r); !errors.Is(err, ErrOff) {
		t.Errorf("a closed store says %v", err)
	}
	s = open(t, path)
	defer s.Close()
	after, err := s.History(r)
	must(t, err)
	if !proto.Equal(before, after) || len(after.Series) != 2 || len(after.Series[0].Points) == 0 {
		t.Errorf("after a restart: %v instead of %v", after, before)
	}
	if g, step := s.Newest("other"); g != 0 || step != 0 {
		t.Errorf("a deleted job is at generation %d, step %d", g, step)
	}
	happened, err := s.Events(4, nil, 0)
	must(t, err)
	if got := texts(happened); got != "a b c" {
		t.Errorf("events %s", got)
	}
	// Another job of the same name begins anew.
	must(t, s.Begin("job", 77, 1, 0))
	if all, err := s.Series("job", nil, 0, 0, 10); err != nil || len(all.Points) > 0 {
		t.Errorf("a new job of an old name has %v, %v", all, err)
	}
	must(t, s.Add("job", 1, status(0, 0, 1, 1, 1)))
	must(t, s.Flush())
	if all, err := s.Series("job", nil, 0, 0, 10); err != nil || len(all.Points) != 1 {
		t.Errorf("a new job of an old name has %v, %v", all, err)
	}
}

func texts(all []*clusterpb.LogEvent) string {
	var out []string
	for _, e := range all {
		out = append(out, e.Text)
	}
	return strings.Join(out, " ")
}

// A follower that asks the leader now and then, was away, or comes late, ends with the same points.
func TestMerge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "history")
		must(t, err)
		defer os.RemoveAll(dir)
		leader, follower := open(t, filepath.Join(dir, "a")), open(t, filepath.Join(dir, "b"))
		defer leader.Close()
		defer follower.Close()
		step, generation := uint64(0), uint64(1)
		must(t, leader.Begin("job", 1, 1, 0))
		must(t, follower.Begin("job", 1, 1, 0))
		pull := func() {
			_, newest := follower.Newest("job")
			r, err := leader.History(&clusterpb.HistoryRequest{Job: "job", FromStep: newest, Levels: true})
			must(t, err)
			must(t, follower.Merge(r))
		}
		for range rapid.IntRange(1, 6).Draw(t, "rounds") {
			for range rapid.IntRange(0, 150).Draw(t, "steps") {
				step += 1 + step%29
				must(t, leader.Add("job", generation, status(0, int32(step%2), step, 1, 2)))
			}
			if rapid.Bool().Draw(t, "pulls") {
				pull()
			}
			if rapid.IntRange(0, 3).Draw(t, "goes back") == 0 {
				generation++
				step -= min(step, 40)
				must(t, leader.Begin("job", 1, generation, step))
				pull() // of another course: nothing of it is taken
				must(t, follower.Begin("job", 1, generation, step))
			}
		}
		pull()
		for _, of := range append([]series{whole}, leader.jobs["job"].cells()...) {
			for level := range levels {
				want, err := leader.scan("job", leader.jobs["job"], of, level, 0, math.MaxUint64)
				must(t, err)
				got, err := follower.scan("job", follower.jobs["job"], of, level, 0, math.MaxUint64)
				must(t, err)
				// The leader may have been further, and have forgotten more, before it went back.
				for len(want) > 0 && len(got) > len(want) && got[0].LastStep < want[0].FirstStep {
					got = got[1:]
				}
				if !slices.EqualFunc(want, got, alike) {
					t.Fatalf("series %v, level %d: the follower has %d points, the leader %d, or others", of, level, len(got),
						len(want))
				}
			}
		}
	})
}

// alike says whether two points are the same but for rounding in their means: a follower adds in another order.
func alike(a, b *point) bool {
	b = proto.CloneOf(b)
	for _, means := range [][2]*float64{{&a.Loss, &b.Loss}, {&a.ImagesPerSecond, &b.ImagesPerSecond},
		{&a.Top1Error, &b.Top1Error}, {&a.Top5Error, &b.Top5Error}} {
		if near(*means[0], *means[1]) {
			*means[1] = *means[0]
		}
	}
	for phase, seconds := range a.PhaseSeconds {
		if other, there := b.PhaseSeconds[phase]; there && near(seconds, other) {
			b.PhaseSeconds[phase] = seconds
		}
	}
	return proto.Equal(a, b)
}

func TestMergeRefusesNonsense(t *testing.T) {
	s := trained(t, filepath.Join(t.TempDir(), "h"), 10)
	defer s.Close()
	for name, one := range map[string]*clusterpb.HistorySeries{
		"width":  {Width: 3, Points: []*point{{FirstStep: 1, LastStep: 1, Observations: 1}}},
		"cell":   {Width: 1, Cell: &clusterpb.Cell{Replica: -1}},
		"empty":  {Width: 1, Points: []*point{{FirstStep: 1, LastStep: 1}}},
		"nil":    {Width: 1, Points: []*point{nil}},
		"beyond": {Width: 4, Points: []*point{{FirstStep: 1, LastStep: 5, Observations: 1}}},
	} {
		if err := s.Merge(&clusterpb.HistoryReply{Job: "job", Generation: 1, SubmittedUnixNs: 1,
			Series: []*clusterpb.HistorySeries{one}}); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func TestEventsAreBounded(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "h"))
	defer s.Close()
	var log []*clusterpb.LogEvent
	for i := uint64(1); i <= keepEvents+500; i++ {
		log = append(log, &clusterpb.LogEvent{Index: i, Job: fmt.Sprint("j", i%2)})
		if i%1000 == 0 {
			s.AddEvents(log[max(0, len(log)-1500):]) // those of before are told again
			must(t, s.Flush())
		}
	}
	s.AddEvents(log[len(log)-1000:])
	must(t, s.Flush())
	all, err := s.Events(0, nil, 0)
	must(t, err)
	if len(all) != keepEvents || all[0].Index != 501 || all[len(all)-1].Index != keepEvents+500 {
		t.Fatalf("%d events from %d on", len(all), all[0].Index)
	}
	some, err := s.Events(100, func(e *clusterpb.LogEvent) bool { return e.Job == "j1" }, 3)
	must(t, err)
	if len(some) != 3 || some[2].Index != keepEvents+499 || some[0].Index != keepEvents+495 {
		t.Errorf("the last three of one job: %v", some)
	}
}

// Whatever happens to the file, opening it gives a store; what cannot be read is put aside, in one line.
func TestDamagedFiles(t *testing.T) {
	dir := t.TempDir()
	s := trained(t, filepath.Join(dir, "good"), 500)
	s.AddEvents([]*clusterpb.LogEvent{{Index: 1, Text: "a"}})
	must(t, s.Close())
	good, err := os.ReadFile(filepath.Join(dir, "good"))
	must(t, err)
	random := rand.New(rand.NewPCG(1, 2))
	asides := 0
	for i := range 60 {
		path := filepath.Join(dir, fmt.Sprint(i))
		bad := slices.Clone(good)
		switch i % 3 {
		case 0:
			bad = bad[:random.IntN(len(bad))]
		case 1:
			for range 1 + random.IntN(20) {
				bad[random.IntN(len(bad))] ^= byte(1 + random.IntN(255))
			}
		case 2:
			at := random.IntN(len(bad) - 4096)
			copy(bad[at:], make([]byte, 4096))
		}
		must(t, os.WriteFile(path, bad, 0o600))
		s, aside, err := Open(path, clock())
		must(t, err)
		if aside != "" {
			asides++
			if strings.Contains(aside, "\n") || !strings.Contains(aside, path+".damaged") {
				t.Errorf("%q", aside)
			}
			if got, err := os.ReadFile(path + ".damaged"); err != nil || len(got) != len(bad) {
				t.Errorf("put aside: %d bytes, %v", len(got), err)
			}
		}
		must(t, s.Begin("job", 1, 1, 0))
		must(t, s.Add("job", 1, status(0, 0, 501, 1, 1)))
		must(t, s.Close())
	}
	if asides < 30 {
		t.Errorf("only %d of 60 damaged files were found out", asides)
	}
}

// A disk that fails turns the store off with one line; nothing else happens to who adds.
func TestDiskFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "h")
	s := trained(t, path, 10)
	must(t, s.db.Close())
	err := s.Flush()
	if !errors.Is(err, ErrOff) || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
	if again := s.Add("job", 1, status(0, 0, 11, 1, 1)); !errors.Is(again, ErrOff) {
		t.Errorf("%v", again)
	}
	if _, err := s.Series("job", nil, 0, 0, 0); !errors.Is(err, ErrOff) {
		t.Errorf("%v", err)
	}
}

// Cells beyond the first have no series of their own, and neither phases nor numbers that are none get in.
func TestBounds(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "h"))
	defer s.Close()
	must(t, s.Begin("job", 1, 1, 0))
	many := map[string]float64{"nan": math.NaN()}
	for i := range 2 * mostPhases {
		many[fmt.Sprint(i)] = 1
	}
	for i := range int32(3 * mostCells) {
		st := status(i, 0, 5, math.Inf(1), math.NaN())
		st.PhaseSeconds = maps.Clone(many)
		must(t, s.Add("job", 1, st))
		must(t, s.Add("job", 1, status(i, 0, 6, 1, 1)))
	}
	cells, err := s.Cells("job")
	must(t, err)
	if len(cells) != mostCells {
		t.Errorf("%d cells have series", len(cells))
	}
	r, err := s.History(&clusterpb.HistoryRequest{Job: "job", Cells: true})
	must(t, err)
	for _, one := range r.Series {
		for _, p := range one.Points {
			if len(p.PhaseSeconds) > mostPhases || !finite(p.Loss) || !finite(p.ImagesPerSecond) || p.Losses > p.Observations {
				t.Errorf("point %v", p)
			}
		}
	}
}
