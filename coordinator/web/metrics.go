package web

import (
	"maps"
	"math"
	"net/http"
	"slices"
	"strings"

	"colonnade/checkpoint/promtext"
	"colonnade/coordinator/fsm"
	"colonnade/proto/clusterpb"
)

// metrics answers Prometheus. What is the cluster's, and not this node's, only the leader says: the sum over all
// coordinators is then the cluster's too.
func (s *Server) metrics(w http.ResponseWriter, r *http.Request) {
	local, err := s.cfg.Local(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	e := &promtext.Exposition{}
	s.nodeMetrics(e, local)
	if local.Leader == local.Node {
		seen, _ := s.now()
		workerMetrics(e, local.Workers)
		gpuMetrics(e, local.Workers)
		jobMetrics(e, local.Jobs)
		cellMetrics(e, seen.full)
	}
	e.Answer(w)
}

func (s *Server) nodeMetrics(e *promtext.Exposition, local *clusterpb.StatusReply) {
	e.Gauge("colonnade_build_info", "1, labelled with the version of the program.", 1, "version", local.Version)
	e.Gauge("colonnade_raft_leader", "1 if this coordinator leads.", promtext.Truth(local.Leader == local.Node))
	e.Gauge("colonnade_raft_leader_known", "1 if this coordinator knows who leads.", promtext.Truth(local.Leader != ""))
	e.Gauge("colonnade_raft_term", "Raft term.", float64(local.Term))
	e.Gauge("colonnade_raft_applied_index", "Index of the last entry of the log that is in the state.",
		float64(local.AppliedIndex))
	e.Gauge("colonnade_raft_members", "Coordinators of the cluster.", float64(len(local.Members)))
	s.mu.Lock()
	streams := s.streams
	s.mu.Unlock()
	e.Gauge("colonnade_web_streams", "Open streams of changes: dashboards, mostly.", float64(streams))
	e.Process()
}

// counted writes a family of how many are in each state; states that are known are written as 0 too.
func counted(e *promtext.Exposition, name, help string, states map[string]int) {
	e.Family(name, "gauge", help)
	for _, state := range slices.Sorted(maps.Keys(states)) {
		e.Sample(name, float64(states[state]), "state", state)
	}
}

func workerMetrics(e *promtext.Exposition, workers []*clusterpb.Worker) {
	states := map[string]int{"connected": 0, "silent": 0, "gone": 0}
	draining := 0
	for _, k := range workers {
		states[k.State]++
		if k.Draining {
			draining++
		}
	}
	counted(e, "colonnade_workers", "Workers by state.", states)
	e.Gauge("colonnade_workers_draining", "Workers that are drained or are about to be.", float64(draining))
	e.Family("colonnade_worker_lease_seconds", "gauge", "What is left of a connected worker's lease.")
	for _, k := range workers {
		if k.State == "connected" {
			e.Sample("colonnade_worker_lease_seconds", float64(k.LeaseLeftMs)/1000, "worker", k.Id, "name", k.Name)
		}
	}
	e.Family("colonnade_worker_cells", "gauge", "Cells that a worker hosts; 0: a spare.")
	for _, k := range workers {
		if k.State != "gone" {
			e.Sample("colonnade_worker_cells", float64(len(k.Cells)), "worker", k.Id, "name", k.Name)
		}
	}
}

// gpuMetrics are what workers' GPUs said of themselves last.
func gpuMetrics(e *promtext.Exposition, workers []*clusterpb.Worker) {
	for _, g := range promtext.GPUGauges {
		g.Begin(e)
		for _, k := range workers {
			if k.State == "connected" {
				g.Sample(e, k.Health, "worker", k.Id, "name", k.Name)
			}
		}
	}
}

// jobGauges are what is said of every job; a value that is no number is not there.
var jobGauges = []struct {
	name, help string
	value      func(*clusterpb.Job) float64
}{
	{"step", "Highest finished step.", func(j *clusterpb.Job) float64 { return float64(j.Step) }},
	{"steps", "Steps in all.", func(j *clusterpb.Job) float64 { return float64(j.Steps) }},
	{"committed_step", "Step of the newest usable checkpoint.",
		func(j *clusterpb.Job) float64 { return float64(j.CommittedStep) }},
	{"generation", "Generation: how often cells were placed.",
		func(j *clusterpb.Job) float64 { return float64(j.Generation) }},
	{"loss", "Training loss of the last finished step, in nats.", func(j *clusterpb.Job) float64 {
		if j.Loss == 0 {
			return math.NaN()
		}
		return j.Loss
	}},
	{"images_per_second", "Images trained on in a second.", func(j *clusterpb.Job) float64 { return j.ImagesPerSecond }},
	{"train_error_ratio", "Top-1 error of the last step's images, as they are trained on.",
		ofTraining(func(top1, _ float64) float64 { return top1 })},
	{"train_top5_error_ratio", "Top-5 error of the last step's images, as they are trained on.",
		ofTraining(func(_, top5 float64) float64 { return top5 })},
	{"test_loss", "Test loss of the last evaluation, in nats.",
		ofLast(func(e *clusterpb.Evaluation) float64 { return e.Loss })},
	{"test_error_ratio", "Top-1 test error of the last evaluation.",
		ofLast(func(e *clusterpb.Evaluation) float64 { return e.Top1Errors / float64(max(e.Images, 1)) })},
	{"test_top5_error_ratio", "Top-5 test error of the last evaluation.",
		ofLast(func(e *clusterpb.Evaluation) float64 { return e.Top5Errors / float64(max(e.Images, 1)) })},
}

// ofTraining is a value of the errors of a job's last batch.
func ofTraining(value func(top1, top5 float64) float64) func(*clusterpb.Job) float64 {
	return func(j *clusterpb.Job) float64 {
		if top1, top5, ok := trained(j.Cells); ok {
			return value(top1, top5)
		}
		return math.NaN()
	}
}

// ofLast is a value of a job's last evaluation.
func ofLast(value func(*clusterpb.Evaluation) float64) func(*clusterpb.Job) float64 {
	return func(j *clusterpb.Job) float64 {
		if n := len(j.Evaluations); n > 0 {
			return value(j.Evaluations[n-1])
		}
		return math.NaN()
	}
}

func jobMetrics(e *promtext.Exposition, jobs []*clusterpb.Job) {
	states := map[string]int{}
	for _, state := range []string{fsm.Queued, fsm.Running, fsm.Recovering, fsm.Stopping, fsm.Stopped, fsm.Paused,
		fsm.Done, fsm.Failed} {
		states[state] = 0
	}
	for _, j := range jobs {
		states[j.State]++
	}
	counted(e, "colonnade_jobs", "Jobs by state.", states)
	e.Family("colonnade_job_state", "gauge", "1, labelled with the state that a job is in.")
	for _, j := range jobs {
		e.Sample("colonnade_job_state", 1, "job", j.Name, "state", j.State)
	}
	for _, g := range jobGauges {
		name := "colonnade_job_" + g.name
		e.Family(name, "gauge", g.help)
		for _, j := range jobs {
			if v := g.value(j); !math.IsNaN(v) {
				e.Sample(name, v, "job", j.Name)
			}
		}
	}
}

func cellMetrics(e *promtext.Exposition, jobs map[string]*clusterpb.Job) {
	names := slices.Sorted(maps.Keys(jobs))
	e.Family("colonnade_cell_step", "gauge", "Finished steps of a cell.")
	for _, name := range names {
		for _, c := range jobs[name].Cells {
			e.Sample("colonnade_cell_step", float64(c.Step), "job", name, "cell", fsm.CellName(c.Cell))
		}
	}
	e.Family("colonnade_cell_phase_seconds", "gauge", "Seconds of a step, by what a cell does in them; mean of the last.")
	for _, name := range names {
		m := measure(jobs[name])
		for _, series := range slices.Sorted(maps.Keys(m.Values)) {
			if parts := strings.Split(series, "/"); len(parts) == 3 {
				e.Sample("colonnade_cell_phase_seconds", m.Values[series], "job", name, "cell", parts[1], "phase", parts[2])
			}
		}
	}
}
