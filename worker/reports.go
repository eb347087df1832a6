package main

import (
	"errors"

	"colonnade/proto/clusterpb"
	"colonnade/worker/exchange"
	"colonnade/worker/train"
)

// eventReport is the wire form of what a cell's run came to.
func (h *host) eventReport(run *assignment, numerics string, stepsPerEpoch int, e train.Event) *clusterpb.Report {
	r := &clusterpb.Report{Job: run.job, Generation: run.generation}
	switch e := e.(type) {
	case train.Saved:
		r.Kind = &clusterpb.Report_Checkpoint{Checkpoint: &clusterpb.CheckpointWritten{
			Cell: cellPB(e.Cell), Step: e.Step, Numerics: numerics, PlanDigest: e.PlanDigest[:],
			Seconds: e.Took.Seconds(), StallSeconds: e.Stall.Seconds(),
			File: &clusterpb.CheckpointFile{Cell: cellPB(e.Cell), Worker: h.worker, Path: e.Info.Path,
				Bytes: e.Info.Bytes, Xxh3: e.Info.XXH3[:], Digest: e.Info.Digest[:]}}}
	case train.SaveFailed:
		r.Kind = &clusterpb.Report_CheckpointFailed{CheckpointFailed: &clusterpb.CheckpointFailed{
			Cell: cellPB(e.Cell), Step: e.Step, Reason: e.Err.Error()}}
	case train.Evaluated:
		n := float64(max(e.Score.Images, 1))
		r.Kind = &clusterpb.Report_Evaluation{Evaluation: &clusterpb.Evaluation{
			Step: e.Step, Epoch: e.Step / uint64(stepsPerEpoch), Images: e.Score.Images,
			Top1Errors: e.Score.Top1, Top5Errors: e.Score.Top5, Loss: e.Score.Loss / n, TrainLoss: e.TrainLoss,
			Rate: e.Rate}}
	case train.Finished:
		r.Kind = &clusterpb.Report_Finished{Finished: &clusterpb.CellFinished{
			Cell: cellPB(e.Cell), Step: e.Step, Digest: e.Digest[:]}}
	case train.Stopped:
		r.Kind = &clusterpb.Report_Stopped{Stopped: &clusterpb.CellStopped{Cell: cellPB(e.Cell), Step: e.Step}}
	}
	return r
}

// permanentError marks a failure that no other worker and no further try would be spared.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

// failureReport says why a run failed, and whom it blames.
func failureReport(run *assignment, err error) *clusterpb.Report {
	f := &clusterpb.CellFailed{Reason: err.Error()}
	if len(run.local) > 0 {
		f.Cell = run.local[0]
	}
	if where, ok := errors.AsType[*train.CellError](err); ok {
		f.Cell, f.Step = cellPB(where.Cell), where.Step
	}
	if peer, ok := errors.AsType[*exchange.PeerError](err); ok {
		f.Suspect = peer.Worker
	}
	var memory memoryError
	f.Memory = errors.As(err, &memory)
	var permanent permanentError
	if v, ok := errors.AsType[*train.Veto](err); ok {
		f.Veto = &clusterpb.Veto{Cell: cellPB(v.Cell), Step: v.Step, Cause: v.Cause.String(), Loss: v.Loss, Limit: v.Limit,
			Reason: v.Error(), Skip: v.Skip}
	}
	f.Permanent = errors.As(err, &permanent) || errors.Is(err, train.ErrDiverged)
	return &clusterpb.Report{Job: run.job, Generation: run.generation,
		Kind: &clusterpb.Report_Failed{Failed: f}}
}
