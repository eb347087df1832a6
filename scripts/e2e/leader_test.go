package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"colonnade/coordinator/fsm"
	"colonnade/coordinator/raftnode"
	"colonnade/coordinator/rpc"
	"colonnade/proto/clusterpb"
	"colonnade/shard"
	"colonnade/shard/job"
)

// longJob is jobFile's job, longer and with all of its checkpoints kept.
func longJob(t testing.TB, train, test string) string {
	t.Helper()
	return write(t, filepath.Join(t.TempDir(), "job.yaml"), fmt.Appendf(nil, `
job: blobs
network: tiny
columns: 2
seed: 5
data: {train: %s, test: %s}
recipe: {batch: 32, steps: 3000, rate: 0.01}
checkpoint: {every: 50, keep: 1000}
`, train, test))
}

// saved are the steps of which all cells' files lie in a checkpoint directory of any worker.
func (c *cluster) saved() (steps []uint64) {
	c.t.Helper()
	files := map[uint64]map[string]bool{}
	found, err := filepath.Glob(filepath.Join(c.dir, "worker-*", "checkpoints", "*", "*", "r*c*.ckpt"))
	if err != nil {
		c.t.Fatal(err)
	}
	for _, f := range found {
		step, err := strconv.ParseUint(filepath.Base(filepath.Dir(f)), 10, 64)
		if err != nil {
			c.t.Fatalf("checkpoint file %s: %v", f, err)
		}
		if files[step] == nil {
			files[step] = map[string]bool{}
		}
		if files[step][filepath.Base(f)] = true; len(files[step]) == 2 {
			steps = append(steps, step)
		}
	}
	slices.Sort(steps)
	return steps
}

// TestTrainingGoesOnWithoutCoordinators kills the leader in the middle of training and then all coordinators for a
// while. The workers never stop: nobody is given up, checkpoints written meanwhile are committed afterwards, and the
// end is the usual one.
func TestTrainingGoesOnWithoutCoordinators(t *testing.T) {
	file := longJob(t, idx(t, "train", 1000), idx(t, "test", 200))
	want := finalDigest(t, must(t, coordinatorProgram, "dev", "--workers", "1", "--data", t.TempDir(), file))

	// Two workers want all of this machine: coordinators may have to wait for their turn.
	e := newEnsemble(t, "--election-timeout", "1s")
	e.startWorkers(2)
	must(t, coordinatorProgram, "job", "submit", file, "--coordinator", e.addresses[1])
	e.watch("blobs", past(200))
	leader := e.leader()
	e.nodes[leader].kill()
	after := e.watch("blobs", past(0)) // by another leader
	e.watch("blobs", past(after.Step+100))
	e.start(leader)

	for _, n := range e.nodes {
		n.kill()
	}
	had, dead := e.saved(), time.Now()
	var meanwhile []uint64
	e.until("two checkpoints are written without a coordinator", func(context.Context) bool {
		meanwhile = slices.DeleteFunc(e.saved(), func(s uint64) bool { return slices.Contains(had, s) })
		return len(meanwhile) >= 2
	})
	e.until("more than a lease passes, for which nobody is given up", func(context.Context) bool {
		return time.Since(dead) > 4*time.Second
	})
	for i := range e.nodes {
		e.start(i)
	}
	if got := e.ended("blobs"); got != want {
		t.Errorf("digest %s, undisturbed it is %s", got, want)
	}
	status, err := e.client.Status(t.Context(), &clusterpb.StatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, event := range status.Events { // on a starved machine cells may lose each other: that is another matter
		if event.Kind == "worker" && strings.Contains(event.Text, " is lost: ") {
			t.Errorf("a coordinator gave up a worker that was there: %s", event.Text)
		}
	}
	list, err := e.client.ListCheckpoints(t.Context(), &clusterpb.GetJobRequest{Name: "blobs"})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range meanwhile {
		if !slices.ContainsFunc(list.Checkpoints, func(m *clusterpb.Manifest) bool { return m.Step == step && m.Bad == "" }) {
			t.Errorf("the checkpoint of step %d, written without a coordinator, was never committed", step)
		}
	}
}

// TestNothingAcknowledgedIsLost submits, stops, resumes and reads jobs from several clients while leaders are killed.
// The history must be one of a single machine, and every job that was acknowledged is there at the end.
func TestNothingAcknowledgedIsLost(t *testing.T) {
	const clients, kills = 6, 5
	e := newEnsemble(t)
	h := &history{}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for id := range clients {
		client := e.newClient()
		wg.Go(func() { h.load(t, client, id, stop) })
	}
	for range kills {
		leader := e.leader()
		before := h.count()
		e.nodes[leader].kill()
		e.until("requests are answered again", func(context.Context) bool { return h.count() > before+40*clients })
		e.start(leader)
		before = h.count()
		e.until("requests are answered", func(context.Context) bool { return h.count() > before+40*clients })
	}
	close(stop)
	wg.Wait()

	result, _ := porcupine.CheckOperationsVerbose(jobModel, h.operations, time.Minute)
	if result != porcupine.Ok {
		t.Errorf("the history of %d operations is not that of one machine: %v", len(h.operations), result)
	}
	list, err := e.client.ListJobs(t.Context(), &clusterpb.ListJobsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, j := range list.Jobs {
		have[j.Name] = true
	}
	for _, name := range h.submitted {
		if !have[name] {
			t.Errorf("job %s was acknowledged and is lost", name)
		}
	}
	t.Logf("%d operations, %d jobs, through %d kills", len(h.operations), len(h.submitted), kills)
}

// What clients do, and what it comes to.
type (
	request struct{ verb, job string }
	answer  string
)

const (
	missing answer = "no such job"
	exists  answer = "job exists"
	refused answer = "not in this state"
	done    answer = "ok"
)

// jobModel is one machine's jobs: no worker is there, so that a job waits until it is stopped.
var jobModel = porcupine.Model{
	Partition: func(all []porcupine.Operation) (out [][]porcupine.Operation) {
		byJob := map[string][]porcupine.Operation{}
		for _, o := range all {
			name := o.Input.(request).job
			byJob[name] = append(byJob[name], o)
		}
		for _, ops := range byJob {
			out = append(out, ops)
		}
		return out
	},
	Init: func() any { return missing },
	Step: func(state, in, out any) (bool, any) {
		now := state.(answer)
		switch verb := in.(request).verb; {
		case verb == "submit" && now == missing:
			return out == done, answer(fsm.Queued)
		case verb == "submit":
			return out == exists, now
		case verb == "show":
			return out == now, now
		case now == missing:
			return out == missing, now
		case verb == "stop":
			return out == done, answer(fsm.Stopped)
		case now == fsm.Stopped: // resume
			return out == done, answer(fsm.Queued)
		}
		return out == refused, now
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprint(in, " -> ", out) },
}

// history is what clients have done.
type history struct {
	mu         sync.Mutex
	operations []porcupine.Operation
	submitted  []string // jobs of one client each, acknowledged
}

func (h *history) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.operations) + len(h.submitted)
}

// load makes requests until stop, of a few jobs that all clients share and of ones of its own.
func (h *history) load(t *testing.T, client clusterpb.OperatorClient, id int, stop <-chan struct{}) {
	r := rand.New(rand.NewPCG(uint64(id), 7))
	verbs := []string{"submit", "stop", "resume", "show", "show"}
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		if own := fmt.Sprintf("own-%d-%d", id, i); i%5 == 0 {
			if out, err := perform(client, request{"submit", own}); err != nil || out != done {
				t.Errorf("submit %s: %v, %v", own, out, err)
				return
			}
			h.mu.Lock()
			h.submitted = append(h.submitted, own)
			h.mu.Unlock()
		}
		in := request{verbs[r.IntN(len(verbs))], fmt.Sprintf("shared-%d-%d", i/20, r.IntN(3))}
		began := time.Now().UnixNano()
		out, err := perform(client, in)
		if err != nil {
			t.Errorf("%v: %v", in, err)
			return
		}
		h.mu.Lock()
		h.operations = append(h.operations, porcupine.Operation{ClientId: id, Input: in, Call: began, Output: out,
			Return: time.Now().UnixNano()})
		h.mu.Unlock()
	}
}

// perform makes one request and waits for its answer, through as many leaders as it takes.
func perform(client clusterpb.OperatorClient, in request) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit/4)
	defer cancel()
	var err error
	var j *clusterpb.Job
	id := raftnode.NewID()
	switch in.verb {
	case "submit":
		_, err = client.SubmitJob(ctx, &clusterpb.SubmitJobRequest{Spec: specOf(in.job), Request: id})
	case "stop":
		_, err = client.StopJob(ctx, &clusterpb.StopJobRequest{Name: in.job, Request: id})
	case "resume":
		_, err = client.ResumeJob(ctx, &clusterpb.ResumeJobRequest{Name: in.job, Request: id})
	case "show":
		if j, err = client.GetJob(ctx, &clusterpb.GetJobRequest{Name: in.job}); err == nil {
			return answer(j.State), nil
		}
	}
	switch known := rpc.FromStatus(err); {
	case err == nil:
		return done, nil
	case errors.Is(known, fsm.ErrNoJob):
		return missing, nil
	case errors.Is(known, fsm.ErrJobExists):
		return exists, nil
	case errors.Is(known, fsm.ErrJobState):
		return refused, nil
	}
	return "", err
}

// specOf is a job that no worker ever runs. What it names exists nowhere.
func specOf(name string) []byte {
	j, err := job.Parse("job.yaml", fmt.Appendf(nil, "job: %s\nnetwork: tiny\ndata: {train: t.pack}\n"+
		"recipe: {batch: 4, steps: 100, rate: 0.1}\n", name))
	if err != nil {
		panic(err)
	}
	text, err := shard.EmbeddedText("tiny")
	if err != nil {
		panic(err)
	}
	pack := &job.Pack{Path: "/t.pack", ID: "ab", Images: 40, Channels: 1, Height: 12, Width: 12, Classes: 8}
	if err := j.Resolve(text, pack, nil); err != nil {
		panic(err)
	}
	return j.Encode()
}

// TestEnsembleOnDisk stops everything, starts it again, replaces a coordinator whose directory is lost, and makes a new
// cluster of a backup.
func TestEnsembleOnDisk(t *testing.T) {
	e := newEnsemble(t)
	if _, err := perform(e.client, request{"submit", "kept"}); err != nil {
		t.Fatal(err)
	}
	for _, n := range e.nodes {
		n.kill()
	}
	for i := range e.nodes {
		e.start(i)
	}
	has := func(client clusterpb.OperatorClient, name string) {
		t.Helper()
		if out, err := perform(client, request{"show", name}); err != nil || out != fsm.Queued {
			t.Fatalf("job %s is %q, %v", name, out, err)
		}
	}
	has(e.client, "kept")

	backup := filepath.Join(e.dir, "backup")
	must(t, coordinatorProgram, "backup", backup, "--coordinator", e.address)
	lost := (e.leader() + 1) % 3
	e.nodes[lost].kill()
	if err := os.RemoveAll(e.directory(lost)); err != nil {
		t.Fatal(err)
	}
	e.start(lost, "--join", e.address)
	<-e.nodes[lost].done // its place is taken, by itself
	e.nodes[lost].endsWith("coordinator: join: cannot be a member: coordinator ", "first: coordinator member remove ")
	must(t, coordinatorProgram, "member", "remove", e.addresses[lost], "--coordinator", e.address)
	e.start(lost, "--join", e.address)
	e.until("the new one votes", func(ctx context.Context) bool {
		r, err := e.client.ListMembers(ctx, &clusterpb.ListMembersRequest{})
		return err == nil && len(r.Members) == 3 && !slices.ContainsFunc(r.Members, func(m *clusterpb.Member) bool {
			return m.Role == "joining" || !m.Answers
		})
	})
	e.nodes[(lost+1)%3].kill() // with it the others are enough
	has(e.client, "kept")

	address := freeAddress(t)
	restored := launch(t, filepath.Join(e.dir, "restored.log"), coordinatorProgram, "start", "--data",
		filepath.Join(e.dir, "restored"), "--listen", address, "--http", "none", "--restore", backup)
	c, err := rpc.NewClient([]string{address})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	client := clusterpb.NewOperatorClient(c)
	e.until("the restored cluster answers", func(ctx context.Context) bool {
		s, err := client.Status(ctx, &clusterpb.StatusRequest{})
		return err == nil && len(s.Lineage) == 1
	})
	has(client, "kept")
	restored.kill()
	again := call(t, coordinatorProgram, "start", "--data", filepath.Join(e.dir, "restored"), "--listen", address,
		"--http", "none", "--restore", backup)
	if again.code != 1 {
		t.Errorf("restored over a cluster: %+v", again)
	}
}

// endsWith wants the last line of a program that has ended to have parts.
func (p *process) endsWith(parts ...string) {
	p.t.Helper()
	text := strings.TrimSpace(byName(string(read(p.t, p.log))))
	last := text[strings.LastIndexByte(text, '\n')+1:]
	for _, part := range parts {
		if !strings.Contains(last, part) {
			p.t.Errorf("the last line lacks %q:\n%s", part, text)
		}
	}
}
