package fsm

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"

	"colonnade/proto/commandpb"
)

// An evaluation tests checkpoints on a pack: running, then done, failed, or cancelled by an operator. It is cut into
// parts by the numbers of the images alone, and what parts come to is added in their order, whatever the order they
// come in: the result's bits have nothing to do with who computed what.

// Cancelled is what an operator has made of an evaluation; its other states are Running, Done and Failed.
const Cancelled = "cancelled"

const (
	keepEvaluations   = 10      // of a job that have ended
	activeEvaluations = 8       // of a job at a time
	maxModels         = 64      // in one mean
	maxEvaluated      = 1 << 32 // images
	maxClasses        = 1 << 20
	// PartsAhead is how far behind the first part that is not done a part may be given.
	PartsAhead = 256
)

// Parts is how many parts an evaluation has.
func Parts(r *commandpb.EvaluationRecord) uint64 {
	c := r.Requested
	return (c.Pack.Images + uint64(c.PartImages) - 1) / uint64(c.PartImages)
}

// PartOf is the first image of a part, and how many it has.
func PartOf(r *commandpb.EvaluationRecord, part uint32) (first, images uint64) {
	first = uint64(part) * uint64(r.Requested.PartImages)
	return first, min(uint64(r.Requested.PartImages), r.Requested.Pack.Images-first)
}

// checkRequest wants of a request what all code that reads it relies on.
func checkRequest(c *commandpb.RequestEvaluation) error {
	p := c.GetPack()
	switch {
	case len(c.GetModels()) == 0 || len(c.Models) > maxModels:
		return fmt.Errorf("an evaluation of %d models; name 1 to %d", len(c.GetModels()), maxModels)
	case p.GetImages() == 0 || p.Images > maxEvaluated || p.Id == "":
		return errors.New("an evaluation on no images")
	case c.Views == 0 || c.Batch == 0 || c.PartImages == 0 || c.PartImages%c.Batch != 0 ||
		c.Classes == 0 || c.Classes > maxClasses:
		return fmt.Errorf("an evaluation of %d views by %d images, %d a part, of %d classes", c.Views, c.Batch, c.PartImages,
			c.Classes)
	}
	return nil
}

func (a *applier) requestEvaluation(c *commandpb.RequestEvaluation) error {
	if err := checkRequest(c); err != nil {
		return fmt.Errorf("%w: %w", err, ErrInvalid)
	}
	all, active := a.s.v.Evaluations, 0
	id := a.index
	for _, old := range all {
		if c.Request != "" && old.Requested.Request == c.Request {
			return nil
		}
		if old.State == Running && old.Requested.Models[0].Job == c.Models[0].Job {
			active++
		}
		id = max(id, old.Id+1) // after a restore the log begins anew
	}
	if active >= activeEvaluations {
		return fmt.Errorf("job %s has %d evaluations under way; wait for one, or cancel one: coordinator evaluate --cancel "+
			"ID: %w", c.Models[0].Job, active, ErrInvalid)
	}
	r := &commandpb.EvaluationRecord{Id: id, Requested: c, RequestedUnixNs: a.now, State: Running,
		Sum: &commandpb.EvaluationSum{}}
	for _, m := range c.Models {
		k, err := a.tested(m)
		if err != nil {
			return err
		}
		r.Checkpoints = append(r.Checkpoints, k)
	}
	a.s.keepEvaluation(r)
	a.event("test", c.Models[0].Job, "", "job %s: step %d is tested on %d images, evaluation %d", c.Models[0].Job,
		r.Checkpoints[0].Step, c.Pack.Images, id)
	return nil
}

// tested is a model's checkpoint as its evaluation keeps it: what becomes of the job does not change it.
func (a *applier) tested(m *commandpb.EvaluatedModel) (*commandpb.CheckpointRecord, error) {
	j, ok := a.s.v.Jobs[m.Job]
	if !ok {
		return nil, fmt.Errorf("job %s: %w; see: coordinator job list", m.Job, ErrNoJob)
	}
	good := Usable(j)
	at := len(good) - 1
	if m.HasStep {
		at = slices.IndexFunc(good, func(r *commandpb.CheckpointRecord) bool { return r.Step == m.Step })
	}
	switch {
	case at < 0 && m.HasStep:
		return nil, fmt.Errorf("job %s, step %d: %w; see: coordinator checkpoint list %s", m.Job, m.Step, ErrNoCheckpoint,
			m.Job)
	case at < 0:
		return nil, fmt.Errorf("job %s has none that can be used yet: %w; see: coordinator checkpoint list %s", m.Job,
			ErrNoCheckpoint, m.Job)
	}
	r := good[at]
	if r.OfJob != "" { // its files say whose they are
		return nil, fmt.Errorf("job %s has step %d of %s; test that one: coordinator evaluate %s --step %d: %w", m.Job,
			r.Step, r.OfJob, r.OfJob, r.Step, ErrInvalid)
	}
	k := &commandpb.CheckpointRecord{Step: r.Step, Generation: r.Generation, PlanDigest: r.PlanDigest,
		Numerics: r.Numerics, Committed: true, CommittedUnixNs: r.CommittedUnixNs}
	for _, f := range r.Files {
		if f.Cell.GetReplica() == 0 {
			k.Files = append(k.Files, f)
		}
	}
	return k, nil
}

// Tested says whether an evaluation under way needs a job's checkpoint of a step.
func Tested(v View, job string, step uint64) bool {
	return slices.ContainsFunc(v.Evaluations, func(r *commandpb.EvaluationRecord) bool {
		if r.State != Running {
			return false
		}
		for i, m := range r.Requested.Models {
			if m.Job == job && r.Checkpoints[i].Step == step {
				return true
			}
		}
		return false
	})
}

// neededForTests adds those that have files of checkpoints which are being tested.
func neededForTests(v View, needed map[string]bool) {
	for _, r := range v.Evaluations {
		if r.State != Running {
			continue
		}
		for _, k := range r.Checkpoints {
			for _, f := range k.Files {
				needed[f.Worker] = true
			}
		}
	}
}

// running returns a copy of the record of an evaluation under way.
func (a *applier) running(id uint64) (*commandpb.EvaluationRecord, error) {
	r := a.s.v.Evaluation(id)
	switch {
	case r == nil:
		return nil, fmt.Errorf("evaluation %d: %w; see: coordinator evaluate --list", id, ErrNoEvaluation)
	case r.State != Running:
		return nil, fmt.Errorf("evaluation %d is %s: %w", id, r.State, ErrJobState)
	}
	return copyEvaluation(r), nil
}

// Evaluation returns an evaluation's record, or nil.
func (v View) Evaluation(id uint64) *commandpb.EvaluationRecord {
	if at, ok := findEvaluation(v.Evaluations, id); ok {
		return v.Evaluations[at]
	}
	return nil
}

func findEvaluation(all []*commandpb.EvaluationRecord, id uint64) (int, bool) {
	return slices.BinarySearchFunc(all, id, func(r *commandpb.EvaluationRecord, id uint64) int {
		return cmp.Compare(r.Id, id)
	})
}

// keepEvaluation puts a record in its place, in a list of its own: views have the one before. Of those of its job that
// have ended the oldest go.
func (s *State) keepEvaluation(r *commandpb.EvaluationRecord) {
	all := slices.Clone(s.v.Evaluations)
	if at, there := findEvaluation(all, r.Id); there {
		all[at] = r
	} else {
		all = slices.Insert(all, at, r)
	}
	ended := 0
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].State != Running && all[i].Requested.Models[0].Job == r.Requested.Models[0].Job {
			if ended++; ended > keepEvaluations {
				all = slices.Delete(all, i, i+1)
			}
		}
	}
	s.v.Evaluations = all
}

func findPart(list []*commandpb.PartRecord, part uint32) (int, bool) {
	return slices.BinarySearchFunc(list, part, func(p *commandpb.PartRecord, n uint32) int {
		return cmp.Compare(p.Part, n)
	})
}

// FreePart is the first part of an evaluation, from one on, that nobody has or has done, if there is one that may be
// given now.
func FreePart(r *commandpb.EvaluationRecord, from uint32) (uint32, bool) {
	end := min(Parts(r), uint64(r.Folded)+PartsAhead)
	for part := max(r.Folded, from); uint64(part) < end; part++ {
		if _, has := findPart(r.Given, part); has {
			continue
		}
		if _, done := findPart(r.Ahead, part); !done {
			return part, true
		}
	}
	return 0, false
}

func (a *applier) givePart(c *commandpb.GivePart) error {
	r, err := a.running(c.Evaluation)
	if err != nil {
		return err
	}
	if w := a.s.v.Workers[c.Worker]; w == nil || w.Lost {
		return fmt.Errorf("evaluation %d: worker %s: %w", c.Evaluation, c.Worker, ErrNoWorker)
	}
	for _, other := range a.s.v.Evaluations {
		if slices.ContainsFunc(other.Given, func(p *commandpb.PartRecord) bool { return p.Worker == c.Worker }) {
			return fmt.Errorf("evaluation %d: worker %s has a part of evaluation %d: %w", c.Evaluation, c.Worker, other.Id,
				ErrInvalid)
		}
	}
	at, given := findPart(r.Given, c.Part)
	_, done := findPart(r.Ahead, c.Part)
	switch {
	case done || c.Part < r.Folded || uint64(c.Part) >= min(Parts(r), uint64(r.Folded)+PartsAhead):
		return fmt.Errorf("evaluation %d: part %d is done, or none: %w", c.Evaluation, c.Part, ErrInvalid)
	case given && r.Given[at].Worker != c.From || !given && c.From != "":
		return fmt.Errorf("evaluation %d: part %d is not with worker %q: %w", c.Evaluation, c.Part, c.From, ErrStale)
	}
	r.Generation++
	part := &commandpb.PartRecord{Part: c.Part, Generation: r.Generation, Worker: c.Worker, GivenUnixNs: a.now}
	if given {
		r.Given[at] = part
		r.Avoid = append(r.Avoid, c.From)
		a.event("test", r.Requested.Models[0].Job, c.From, "evaluation %d: worker %s does not get on with part %d, %s takes "+
			"it", r.Id, a.nameOf(c.From), c.Part, a.nameOf(c.Worker))
	} else {
		r.Given = slices.Insert(r.Given, at, part)
	}
	a.s.keepEvaluation(r)
	return nil
}

// nameOf is what people call a worker.
func (a *applier) nameOf(worker string) string {
	if w := a.s.v.Workers[worker]; w != nil && w.Registered.Name != "" {
		return w.Registered.Name
	}
	return worker
}

func (a *applier) partEvaluated(c *commandpb.PartEvaluated) error {
	r, err := a.running(c.Evaluation)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(r.Given, func(p *commandpb.PartRecord) bool { return p.Generation == c.Generation })
	if at < 0 {
		return fmt.Errorf("evaluation %d: nobody has a part as of %d: %w", c.Evaluation, c.Generation, ErrStale)
	}
	part := r.Given[at]
	r.Given = slices.Delete(r.Given, at, at+1)
	failed := c.Failed
	if failed == "" {
		if err := checkSum(r, part.Part, c.Sum); err != nil {
			failed = fmt.Sprintf("part %d came to what cannot be: %v", part.Part, err)
		}
	}
	if failed != "" {
		r.Failures++
		r.FailedUnixNs, r.FailedWorker = a.now, part.Worker
		r.Reason = fmt.Sprintf("worker %s: %s", a.nameOf(part.Worker), failed)
		switch {
		case c.Permanent:
			a.endEvaluation(r, Failed, r.Reason)
		case r.Failures >= maxFailures:
			a.endEvaluation(r, Failed, fmt.Sprintf("%d parts failed one after another; the last on %s", r.Failures, r.Reason))
		}
		a.s.keepEvaluation(r)
		return nil
	}
	r.Failures, r.FailedUnixNs, r.FailedWorker, r.Reason = 0, 0, "", ""
	to, _ := findPart(r.Ahead, part.Part)
	r.Ahead = slices.Insert(r.Ahead, to, &commandpb.PartRecord{Part: part.Part, Sum: c.Sum})
	for len(r.Ahead) > 0 && r.Ahead[0].Part == r.Folded {
		r.Sum = fold(r.Sum, r.Ahead[0].Sum)
		r.Ahead = slices.Clone(r.Ahead[1:])
		r.Folded++
	}
	if uint64(r.Folded) == Parts(r) {
		a.endEvaluation(r, Done, "")
	}
	a.s.keepEvaluation(r)
	return nil
}

// checkSum wants what a part came to be of its images and classes, and of numbers.
func checkSum(r *commandpb.EvaluationRecord, part uint32, s *commandpb.EvaluationSum) error {
	_, images := PartOf(r, part)
	if s.GetImages() != images {
		return fmt.Errorf("%d images of %d", s.GetImages(), images)
	}
	return checkFigures(s, r.Requested.Classes)
}

// checkFigures wants a sum's lists to be in order, and to come to the same images.
func checkFigures(s *commandpb.EvaluationSum, classes uint32) error {
	finite := func(all ...float64) bool {
		return !slices.ContainsFunc(all, func(x float64) bool { return !(x >= 0) || math.IsInf(x, 0) })
	}
	if !finite(s.Loss, s.Top1Errors, s.Top5Errors) {
		return errors.New("figures that are no numbers")
	}
	byClass, confused := uint64(0), uint64(0)
	for i, c := range s.Classes {
		if c.Label >= classes || c.Images == 0 || i > 0 && c.Label <= s.Classes[i-1].Label ||
			!finite(c.Loss, c.Top1Errors, c.Top5Errors) {
			return fmt.Errorf("class %d", c.Label)
		}
		byClass += c.Images
	}
	for i, c := range s.Confused {
		if c.Label >= classes || c.TakenFor >= classes || c.Images == 0 || i > 0 && byConfusion(s.Confused[i-1], c) >= 0 {
			return fmt.Errorf("label %d taken for %d", c.Label, c.TakenFor)
		}
		confused += c.Images
	}
	if byClass != s.Images || confused != s.Images {
		return fmt.Errorf("%d images, %d by class, %d by what they were taken for", s.Images, byClass, confused)
	}
	return nil
}

func byConfusion(a, b *commandpb.ConfusedSum) int {
	return cmp.Or(cmp.Compare(a.Label, b.Label), cmp.Compare(a.TakenFor, b.TakenFor))
}

// fold adds what a part came to to what those before it did. Neither is changed.
func fold(s, part *commandpb.EvaluationSum) *commandpb.EvaluationSum {
	return &commandpb.EvaluationSum{Images: s.GetImages() + part.Images, Loss: s.GetLoss() + part.Loss,
		Top1Errors: s.GetTop1Errors() + part.Top1Errors, Top5Errors: s.GetTop5Errors() + part.Top5Errors,
		Classes: merge(s.GetClasses(), part.Classes,
			func(a, b *commandpb.ClassSum) int { return cmp.Compare(a.Label, b.Label) },
			func(a, b *commandpb.ClassSum) *commandpb.ClassSum {
				return &commandpb.ClassSum{Label: a.Label, Images: a.Images + b.Images, Loss: a.Loss + b.Loss,
					Top1Errors: a.Top1Errors + b.Top1Errors, Top5Errors: a.Top5Errors + b.Top5Errors}
			}),
		Confused: merge(s.GetConfused(), part.Confused, byConfusion,
			func(a, b *commandpb.ConfusedSum) *commandpb.ConfusedSum {
				return &commandpb.ConfusedSum{Label: a.Label, TakenFor: a.TakenFor, Images: a.Images + b.Images}
			})}
}

// merge makes one list of two that are in order, with what is in both added.
func merge[T any](a, b []T, order func(a, b T) int, add func(a, b T) T) (out []T) {
	for len(a) > 0 && len(b) > 0 {
		switch o := order(a[0], b[0]); {
		case o < 0:
			out, a = append(out, a[0]), a[1:]
		case o > 0:
			out, b = append(out, b[0]), b[1:]
		default:
			out, a, b = append(out, add(a[0], b[0])), a[1:], b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// endEvaluation ends an evaluation.
func (a *applier) endEvaluation(r *commandpb.EvaluationRecord, state, reason string) {
	r.State, r.Reason, r.EndedUnixNs = state, reason, a.now
	r.Given, r.Ahead, r.Avoid = nil, nil, nil
	name, text := r.Requested.Models[0].Job, state
	switch {
	case state == Done:
		text = fmt.Sprintf("test error %.2f %%", 100*r.Sum.Top1Errors/float64(max(r.Sum.Images, 1)))
	default:
		r.Sum = nil
		text += ": " + reason
	}
	a.event("test", name, "", "job %s: evaluation %d of step %d: %s", name, r.Id, r.Checkpoints[0].Step, text)
}

func (a *applier) cancelEvaluation(c *commandpb.EndEvaluation) error {
	r, err := a.running(c.Evaluation)
	switch {
	case errors.Is(err, ErrJobState) && !c.Failed: // asked again
		return nil
	case err != nil:
		return err
	case c.Reason == "":
		return fmt.Errorf("evaluation %d ends without a reason: %w", c.Evaluation, ErrInvalid)
	}
	state := Cancelled
	if c.Failed {
		state = Failed
	}
	a.endEvaluation(r, state, c.Reason)
	a.s.keepEvaluation(r)
	return nil
}

// freeParts takes back what workers were given: they are lost, or, with cells, are given cells.
func (a *applier) freeParts(cells bool, workers ...string) {
	for _, r := range a.s.v.Evaluations { // replaced one by one, none is added
		has := func(p *commandpb.PartRecord) bool { return slices.Contains(workers, p.Worker) }
		if cells && r.Requested.Busy || !slices.ContainsFunc(r.Given, has) {
			continue
		}
		r = copyEvaluation(r)
		r.Given = slices.DeleteFunc(r.Given, has)
		a.s.keepEvaluation(r)
	}
}

// checkEvaluation wants of a record of a snapshot what all code that reads it relies on.
func checkEvaluation(r *commandpb.EvaluationRecord) error {
	if r.Requested == nil {
		return errors.New("without a request")
	}
	if err := checkRequest(r.Requested); err != nil {
		return err
	}
	if len(r.Checkpoints) != len(r.Requested.Models) || r.State == Running && r.Sum == nil ||
		r.State == Done && r.Sum == nil || uint64(r.Folded) > Parts(r) {
		return fmt.Errorf("%d checkpoints of %d models, %d parts of %d", len(r.Checkpoints), len(r.Requested.Models),
			r.Folded, Parts(r))
	}
	for _, list := range [][]*commandpb.PartRecord{r.Given, r.Ahead} {
		for i, p := range list {
			if p.Part < r.Folded || uint64(p.Part) >= Parts(r) || i > 0 && p.Part <= list[i-1].Part {
				return fmt.Errorf("part %d is out of order", p.Part)
			}
		}
	}
	for _, p := range r.Ahead {
		if err := checkSum(r, p.Part, p.Sum); err != nil {
			return fmt.Errorf("part %d: %w", p.Part, err)
		}
		if p.Part == r.Folded {
			return fmt.Errorf("part %d is done and not counted", p.Part)
		}
	}
	if r.Sum == nil {
		return nil
	}
	return checkFigures(r.Sum, r.Requested.Classes)
}

// copyEvaluation copies a record for a command to change. What its lists hold is shared and must be replaced.
func copyEvaluation(r *commandpb.EvaluationRecord) *commandpb.EvaluationRecord {
	c := &commandpb.EvaluationRecord{Id: r.Id, Requested: r.Requested, RequestedUnixNs: r.RequestedUnixNs,
		Checkpoints: slices.Clone(r.Checkpoints), State: r.State, Reason: r.Reason, EndedUnixNs: r.EndedUnixNs,
		Generation: r.Generation, Folded: r.Folded, Sum: r.Sum, Given: slices.Clone(r.Given), Ahead: slices.Clone(r.Ahead),
		Failures: r.Failures, FailedUnixNs: r.FailedUnixNs, Avoid: slices.Clone(r.Avoid), FailedWorker: r.FailedWorker}
	if more := r.ProtoReflect().GetUnknown(); len(more) > 0 { // a newer program's
		c.ProtoReflect().SetUnknown(more)
	}
	return c
}
