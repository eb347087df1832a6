package web

import (
	"context"
	"math"

	"colonnade/coordinator/fsm"
	"colonnade/proto/clusterpb"
)

// fill takes over what this node's history knows of a job that nobody has looked at since the server was started.
func (s *Server) fill(ctx context.Context, job string) {
	if s.cfg.Past == nil || s.store.Has(job) {
		return
	}
	reply, err := s.cfg.Past(ctx, &clusterpb.HistoryRequest{Job: job, Points: usualPoints, Cells: true})
	if err != nil {
		return // a node without a history shows what it sees from now on; why it has none is in its log
	}
	s.store.Fill(job, past(reply))
}

// past is a history in the series that looks are kept in.
func past(r *clusterpb.HistoryReply) (out []Series) {
	for _, h := range r.Series {
		if h.Cell == nil {
			loss, speed := Series{Name: "loss"}, Series{Name: "images_per_second"}
			top1, top5 := Series{Name: "train_error"}, Series{Name: "train_top5_error"}
			for _, p := range h.Points {
				if p.Losses > 0 {
					loss.add(p, p.Loss, p.LossMin, p.LossMax)
				}
				if p.Scores > 0 {
					top1.add(p, p.Top1Error, p.Top1Error, p.Top1Error)
					top5.add(p, p.Top5Error, p.Top5Error, p.Top5Error)
				}
				if p.ImagesPerSecond > 0 {
					speed.add(p, p.ImagesPerSecond, p.ImagesPerSecondMin, p.ImagesPerSecondMax)
				}
			}
			out = append(out, loss, speed, top1, top5)
			continue
		}
		for _, g := range groups {
			s := Series{Name: "seconds/" + fsm.CellName(h.Cell) + "/" + g}
			for _, p := range h.Points {
				if len(p.PhaseSeconds) > 0 {
					v := grouped(p.PhaseSeconds)[g]
					s.add(p, v, v, v)
				}
			}
			out = append(out, s)
		}
	}
	return out
}

// add appends a point, unless it is no number, which JSON has no word for, or, by another leader's clock, no newer than
// the one before: series are in order of time.
func (s *Series) add(p *clusterpb.HistoryPoint, mean, least, most float64) {
	ms, sum := p.At.AsTime().UnixMilli(), mean+least+most
	if n := len(s.Time); n > 0 && ms <= s.Time[n-1] || math.IsNaN(sum) || math.IsInf(sum, 0) {
		return
	}
	s.Step, s.Time = append(s.Step, p.LastStep), append(s.Time, ms)
	s.Mean, s.Min, s.Max = append(s.Mean, mean), append(s.Min, least), append(s.Max, most)
}

// grouped adds the phases of a step up to groups.
func grouped(phases map[string]float64) map[string]float64 {
	sums := map[string]float64{}
	for phase, seconds := range phases {
		sums[groupOf(phase)] += seconds
	}
	return sums
}
