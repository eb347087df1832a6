package control

import (
	"testing"

	"colonnade/proto/commandpb"
)

// TestHistoryEndsWhereItGoesOn wants an assignment to have the evaluations up to the step that is gone on from, of jobs
// whose course goes by them.
func TestHistoryEndsWhereItGoesOn(t *testing.T) {
	c := &Control{specs: map[string]specFacts{"plateau": {adaptive: true}, "list": {}}}
	record := func(name string, restore, memory uint64) *commandpb.JobRecord {
		return &commandpb.JobRecord{Submitted: &commandpb.SubmitJob{Job: name}, RestoreStep: restore, HasRestore: restore > 0,
			MemoryStep: memory, FromMemory: memory > 0,
			Evaluations: []*commandpb.RecordEvaluation{{Step: 10, Images: 4, Top1Errors: 0.5, Loss: 2, Rate: 0.1}, {Step: 20},
				{Step: 30}}}
	}
	for _, k := range []struct {
		name            string
		restore, memory uint64
		want            int
	}{
		{"plateau", 0, 0, 0}, {"plateau", 20, 0, 2}, {"plateau", 19, 0, 1}, {"plateau", 10, 25, 2}, {"plateau", 0, 30, 3},
		{"list", 20, 0, 0}, {"list", 0, 30, 0},
	} {
		got := c.history(record(k.name, k.restore, k.memory))
		if len(got) != k.want {
			t.Errorf("job %s from checkpoint %d, memory %d: %v, want %d", k.name, k.restore, k.memory, got, k.want)
			continue
		}
		if k.want > 0 && (got[0].Step != 10 || got[0].Images != 4 || got[0].Top1Errors != 0.5 || got[0].Loss != 2 ||
			got[0].Rate != 0.1) {
			t.Errorf("the first is %v", got[0])
		}
	}
}
