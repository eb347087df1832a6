package control

import (
	"colonnade/proto/clusterpb"
	"colonnade/proto/commandpb"
)

// vetoCommand is a worker's veto as the log has it.
func vetoCommand(r *clusterpb.Report, v *clusterpb.Veto) *commandpb.VetoStep {
	return &commandpb.VetoStep{Job: r.Job, Generation: r.Generation, Cell: cellCommand(v.Cell), Step: v.Step,
		Cause: v.Cause, Loss: v.Loss, Limit: v.Limit, Reason: oneLine(v.Reason), Skip: v.Skip}
}

// vetoPB is a vetoed step as operators see it.
func vetoPB(r *commandpb.VetoRecord) *clusterpb.Veto {
	v := r.Vetoed
	return &clusterpb.Veto{Cell: cellPB(v.GetCell()), Step: v.GetStep(), Cause: v.GetCause(), Loss: v.GetLoss(),
		Limit: v.GetLimit(), Reason: v.GetReason(), Skip: v.GetSkip(), Outcome: r.Outcome, At: timestamp(r.AtUnixNs)}
}
