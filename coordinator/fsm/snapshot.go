package fsm

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"colonnade/proto/commandpb"
)

// Encode gives a state's bytes: equal states give equal bytes.
func (v View) Encode() ([]byte, error) {
	s := &commandpb.Snapshot{Version: Version, Cluster: v.Cluster, AppliedIndex: v.Index, Events: v.Events,
		Lineage: v.Lineage, Evaluations: v.Evaluations, Deleted: v.Deleted, DeletedGeneration: v.DeletedGeneration}
	for _, e := range v.Enrolled() {
		s.Workers = append(s.Workers, e.Record)
	}
	for _, name := range slices.Sorted(maps.Keys(v.Jobs)) {
		s.Jobs = append(s.Jobs, v.Jobs[name])
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode snapshot: %w", err)
	}
	return b, nil
}

// ErrSnapshot means that bytes are not a snapshot this program can go on from.
var ErrSnapshot = errors.New("bad snapshot")

// maxSnapshot bounds what a snapshot may be: a few megabytes hold thousands of jobs.
const maxSnapshot = 1 << 30

// Decode reads a state that Encode wrote, of this version or an older one. It keeps what a newer program added to
// records.
func Decode(r io.Reader) (*State, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxSnapshot+1))
	if err != nil {
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	var s commandpb.Snapshot
	switch err := proto.Unmarshal(b, &s); {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrSnapshot, err)
	case len(b) > maxSnapshot:
		return nil, fmt.Errorf("%w: more than %d bytes", ErrSnapshot, maxSnapshot)
	case s.Version > Version:
		return nil, fmt.Errorf("%w: of version %d, this program reads %d; install a newer one", ErrSnapshot, s.Version,
			Version)
	case s.Version < 1:
		return nil, fmt.Errorf("%w: without a version", ErrSnapshot)
	}
	st := New()
	st.v.Cluster, st.v.Index, st.v.Events, st.v.Lineage = s.Cluster, s.AppliedIndex, s.Events, s.Lineage
	st.v.Deleted, st.v.DeletedGeneration = s.Deleted, s.DeletedGeneration
	last := ""
	for _, w := range s.Workers {
		id := w.Registered.GetWorker()
		if id <= last || w.Registered.GetDevice() == nil {
			return nil, fmt.Errorf("%w: worker %q after %q: without id or device, or out of order", ErrSnapshot, id, last)
		}
		st.v.Workers[id], last = w, id
		st.v.Roll = append(st.v.Roll, st.numerics.enroll(id, w))
	}
	last = ""
	for _, j := range s.Jobs {
		name := j.Submitted.GetJob()
		if name <= last {
			return nil, fmt.Errorf("%w: job %q after %q: without a name, or out of order", ErrSnapshot, name, last)
		}
		if err := checkJob(j); err != nil {
			return nil, fmt.Errorf("%w: job %s: %w", ErrSnapshot, name, err)
		}
		st.keepJob(j)
		last = name
	}
	for i, r := range s.Evaluations {
		if err := checkEvaluation(r); err != nil {
			return nil, fmt.Errorf("%w: evaluation %d: %w", ErrSnapshot, r.Id, err)
		}
		if i > 0 && r.Id <= s.Evaluations[i-1].Id {
			return nil, fmt.Errorf("%w: evaluation %d is out of order", ErrSnapshot, r.Id)
		}
	}
	st.v.Evaluations = s.Evaluations
	return st, nil
}

// checkJob wants of a job's record what all code that reads it relies on: its cells are those of the job, and what is
// searched by halves is in order.
func checkJob(j *commandpb.JobRecord) error {
	if !validCells(j.Submitted) {
		return fmt.Errorf("%d replicas of %d columns", j.Submitted.Replicas, j.Submitted.Columns)
	}
	for _, p := range j.Placement {
		if rank(j, p.Cell) < 0 {
			return fmt.Errorf("a placement of cell %s, which it does not have", CellName(p.Cell))
		}
	}
	for i, r := range j.Checkpoints {
		if i > 0 && r.Step <= j.Checkpoints[i-1].Step {
			return fmt.Errorf("checkpoint of step %d is out of order", r.Step)
		}
		if !ordered(j, r.Files) {
			return fmt.Errorf("files of checkpoint of step %d are not of its cells in their order", r.Step)
		}
	}
	for i, e := range j.Evaluations {
		if i > 0 && e.Step <= j.Evaluations[i-1].Step {
			return fmt.Errorf("evaluation after step %d is out of order", e.Step)
		}
	}
	if !ordered(j, j.Finished) || !ordered(j, j.Stopped) {
		return errors.New("ends of cells are not of its cells in their order")
	}
	return nil
}

// ordered says whether records are of different cells of the job, in their order.
func ordered[T celled](j *commandpb.JobRecord, list []T) bool {
	last := -1
	for _, e := range list {
		i := rank(j, e.GetCell())
		if i <= last {
			return false
		}
		last = i
	}
	return true
}
