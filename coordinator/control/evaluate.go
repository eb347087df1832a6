package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"colonnade/coordinator/fsm"
	"colonnade/coordinator/sched"
	"colonnade/proto/clusterpb"
	"colonnade/proto/commandpb"
	"colonnade/shard/job"
	"colonnade/shard/score"
)

// A part of an evaluation is an assignment like others: Assign gives it, Revoke takes it back, a worker that registers
// says what it works on. In place of a job it names the evaluation, as no job can be named.
const evaluationPrefix = "evaluation/"

func evaluationName(id uint64) string { return fmt.Sprintf("%s%d", evaluationPrefix, id) }

// givenPart is the part that a worker has.
type givenPart struct {
	record *commandpb.EvaluationRecord
	part   *commandpb.PartRecord
}

// partsOf are the parts under way, by worker.
func partsOf(view fsm.View) map[string]givenPart {
	out := map[string]givenPart{}
	for _, r := range view.Evaluations {
		for _, p := range r.Given {
			out[p.Worker] = givenPart{r, p}
		}
	}
	return out
}

// alignPart tells a worker which part it has, if that is new. c.mu is held.
func (s *Session) alignPart(view fsm.View, c *Control) {
	mine, has := c.roster.parts[s.worker]
	name := ""
	if has {
		name = evaluationName(mine.record.Id)
	}
	for _, told := range slices.Sorted(maps.Keys(s.told)) {
		if strings.HasPrefix(told, evaluationPrefix) && (told != name || s.told[told] != mine.part.Generation) {
			s.revoke(told, "the part was taken back")
		}
	}
	if _, told := s.told[name]; !has || told {
		return
	}
	s.send(&clusterpb.CoordinatorMessage{Kind: &clusterpb.CoordinatorMessage_Assign{Assign: c.assignPart(view, mine)}})
	s.told[name] = mine.part.Generation
}

// assignPart is a part as its worker is told of it. c.mu is held.
func (c *Control) assignPart(view fsm.View, g givenPart) *clusterpb.Assign {
	q := g.record.Requested
	first, images := fsm.PartOf(g.record, g.part.Part)
	p := &clusterpb.EvaluationPart{Evaluation: g.record.Id, First: first, Images: images, Views: q.Views, Batch: q.Batch,
		Pack: evaluatedPackPB(q.Pack), Busy: q.Busy}
	a := &clusterpb.Assign{Job: evaluationName(g.record.Id), Generation: g.part.Generation, Part: p}
	for i, m := range q.Models {
		j := view.Jobs[m.Job]
		if j == nil { // the next decision ends the evaluation
			continue
		}
		if i == 0 {
			a.Peers = c.peers(view, j)
		}
		k := ManifestPB(j, g.record.Checkpoints[i])
		c.locate(view, k)
		p.Models = append(p.Models, &clusterpb.EvaluationModel{Spec: j.Submitted.Spec, Checkpoint: k})
	}
	return a
}

// locate says of the files of a checkpoint where the workers are that have them. c.mu is held.
func (c *Control) locate(view fsm.View, m *clusterpb.Manifest) {
	for _, f := range m.Files {
		if w := view.Workers[f.Worker]; w != nil && c.sessions[f.Worker] != nil {
			f.Address = w.Registered.Address
		}
	}
}

// notePart keeps what a worker says of its part, and since when it has said the same. c.mu is held.
func (s *Session) notePart(p *clusterpb.PartStatus) {
	old := s.partStatus
	if s.partStatus = p; p == nil {
		if s.part = (sched.PartProgress{}); old != nil {
			s.c.kick() // it may be given another
		}
		return
	}
	same := old != nil && old.Evaluation == p.Evaluation && old.Generation == p.Generation && old.Phase == p.Phase &&
		old.Passes == p.Passes && old.Computing == p.Computing
	now := sched.PartProgress{Evaluation: p.Evaluation, Generation: p.Generation, Computing: p.Computing, Since: s.heard}
	if same {
		now.Since = s.part.Since
	}
	s.part = now
}

// partEnded notes that a worker has done with a part, whatever it came to. The checkpoints that were kept for an
// evaluation which has ended by it may go.
func (s *Session) partEnded(ctx context.Context, evaluation, generation uint64) error {
	c := s.c
	c.mu.Lock()
	if name := evaluationName(evaluation); s.told[name] == generation {
		delete(s.told, name)
	}
	if s.part.Evaluation == evaluation && s.part.Generation == generation {
		s.part, s.partStatus = sched.PartProgress{}, nil
	}
	c.mu.Unlock()
	view, _ := c.cfg.Node.View()
	r := view.Evaluation(evaluation)
	if r == nil || r.State == fsm.Running {
		return nil
	}
	for _, m := range r.Requested.Models {
		dropped, err := c.retain(ctx, m.Job)
		if err != nil {
			return err
		}
		if len(dropped) > 0 {
			c.tellDropped(dropped)
		}
	}
	return nil
}

// partCommand is a part's report as the log has it.
func partCommand(r *clusterpb.Report, p *clusterpb.PartEvaluated) *commandpb.Command {
	c := &commandpb.PartEvaluated{Evaluation: p.Evaluation, Generation: r.Generation, Failed: oneLine(p.Failed),
		Permanent: p.Permanent}
	if p.Failed == "" {
		c.Sum = &commandpb.EvaluationSum{Images: p.Sum.GetImages(), Loss: p.Sum.GetLoss(), Top1Errors: p.Sum.GetTop1Errors(),
			Top5Errors: p.Sum.GetTop5Errors()}
		for _, k := range p.Sum.GetClasses() {
			c.Sum.Classes = append(c.Sum.Classes, &commandpb.ClassSum{Label: k.Label, Images: k.Images, Loss: k.Loss,
				Top1Errors: k.Top1Errors, Top5Errors: k.Top5Errors})
		}
		for _, k := range p.Sum.GetConfused() {
			c.Sum.Confused = append(c.Sum.Confused, &commandpb.ConfusedSum{Label: k.Label, TakenFor: k.TakenFor,
				Images: k.Images})
		}
	}
	return &commandpb.Command{Kind: &commandpb.Command_PartEvaluated{PartEvaluated: c}}
}

// Evaluate has checkpoints tested, and returns how that begins.
func (c *Control) Evaluate(ctx context.Context, r *clusterpb.EvaluateRequest) (*clusterpb.EvaluationStatus, error) {
	view, err := c.Read(ctx)
	if err != nil {
		return nil, err
	}
	q := &commandpb.RequestEvaluation{Views: max(r.Views, 1), Batch: r.Batch, Busy: r.Busy, Request: r.Request}
	if q.Batch == 0 {
		q.Batch = score.DefaultBatch
	}
	if q.Views != 1 && q.Views != 10 || q.Batch > 1<<16 {
		return nil, refuse(fsm.ErrInvalid, "an evaluation of %d views by %d images; use 1 or 10 views, by 64 images say",
			q.Views, q.Batch)
	}
	q.PartImages = uint32(score.PartImages(int(q.Batch)))
	if err := tested(view, r, q); err != nil {
		return nil, err
	}
	res, err := c.cfg.Node.Apply(ctx, &commandpb.Command{Kind: &commandpb.Command_RequestEvaluation{RequestEvaluation: q}})
	if err != nil {
		return nil, err
	}
	c.kick()
	view, _ = c.cfg.Node.View()
	for _, e := range slices.Backward(view.Evaluations) {
		if e.Id == res.Index || r.Request != "" && e.Requested.Request == r.Request {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.evaluationPB(view, e), nil
		}
	}
	return nil, errors.New("the evaluation that was asked for is not among those kept; see: coordinator evaluate --list")
}

// tested fills in models and pack of a request, and refuses what can never be computed.
func tested(view fsm.View, r *clusterpb.EvaluateRequest, q *commandpb.RequestEvaluation) error {
	if len(r.Models) == 0 {
		return refuse(fsm.ErrInvalid, "the request names no job; see: coordinator job list")
	}
	pack := r.Pack
	for i, m := range r.Models {
		record := view.Jobs[m.GetJob()]
		if record == nil {
			return refuse(fsm.ErrNoJob, "there is no job %s; see: coordinator job list", m.GetJob())
		}
		j, err := job.Decode(record.Submitted.Spec)
		if err != nil {
			return fmt.Errorf("job %s as it was submitted: %w", m.Job, err)
		}
		plan, err := j.Plan()
		if err != nil {
			return fmt.Errorf("job %s as it was submitted: %w", m.Job, err)
		}
		if pack == nil {
			if j.Test == nil {
				return refuse(fsm.ErrInvalid, "job %s has no test pack; name the images to test on with --data PACK", m.Job)
			}
			pack = packPB(j.Test)
		}
		classes := uint32(plan.Network.Classes)
		switch t := j.Train; {
		case int(pack.Channels) != t.Channels || int(pack.Height) != t.Height || int(pack.Width) != t.Width:
			return refuse(fsm.ErrInvalid, "%s has images of %dx%dx%d, job %s was trained on %dx%dx%d; pack them the same way",
				pack.Path, pack.Channels, pack.Height, pack.Width, m.Job, t.Channels, t.Height, t.Width)
		case pack.Classes > classes:
			return refuse(fsm.ErrInvalid, "%s has %d classes, job %s knows %d; pack it with the same classes", pack.Path,
				pack.Classes, m.Job, classes)
		case i > 0 && classes != q.Classes:
			return refuse(fsm.ErrInvalid, "job %s has %d classes, job %s has %d; average models of the same classes", m.Job,
				classes, r.Models[0].Job, q.Classes)
		}
		q.Classes = classes
		q.Models = append(q.Models, &commandpb.EvaluatedModel{Job: m.Job, Step: m.Step, HasStep: m.HasStep})
	}
	q.Pack = &commandpb.EvaluatedPack{Path: pack.Path, Id: pack.Id, Images: pack.Images, Channels: pack.Channels,
		Height: pack.Height, Width: pack.Width, Classes: pack.Classes}
	return nil
}

func packPB(p *job.Pack) *clusterpb.EvaluationPack {
	return &clusterpb.EvaluationPack{Path: p.Path, Id: p.ID, Images: uint64(p.Images), Channels: uint32(p.Channels),
		Height: uint32(p.Height), Width: uint32(p.Width), Classes: uint32(p.Classes)}
}

func evaluatedPackPB(p *commandpb.EvaluatedPack) *clusterpb.EvaluationPack {
	return &clusterpb.EvaluationPack{Path: p.Path, Id: p.Id, Images: p.Images, Channels: p.Channels, Height: p.Height,
		Width: p.Width, Classes: p.Classes}
}

// Evaluation returns how far an evaluation is.
func (c *Control) Evaluation(ctx context.Context, id uint64) (*clusterpb.EvaluationStatus, error) {
	view, err := c.Read(ctx)
	if err != nil {
		return nil, err
	}
	r := view.Evaluation(id)
	if r == nil {
		return nil, refuse(fsm.ErrNoEvaluation, "there is no evaluation %d; see: coordinator evaluate --list", id)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.evaluationPB(view, r), nil
}

// Evaluations returns those that are kept, of a job or, if name is empty, of all, oldest first, in brief.
func (c *Control) Evaluations(ctx context.Context, name string) (out []*clusterpb.EvaluationStatus, err error) {
	view, err := c.Read(ctx)
	if err != nil {
		return nil, err
	}
	if name != "" && view.Jobs[name] == nil {
		return nil, refuse(fsm.ErrNoJob, "there is no job %s; see: coordinator job list", name)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range view.Evaluations {
		of := func(m *commandpb.EvaluatedModel) bool { return m.Job == name }
		if name == "" || slices.ContainsFunc(r.Requested.Models, of) {
			e := c.evaluationPB(view, r)
			if e.Sum != nil {
				e.Sum.Classes, e.Sum.Confused = nil, nil
			}
			out = append(out, e)
		}
	}
	return out, nil
}

// CancelEvaluation ends an evaluation that is under way.
func (c *Control) CancelEvaluation(ctx context.Context, id uint64) (*clusterpb.EvaluationStatus, error) {
	if err := c.mustLead(); err != nil {
		return nil, err
	}
	_, err := c.cfg.Node.Apply(ctx, &commandpb.Command{Kind: &commandpb.Command_EndEvaluation{
		EndEvaluation: &commandpb.EndEvaluation{Evaluation: id, Reason: "an operator cancelled it"}}})
	if err != nil {
		return nil, err
	}
	c.kick()
	return c.Evaluation(ctx, id)
}

// evaluationPB puts together what the log and the heartbeats say. c.mu is held.
func (c *Control) evaluationPB(view fsm.View, r *commandpb.EvaluationRecord) *clusterpb.EvaluationStatus {
	q := r.Requested
	out := &clusterpb.EvaluationStatus{Id: r.Id, Pack: evaluatedPackPB(q.Pack), Views: q.Views, Batch: q.Batch,
		Classes: q.Classes, State: r.State, Reason: r.Reason, Parts: fsm.Parts(r),
		Done:      uint64(r.Folded) + uint64(len(r.Ahead)),
		Requested: timestamp(r.RequestedUnixNs), Ended: timestamp(r.EndedUnixNs), Sum: sumPB(r.Sum)}
	for i, m := range q.Models {
		out.Models = append(out.Models, &clusterpb.EvaluateModel{Job: m.Job, Step: r.Checkpoints[i].Step, HasStep: true})
	}
	each := uint64(q.Views) * uint64(len(q.Models))
	out.AllPasses, out.Passes = q.Pack.Images*each, r.Sum.GetImages()*each
	for _, p := range r.Ahead {
		out.Passes += p.Sum.Images * each
	}
	for _, p := range r.Given {
		place := &clusterpb.PartPlace{Part: uint64(p.Part), Worker: p.Worker, Phase: "begins"}
		if w := view.Workers[p.Worker]; w != nil {
			place.WorkerName = w.Registered.Name
		}
		if s := c.sessions[p.Worker]; s != nil && s.part.Evaluation == r.Id && s.part.Generation == p.Generation {
			place.Phase = s.partStatus.Phase
			_, images := fsm.PartOf(r, p.Part)
			out.Passes += min(s.partStatus.Passes, images*each)
		}
		out.Places = append(out.Places, place)
	}
	switch {
	case r.State == fsm.Done:
		out.Digest = digestOf(r)
	case r.State == fsm.Running && c.waits[r.Id] != "" && len(r.Given) == 0:
		out.Reason = c.waits[r.Id]
	}
	return out
}

// sumPB is a sum as it goes out.
func sumPB(s *commandpb.EvaluationSum) *clusterpb.EvaluationSum {
	if s == nil {
		return nil
	}
	out := &clusterpb.EvaluationSum{Images: s.Images, Loss: s.Loss, Top1Errors: s.Top1Errors, Top5Errors: s.Top5Errors}
	for _, k := range s.Classes {
		out.Classes = append(out.Classes, &clusterpb.ClassSum{Label: k.Label, Images: k.Images, Loss: k.Loss,
			Top1Errors: k.Top1Errors, Top5Errors: k.Top5Errors})
	}
	for _, k := range s.Confused {
		out.Confused = append(out.Confused, &clusterpb.ConfusedSum{Label: k.Label, TakenFor: k.TakenFor,
			Images: k.Images})
	}
	return out
}

// digestOf is what an evaluation's figures are known by.
func digestOf(r *commandpb.EvaluationRecord) []byte {
	t := score.NewTally(int(r.Requested.Classes))
	t.Score = score.Score{Images: r.Sum.Images, Loss: r.Sum.Loss, Top1: r.Sum.Top1Errors, Top5: r.Sum.Top5Errors}
	for _, k := range r.Sum.Classes {
		t.ByClass[k.Label] = score.Score{Images: k.Images, Loss: k.Loss, Top1: k.Top1Errors, Top5: k.Top5Errors}
	}
	for _, k := range r.Sum.Confused {
		if t.Set(score.Confused{Label: int(k.Label), As: int(k.TakenFor), Images: k.Images}) != nil {
			return nil // the state takes none of a class that there is not
		}
	}
	d := t.Digest()
	return d[:]
}
