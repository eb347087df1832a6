package control

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"colonnade/coordinator/fsm"
	"colonnade/proto/clusterpb"
	"colonnade/proto/commandpb"
	"colonnade/shard/job"
)

// Job returns a job as operators see it.
func (c *Control) Job(ctx context.Context, name string) (*clusterpb.Job, error) {
	view, j, err := c.find(ctx, name)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.jobPB(view, j, places(view)), nil
}

// Follow returns a job as operators see it, and all of the cluster's events after one that had led to just that.
func (c *Control) Follow(ctx context.Context, name string, after uint64) (*clusterpb.Job, []*clusterpb.LogEvent,
	error) {
	view, j, err := c.find(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.jobPB(view, j, places(view)), EventsPB(since(view.Events, after)), nil
}

// Events returns the events behind an index.
func (c *Control) Events(after uint64) []*clusterpb.LogEvent {
	view, _ := c.cfg.Node.View()
	return EventsPB(since(view.Events, after))
}

// since are the events after one.
func since(events []*commandpb.EventRecord, after uint64) []*commandpb.EventRecord {
	i := len(events)
	for i > 0 && events[i-1].Index > after {
		i--
	}
	return events[i:]
}

// Written returns a job that this node has just written, leader or not any more.
func (c *Control) Written(name string) *clusterpb.Job {
	view, _ := c.cfg.Node.View()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.jobPB(view, view.Jobs[name], places(view))
}

// find returns a job's record. Only a leader knows that there is no such job, or how far it is.
func (c *Control) find(ctx context.Context, name string) (fsm.View, *commandpb.JobRecord, error) {
	view, err := c.Read(ctx)
	if err != nil {
		return fsm.View{}, nil, err
	}
	j := view.Jobs[name]
	if j == nil {
		return fsm.View{}, nil, refuse(fsm.ErrNoJob, "there is no job %s; see: coordinator job list", name)
	}
	return view, j, nil
}

// Jobs returns all jobs in the order they were submitted, in brief.
func (c *Control) Jobs(ctx context.Context) ([]*clusterpb.Job, error) {
	view, err := c.Read(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.jobsPB(view), nil
}

// jobsPB are all jobs. c.mu is held.
func (c *Control) jobsPB(view fsm.View) []*clusterpb.Job {
	var out []*clusterpb.Job
	places := places(view)
	for _, name := range view.JobNames() {
		out = append(out, Brief(c.jobPB(view, view.Jobs[name], places)))
	}
	return out
}

// Brief leaves out what is large and of use only to one who looks closely at one job: its spec, and the times of every
// phase.
func Brief(j *clusterpb.Job) *clusterpb.Job {
	j.Spec = nil
	for i, s := range j.Cells { // statuses are shared with others
		j.Cells[i] = &clusterpb.CellStatus{Job: s.Job, Generation: s.Generation, Cell: s.Cell, Step: s.Step, Phase: s.Phase,
			ImagesPerSecond: s.ImagesPerSecond, Loss: s.Loss, Carrier: s.Carrier,
			Memory: s.Memory, InPhaseSeconds: s.InPhaseSeconds, UsualSeconds: s.UsualSeconds, WaitsFor: s.WaitsFor,
			BusySeconds: s.BusySeconds, Kind: s.Kind, Scored: s.Scored, Top1Errors: s.Top1Errors, Top5Errors: s.Top5Errors}
	}
	return j
}

// jobPB puts together what the log and the heartbeats say. c.mu is held.
func (c *Control) jobPB(view fsm.View, j *commandpb.JobRecord, places map[string]uint32) *clusterpb.Job {
	name := j.Submitted.Job
	out := &clusterpb.Job{Name: name, State: j.State, Reason: j.Reason, Generation: j.Generation, Steps: j.Submitted.Steps,
		Spec: j.Submitted.Spec, Placement: placementPB(view, j), Cells: c.cellStatuses(name, j.Generation), Digest: j.Digest,
		Numerics: j.Numerics, Submitted: timestamp(j.SubmittedUnixNs), Ended: timestamp(j.EndedUnixNs)}
	if r := c.reasons[name]; r != "" && (j.State == fsm.Queued || j.State == fsm.Recovering) {
		out.Reason = r
		if j.State == fsm.Recovering || fsm.Preempted(j) {
			out.Reason = j.Reason + "; " + r
		}
	}
	if j.State == fsm.Running {
		for _, text := range []string{c.reasons[name], c.hold(name), fetching(out)} {
			if text != "" {
				out.Reason += "; " + text
			}
		}
	}
	switch {
	case j.Moving:
		out.State = "moving"
	case j.Requeuing:
		out.State = "preempted"
	}
	queuePB(out, j, places)
	if good := fsm.Usable(j); len(good) > 0 {
		out.CommittedStep = good[len(good)-1].Step
	}
	out.Step = out.CommittedStep
	for _, s := range out.Cells {
		out.Step = max(out.Step, s.Step)
		if s.Loss != 0 {
			out.Loss = s.Loss
		}
		out.ImagesPerSecond = max(out.ImagesPerSecond, s.ImagesPerSecond)
	}
	for _, e := range j.Evaluations {
		out.Evaluations = append(out.Evaluations, EvaluationPB(e))
	}
	for _, r := range j.Vetoes {
		out.Vetoes = append(out.Vetoes, vetoPB(r))
	}
	out.Parent = parentPB(view, j)
	facts := c.specFacts(j)
	out.Epochs, out.StepsPerEpoch, out.Batch = facts.epochs, facts.stepsPerEpoch, facts.batch
	return out
}

// EvaluationPB is an evaluation as it goes out.
func EvaluationPB(e *commandpb.RecordEvaluation) *clusterpb.Evaluation {
	return &clusterpb.Evaluation{Step: e.Step, Epoch: e.Epoch, Images: e.Images, Top1Errors: e.Top1Errors,
		Top5Errors: e.Top5Errors, Loss: e.Loss, TrainLoss: e.TrainLoss, Rate: e.Rate}
}

// history is what a generation must know of the evaluations before the step that it goes on from, if its job's course
// depends on them. Nothing up to that step is written down in this generation before all of its cells have begun, but
// for that step's own, which all cells owe or none: all are told the same. c.mu is held.
func (c *Control) history(j *commandpb.JobRecord) (out []*clusterpb.Evaluation) {
	from := Base(j)
	if !j.FromMemory && !j.HasRestore || !c.specFacts(j).adaptive {
		return nil
	}
	for _, e := range j.Evaluations {
		if e.Step <= from {
			out = append(out, EvaluationPB(e))
		}
	}
	return out
}

// specFacts is what operators see of a spec.
type specFacts struct {
	epochs, stepsPerEpoch, batch uint64
	adaptive                     bool  // its course depends on its evaluations
	submitted                    int64 // which of all jobs that had the name
}

// specFacts reads a job's spec, once. c.mu is held.
func (c *Control) specFacts(j *commandpb.JobRecord) specFacts {
	name := j.Submitted.Job
	facts, ok := c.specs[name]
	if ok && facts.submitted == j.SubmittedUnixNs {
		return facts
	}
	facts = specFacts{submitted: j.SubmittedUnixNs}
	if spec, err := job.Decode(j.Submitted.Spec); err == nil { // it was when it was submitted
		facts = specFacts{spec.Epochs(), uint64(spec.StepsPerEpoch()), uint64(spec.Recipe.Batch), spec.Adaptive(),
			j.SubmittedUnixNs}
	}
	c.specs[name] = facts
	return facts
}

// Status fills in what this package knows of the cluster; local is what this node knows by itself, leader or not.
func (c *Control) Status(ctx context.Context, s *clusterpb.StatusReply, local bool) error {
	if !local {
		if err := c.readable(ctx); err != nil {
			return err
		}
	}
	view, _ := c.cfg.Node.View()
	s.Cluster, s.AppliedIndex, s.Events = view.Cluster, view.Index, EventsPB(view.Events)
	for _, l := range view.Lineage {
		s.Lineage = append(s.Lineage, &clusterpb.Lineage{Cluster: l.Cluster, Index: l.Index, Made: timestamp(l.MadeUnixNs),
			Restored: timestamp(l.RestoredUnixNs)})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Jobs = c.jobsPB(view)
	for _, id := range slices.Sorted(maps.Keys(view.Workers)) {
		s.Workers = append(s.Workers, c.workerPB(view, id))
	}
	return nil
}

// workerPB is a worker as operators see it. c.mu is held.
func (c *Control) workerPB(view fsm.View, id string) *clusterpb.Worker {
	now, w := c.cfg.Now(), view.Workers[id]
	r := w.Registered
	out := &clusterpb.Worker{Id: id, Name: r.Name, Host: r.Host, Machine: r.Machine, Address: r.Address,
		Checkpoints: r.Checkpoints, State: "silent", Draining: w.Draining, Drained: c.drained(view, id),
		Device: &clusterpb.Device{Name: r.Device.Name, Model: r.Device.Model,
			Numerics: r.Device.Numerics, MemoryBytes: r.Device.MemoryBytes, DirectNumerics: r.Device.DirectNumerics,
			Threads: r.Device.Threads}}
	switch session := c.sessions[id]; {
	case session != nil:
		out.State, out.Health = "connected", session.health
		out.LeaseLeftMs = uint64(max(c.cfg.Rules.Lease-now.Sub(session.heard), 0) / time.Millisecond)
	case w.Lost:
		out.State = "gone"
	}
	out.Buddies = c.buddiesOf(view, id)
	if out.Note = c.trouble(id); w.Hung && out.Note == "" {
		out.Note = "hangs in what it was given: it gets no cell before it has ended that, or is started again"
	}
	for _, name := range view.JobNames() {
		for _, cell := range cellsOn(view.Jobs[name], id) {
			out.Cells = append(out.Cells, &clusterpb.JobCell{Job: name, Cell: cell})
		}
	}
	return out
}

// Read returns the state as the leader knows it.
func (c *Control) Read(ctx context.Context) (fsm.View, error) {
	if err := c.readable(ctx); err != nil {
		return fsm.View{}, err
	}
	view, _ := c.cfg.Node.View()
	return view, nil
}

// Backup returns the state as a backup file has it.
func (c *Control) Backup(ctx context.Context) ([]byte, error) {
	view, err := c.Read(ctx)
	if err != nil {
		return nil, err
	}
	return fsm.EncodeBackup(view, c.cfg.Now().UnixNano())
}

// Checkpoints returns a job's committed checkpoints, by step, and the directories their files may lie in.
func (c *Control) Checkpoints(ctx context.Context, name string) (*clusterpb.ListCheckpointsReply, error) {
	view, j, err := c.find(ctx, name)
	if err != nil {
		return nil, err
	}
	out := &clusterpb.ListCheckpointsReply{}
	for _, r := range j.Checkpoints {
		if r.Committed {
			out.Checkpoints = append(out.Checkpoints, ManifestPB(j, r))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(view.Workers)) {
		out.Directories = append(out.Directories, view.Workers[id].Registered.Checkpoints)
	}
	slices.Sort(out.Directories)
	out.Directories = slices.Compact(out.Directories)
	return out, nil
}

// ManifestPB is a checkpoint as workers and operators see it. Its digest is the whole state's: SHA-256 over the cells'
// digests in (replica, column) order, as a finished job's is.
func ManifestPB(j *commandpb.JobRecord, r *commandpb.CheckpointRecord) *clusterpb.Manifest {
	m := &clusterpb.Manifest{Job: cmp.Or(r.OfJob, j.Submitted.Job), Step: r.Step, Generation: r.Generation,
		PlanDigest: r.PlanDigest, Numerics: r.Numerics, Committed: timestamp(r.CommittedUnixNs), Bad: r.Bad,
		Pinned: r.Pinned, Digest: fsm.StateDigest(r)}
	for _, f := range r.Files {
		m.Files = append(m.Files, &clusterpb.CheckpointFile{Cell: cellPB(f.Cell), Worker: f.Worker, Path: f.Path,
			Bytes: f.Bytes, Sha256: f.Sha256, Xxh3: f.Xxh3, Digest: f.Digest})
	}
	return m
}

// EventsPB are events as operators see them.
func EventsPB(events []*commandpb.EventRecord) []*clusterpb.LogEvent {
	var out []*clusterpb.LogEvent
	for _, e := range events {
		out = append(out, &clusterpb.LogEvent{Index: e.Index, At: timestamp(e.AtUnixNs), Kind: e.Kind, Job: e.Job,
			Worker: e.Worker, Text: e.Text})
	}
	return out
}

func placementPB(view fsm.View, j *commandpb.JobRecord) []*clusterpb.Placement {
	var out []*clusterpb.Placement
	for _, p := range j.Placement {
		q := &clusterpb.Placement{Cell: cellPB(p.Cell), Worker: p.Worker, Source: p.Source}
		if w := view.Workers[p.Source]; w != nil {
			q.SourceAddress = w.Registered.Address
		}
		if w := view.Workers[p.Worker]; w != nil {
			q.WorkerName, q.Address = w.Registered.Name, w.Registered.Address
		}
		out = append(out, q)
	}
	return out
}

func cellPB(c *commandpb.Cell) *clusterpb.Cell {
	return &clusterpb.Cell{Replica: c.GetReplica(), Column: c.GetColumn()}
}

func cellCommand(c *clusterpb.Cell) *commandpb.Cell {
	return &commandpb.Cell{Replica: c.GetReplica(), Column: c.GetColumn()}
}

func filePB(f *clusterpb.CheckpointFile) *commandpb.CheckpointFile {
	return &commandpb.CheckpointFile{Cell: cellCommand(f.GetCell()), Worker: f.GetWorker(), Path: f.GetPath(),
		Bytes: f.GetBytes(), Sha256: f.GetSha256(), Xxh3: f.GetXxh3(), Digest: f.GetDigest()}
}

// timestamp is a time of the log; 0 is none.
func timestamp(ns int64) *timestamppb.Timestamp {
	if ns == 0 {
		return nil
	}
	return timestamppb.New(time.Unix(0, ns))
}
