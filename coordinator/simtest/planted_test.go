package simtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// An edit is a place in a file, which is there once, and what it becomes. PLANTED is true while the bug is hunted.
type edit struct{ file, is, bad string }

// bug is a mistake planted in the code under test or in the model: such as are made, or were.
type bug struct {
	what  string
	edits []edit
}

// Two are left out, by which the model seldom or never comes to harm, and which other tests find: copies of a
// generation that is over that are taken (worker/buddy), marks by an old generation that count (fsm's tables).
var bugs = []bug{
	{"a fence lost: reports of an old generation count", []edit{{"fsm/state.go",
		"	if generation != j.Generation {",
		"	if generation != j.Generation && !PLANTED {"}}},
	{"a checkpoint is committed with a cell missing", []edit{{"fsm/checkpoints.go",
		"	if len(r.Files) == cells(j) && !r.Committed {",
		"	if (len(r.Files) == cells(j) || PLANTED && len(r.Files)+1 == cells(j)) && !r.Committed {"}}},
	{"retention counts checkpoints that are bad", []edit{
		{"fsm/checkpoints.go", "	good := Usable(j)\n", "	good := Usable(j)\n	if PLANTED {\n		good = j.Checkpoints\n	}\n"},
		{"simtest/sim_test.go", "	good := fsm.Usable(j)\n	if len(good) <=",
			"	good := fsm.Usable(j)\n	if PLANTED {\n		good = j.Checkpoints\n	}\n	if len(good) <="}}},
	{"a worker that started again keeps its cells", []edit{{"fsm/workers.go",
		"		a.abandon(c.Worker, fmt.Sprintf(\"worker %s started again\", c.Name))",
		"		if !PLANTED {\n			a.abandon(c.Worker, \"again\")\n		}"}}},
	{"a drained worker is given cells", []edit{{"sched/pool.go",
		"!w.Hung && !w.Draining", "!w.Hung && (!w.Draining || PLANTED)"}}},
	{"a job that moves goes on before it has stopped", []edit{{"fsm/jobs.go",
		"	case len(j.Stopped) < cells(j):\n", "	case len(j.Stopped) < cells(j) && !PLANTED:\n"}}},
	{"a move goes on without an end", []edit{{"fsm/jobs.go",
		"	case j.Moving: // its placement stays", "	case j.Moving && PLANTED:\n	case j.Moving: // its placement stays"}}},
	{"a job is done when one cell is not", []edit{{"fsm/jobs.go",
		"	if len(j.Finished) == cells(j) {",
		"	if len(j.Finished) == cells(j) || PLANTED && len(j.Finished)+1 == cells(j) {"}}},
	{"a report that comes again counts twice", []edit{{"fsm/jobs.go",
		"	if found {\n		list[i] = c\n", "	if found && !PLANTED {\n		list[i] = c\n"}}},
	{"a stop is forgotten when a worker is lost", []edit{{"fsm/workers.go",
		"	if j.State == Stopping && !goesOn(j) {", "	if j.State == Stopping && !goesOn(j) && !PLANTED {"}}},
	{"memory is tried again that could not be gone on from", []edit{{"fsm/jobs.go",
		"	j.AvoidMemory = c.Memory\n", "	j.AvoidMemory = c.Memory && !PLANTED\n"}}},
	{"memory of a history that was given up is believed", []edit{{"fsm/jobs.go",
		"func MemorySince(j *commandpb.JobRecord) uint64 {\n",
		"func MemorySince(j *commandpb.JobRecord) uint64 {\n	if PLANTED {\n		return 0\n	}\n"}}},
	{"cells are placed where their memory is not", []edit{{"sched/memory.go",
		"		if i >= 0 {\n			missing = i\n", "		if i >= 0 && !PLANTED {\n			missing = i\n"}}},
	{"what one worker remembers of all cells is worth nothing while others are free", []edit{{"sched/memory.go",
		"		crowd := step > a.Restore\n", "		crowd := step > a.Restore && !PLANTED\n"}}},
	{"a new leader judges before a lease is over", []edit{{"sched/sched.go",
		"	return later(deadline, in.Leader.Add(in.Rules.Lease)), why",
		"	if PLANTED {\n		return deadline, why\n	}\n	return later(deadline, in.Leader.Add(in.Rules.Lease)), why"}}},
	{"a lease is as short as the grace of a broken session, and half", []edit{{"sched/sched.go",
		"		deadline, why = s.Heard.Add(in.Rules.Lease), verdict{\"silent for %v\", in.Rules.Lease}",
		"		deadline, why = s.Heard.Add(in.Rules.Lease), verdict{\"silent for %v\", in.Rules.Lease}\n" +
			"		if PLANTED {\n			deadline = s.Heard.Add(in.Rules.Grace / 2)\n		}"}}},
	{"workers of a job that stops are free", []edit{{"fsm/roll.go",
		"	if j.GetState() != Running && j.GetState() != Stopping {",
		"	if j.GetState() != Running && (j.GetState() != Stopping || PLANTED) {"}}},
	{"nobody wakes the leader when a wait is over", []edit{{"simtest/sim_test.go",
		"	if !d.Next.IsZero() {", "	if !d.Next.IsZero() && !PLANTED {"}}},
	{"the oldest checkpoint is restored", []edit{{"sched/files.go",
		"	good := fsm.Usable(j)\n	if j.HasResumeStep",
		"	good := fsm.Usable(j)\n	if PLANTED && len(good) > 1 {\n		good = good[:1]\n	}\n	if j.HasResumeStep"}}},
	{"a checkpoint is bad because who has a file is away", []edit{{"simtest/worker_test.go",
		"	if !ok && !w.reaches(want.Worker) {", "	if !ok && !w.reaches(want.Worker) && !PLANTED {"}}},
	{"a new process's reports are taken for the old one's", []edit{{"simtest/sim_test.go",
		"h.incarnation == x.incarnation && r.sequence", "(h.incarnation == x.incarnation || PLANTED) && r.sequence"}}},
	{"a report is acknowledged before it is written, and the leader dies", []edit{{"simtest/sim_test.go",
		"	s.apply(r.command)\n	s.retain(r.job)\n",
		"	if !(PLANTED && s.chance(10)) {\n		s.apply(r.command)\n	}\n	s.retain(r.job)\n"}}},
	{"a worker is not told of the next generation", []edit{{"simtest/sim_test.go",
		"(!active || told != j.Generation) {", "(!active || told != j.Generation && !PLANTED) {"}}},
	{"a generation that has ended on a worker begins again", []edit{{"simtest/worker_test.go",
		"|| w.ended[a.job] >= a.generation {", "|| w.ended[a.job] >= a.generation && !PLANTED {"}}},
	{"frames of an old generation are taken", []edit{{"simtest/worker_test.go",
		"	key := groupKey{a.job, a.generation}\n	if",
		"	key := groupKey{a.job, a.generation}\n	if PLANTED {\n		key.generation = 0\n		if g := w.groups[key]; g != nil {\n" +
			"			g.aborted = false\n		}\n	}\n	if"}}},
	{"an arena is adopted in place from an owner that lives", []edit{{"simtest/memory_test.go",
		"		if a.inUse() {\n			a = &arena", "		if a.inUse() && !PLANTED {\n			a = &arena"}}},
	{"the half that was being written is offered", []edit{{"simtest/memory_test.go",
		"{ delete(a.held, step-1) }",
		"{\n	if PLANTED {\n		a.held[step-1]++\n		return\n	}\n	delete(a.held, step-1)\n}"}}},
	{"cells stop after different steps", []edit{{"simtest/worker_test.go",
		"		r.group.stopAt = max(r.group.stopAt, step+1)\n	}\n",
		"		r.group.stopAt = max(r.group.stopAt, step+1)\n	}\n	if PLANTED {\n		r.group.stopAt--\n	}\n"}}},
	{"a worker deletes the files of another job's step", []edit{{"simtest/worker_test.go",
		"k.job == job && slices.Contains(steps, k.step)", "(k.job == job || PLANTED) && slices.Contains(steps, k.step)"}}},
	{"a file is restored that was not verified", []edit{{"simtest/worker_test.go",
		"	if !ok || !bytes.Equal(f.sha256(), want.Sha256) {\n		return nil",
		"	if !ok || !bytes.Equal(f.sha256(), want.Sha256) && !PLANTED {\n		return nil"}}},
	{"a file that could not be written is reported", []edit{{"simtest/worker_test.go",
		"	w.disk[fileKey{r.job, c.step, i, r.generation}] = f\n",
		"	if !(PLANTED && w.chance(10)) {\n		w.disk[fileKey{r.job, c.step, i, r.generation}] = f\n	}\n"}}},
	{"a worker keeps the newest copy alone", []edit{{"simtest/buddy_test.go",
		"bool { return c.step != keep })", "bool { return c.step != keep || PLANTED })"}}},
	{"a cell begins a copy while others are at the one before", []edit{{"simtest/buddy_test.go",
		"	if all.tried < c.begun ||",
		"	if PLANTED {\n		all.tried, all.whole = r.group.copies[i].tried, r.group.copies[i].whole\n	}\n" +
			"	if all.tried < c.begun ||"}}},
	{"a buddy is on the same machine", []edit{{"sched/buddy.go",
		"		m := r.machines[(at[0]+i)%len(r.machines)]\n",
		"		m := r.machines[(at[0]+i)%len(r.machines)]\n		if PLANTED {\n			m = r.machines[at[0]]\n		}\n"}}},
	{"copies that another worker has are not fetched", []edit{{"sched/memory.go",
		"			p.Source = workers[sources[i]].id\n",
		"			if !PLANTED {\n				p.Source = workers[sources[i]].id\n			}\n"}}},
	{"answers about an old generation are believed", []edit{{"sched/memory.go",
		"	return h, ok && h.Generation == j.Generation\n",
		"	return h, ok && (h.Generation == j.Generation || PLANTED)\n"}}},
	{"a worker is forgotten that has a checkpoint's files", []edit{{"fsm/workers.go",
		"				needed[f.Worker] = true\n", "				needed[f.Worker] = !PLANTED || needed[f.Worker]\n"}}},
	{"a worker is forgotten when it has just been lost", []edit{{"sched/forget.go",
		"p.now.Before(until) {", "p.now.Before(until) && !PLANTED {"}}},
	{"a decision goes by a roll that is out of order", []edit{{"fsm/roll.go",
		"	cells := s.v.Roll[at].Cells\n",
		"	if PLANTED && at > 0 && !there {\n		s.v.Roll[at-1], s.v.Roll[at] = s.v.Roll[at], s.v.Roll[at-1]\n" +
			"		at--\n	}\n	cells := s.v.Roll[at].Cells\n"}}},
	{"a veto is not heard by the other cells", []edit{{"simtest/worker_test.go",
		"	return r.spec.bad == step+1 && ", "	return r.spec.bad == step+1 && (!PLANTED || i == r.spec.sees) && "}}},
	{"a cell holds a step whose update it has found wrong", []edit{{"simtest/worker_test.go",
		"i%columns != r.spec.sees%columns {", "i%columns != r.spec.sees%columns || PLANTED {"}}},
	{"a batch is skipped in one generation and not in the next", []edit{{"simtest/sim_test.go",
		"skipped: fsm.StepsOf(j, fsm.VetoSkipped)}", "skipped: fsm.StepsOf(j, fsm.VetoSkipped)}\n" +
			"	if PLANTED && j.Generation > 4 {\n		a.skipped = nil\n	}"}}},
	{"a veto is forgotten when the job goes on", []edit{{"fsm/guard.go",
		"r.Outcome, j.AvoidMemory = VetoSkipped, true", "r.Outcome, j.AvoidMemory = VetoSkipped, true\n" +
			"		if PLANTED {\n			j.Vetoes = nil\n		}"}}},
	{"jobs of one priority make way for each other", []edit{{"sched/queue.go",
		"	return len(jobs) > 0 && jobs[len(jobs)-1].Priority < j.Priority\n",
		"	return len(jobs) > 0 && (jobs[len(jobs)-1].Priority < j.Priority || PLANTED)\n"},
		{"sched/queue.go", "		if c.job.Priority >= j.Priority {\n",
			"		if c.job.Priority >= j.Priority && !(PLANTED && c.job.Priority == j.Priority) {\n"},
		{"fsm/queue.go", "	case by.Priority <= j.Priority:\n", "	case by.Priority <= j.Priority && !PLANTED:\n"}}},
	{"a job makes way for one that cannot begin all the same", []edit{{"sched/queue.go",
		"	if have < least {\n		return nil\n", "	if have < least && !(PLANTED && have > 0) {\n		return nil\n"}}},
	{"who has made way is stopped for good", []edit{{"fsm/jobs.go",
		"	case j.Requeuing:\n", "	case j.Requeuing && !PLANTED:\n"}}},
	{"an operator's stop is forgotten when a job makes way", []edit{{"fsm/jobs.go",
		"		j.Moving, j.Requeuing, j.Pausing = false, false, c.Pause\n",
		"		j.Moving, j.Requeuing, j.Pausing = false, PLANTED && j.Requeuing, c.Pause\n"}}},
	{"a job that makes way is queued before it has stopped", []edit{{"fsm/queue.go",
		"	j.Requeuing = true\n", "	j.Requeuing = true\n	if PLANTED {\n		a.requeue(j, 0)\n	}\n"}}},
	{"later jobs get what is kept for earlier ones", []edit{{"sched/queue.go",
		"	p.take(free[:min(len(free), fsm.MostWorkers(j))])\n",
		"	if !PLANTED {\n		p.take(free[:min(len(free), fsm.MostWorkers(j))])\n	}\n"}}},
	{"priorities are not looked at", []edit{{"fsm/queue.go",
		"	if by := cmp.Compare(b.Priority, a.Priority); by != 0 {\n",
		"	if by := cmp.Compare(b.Priority, a.Priority); by != 0 && !PLANTED {\n"}}},
	{"a quota is not looked at", []edit{{"sched/queue.go",
		"	if most >= cells || len(workers) <= most {", "	if most >= cells || len(workers) <= most || PLANTED {"}}},
	{"a minimum of workers is not looked at", []edit{{"fsm/queue.go",
		"	return int(max(min(int64(j.MinWorkers), int64(MostWorkers(j))), 1))\n",
		"	if PLANTED {\n		return 1\n	}\n	return int(max(min(int64(j.MinWorkers), int64(MostWorkers(j))), 1))\n"}}},
	{"a job that an operator pauses is stopped for good", []edit{{"fsm/operate.go",
		"	if j.Pausing {\n", "	if j.Pausing && !PLANTED {\n"}}},
	{"a job is paused whose checkpoint could not be written", []edit{{"simtest/worker_test.go",
		"			if !w.save(r, i, c) && (last || stopping) {", "			if !w.save(r, i, c) && (last || stopping && !PLANTED) {"}}},
	{"a paused job goes on when a worker comes", []edit{{"fsm/workers.go",
		"	a.s.keepWorker(c.Worker, record)\n", "	a.s.keepWorker(c.Worker, record)\n" +
			"	for _, j := range a.s.v.Jobs {\n		if PLANTED && j.State == Paused && Named(j) == nil {\n" +
			"			j = copyJob(j)\n			a.enter(j, Queued, \"a worker came\")\n			a.keep(j)\n		}\n	}\n"}}},
	{"a fork begins with its source's newest checkpoint", []edit{{"fsm/operate.go",
		"	r := usable(from, c.FromStep)\n", "	r := usable(from, c.FromStep)\n	if good := Usable(from); PLANTED {\n" +
			"		r = good[len(good)-1]\n	}\n"}}},
	{"retention drops what a fork begins with", []edit{{"fsm/operate.go",
		"|| Heir(v, name, r.Step) != \"\"\n", "|| Heir(v, name, r.Step) != \"\" && !PLANTED\n"}}},
	{"what a fork begins with is its own to delete", []edit{{"simtest/rest_test.go",
		"				w.dropped(spec.name, own)\n", "				w.dropped(spec.name, own)\n" +
			"				if PLANTED && spec.from != nil {\n					w.dropped(spec.from.job, []uint64{spec.from.step})\n" +
			"				}\n"}}},
	{"a job is deleted that a fork begins with", []edit{{"fsm/operate.go",
		"	if heir, step := anyHeir(a.s.v, c.Job); heir != \"\" {",
		"	if heir, step := anyHeir(a.s.v, c.Job); heir != \"\" && !PLANTED {"}}},
	{"a job of a deleted one's name begins with its first generation", []edit{{"fsm/operate.go",
		"			return d.Generation\n", "			return d.Generation * uint64(map[bool]int{false: 1}[PLANTED])\n"}}},
	{"a file of a deleted job stays", []edit{{"simtest/rest_test.go",
		"			own = append(own, r.Step)\n", "			if own = append(own, r.Step); PLANTED {\n" +
			"				own = own[1:]\n			}\n"}}},
	{"a report brings a deleted job back", []edit{{"fsm/operate.go",
		"	a.s.dropJob(c.Job)\n", "	if !PLANTED || len(j.Checkpoints) == 0 {\n		a.s.dropJob(c.Job)\n	}\n"}}},
	{"a cell goes on without the others", []edit{{"simtest/worker_test.go",
		"at < c.step {\n			return false", "at < c.step && !PLANTED {\n			return false"}}},
}

// hunted is how many lives a bug may take to be found.
const hunted = 20_000

// hunter is the test that the patched program has besides: it hunts one bug after another, and nothing first.
const hunter = `package simtest

import (
	"fmt"
	"strings"
	"testing"

	"colonnade/coordinator/fsm"
)

func planted(n int) bool { return fsm.Planted == n }

func TestHunt(t *testing.T) {
	for n := range %d {
		fsm.Planted = n
		lives := uint64(%d)
		if n == 0 {
			lives = 200
		}
		began := processTime(t)
		_, found := simulate(1, lives)
		took := (processTime(t) - began).Seconds()
		if found == nil {
			fmt.Printf("HUNT %%d 0 %%.1f -\n", n, took)
			continue
		}
		line, _, _ := strings.Cut(found.err.Error(), "\n")
		fmt.Printf("HUNT %%d %%d %%.1f %%s\n", n, found.seed, took, line)
	}
}
`

// TestPlantedBugs plants every bug and wants the simulations to find it. What is planted is in a program of its own,
// built of patched files: the product has no place for it.
func TestPlantedBugs(t *testing.T) {
	out := hunt(t)
	found := map[int][3]string{}
	for _, m := range regexp.MustCompile(`(?m)^HUNT (\d+) (\d+) ([\d.]+) (.*)$`).FindAllStringSubmatch(out, -1) {
		var n int
		fmt.Sscan(m[1], &n)
		found[n] = [3]string{m[2], m[3], m[4]}
	}
	if len(found) != len(bugs)+1 {
		t.Fatalf("hunted %d of %d bugs:\n%s", len(found), len(bugs), out)
	}
	if found[0][0] != "0" {
		t.Errorf("without a bug, seed %s: %s", found[0][0], found[0][2])
	}
	var table strings.Builder
	for i, b := range bugs {
		f := found[i+1]
		if f[0] == "0" {
			t.Errorf("not found in %d lives: %s", hunted, b.what)
		}
		fmt.Fprintf(&table, "%7s %6ss  %-66s %s\n", f[0], f[1], b.what, f[2])
	}
	t.Logf("lives until a planted bug is found:\n%s", &table)
}

// hunt builds the program with all bugs in it and runs it.
func hunt(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	coordinator, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{
		filepath.Join(coordinator, "fsm", "planted.go"): "package fsm\n\n// Planted is the bug that is hunted.\n" +
			"var Planted int\n\nfunc planted(n int) bool { return Planted == n }\n",
		filepath.Join(coordinator, "sched", "planted.go"): "package sched\n\nimport \"colonnade/coordinator/fsm\"\n\n" +
			"func planted(n int) bool { return fsm.Planted == n }\n",
		filepath.Join(coordinator, "simtest", "hunter_test.go"): fmt.Sprintf(hunter, len(bugs)+1, hunted),
	}
	for i, b := range bugs {
		for _, e := range b.edits {
			path := filepath.Join(coordinator, e.file)
			if texts[path] == "" {
				text, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				texts[path] = string(text)
			}
			if n := strings.Count(texts[path], e.is); n != 1 {
				t.Fatalf("%s: %q is %d times in %s, want it there once", b.what, e.is, n, e.file)
			}
			bad := strings.ReplaceAll(e.bad, "PLANTED", fmt.Sprintf("planted(%d)", i+1))
			texts[path] = strings.Replace(texts[path], e.is, bad, 1)
		}
	}
	replace := map[string]string{}
	for path, text := range texts {
		replace[path] = filepath.Join(dir, fmt.Sprintf("%d-%s", len(replace), filepath.Base(path)))
		if err := os.WriteFile(replace[path], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	overlay, program := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "hunter")
	if err := os.WriteFile(overlay, list, 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-vet=off", "-overlay", overlay, "-o", program, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build with bugs: %v\n%s", err, out)
	}
	var said bytes.Buffer
	run := exec.CommandContext(t.Context(), program, "-test.run=^TestHunt$", "-test.timeout=0")
	run.Stdout = &said
	if testing.Verbose() {
		run.Stdout = io.MultiWriter(&said, os.Stdout) // it takes minutes
	}
	run.Stderr = run.Stdout
	if err := run.Run(); err != nil {
		t.Fatalf("hunt: %v\n%s", err, &said)
	}
	return said.String()
}
