package web

import (
	"context"
	"errors"
	"math"
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"colonnade/proto/clusterpb"
)

// TestPast: what the node's history knows comes before what is seen from now on, once, and in order.
func TestPast(t *testing.T) {
	at := func(ms int64) *timestamppb.Timestamp { return timestamppb.New(time.UnixMilli(ms)) }
	reply := &clusterpb.HistoryReply{Series: []*clusterpb.HistorySeries{
		{Points: []*clusterpb.HistoryPoint{
			{LastStep: 4, At: at(40), Losses: 4, Loss: 2, LossMin: 1, LossMax: 3, ImagesPerSecond: 10, ImagesPerSecondMin: 9,
				ImagesPerSecondMax: 11},
			{LastStep: 5, At: at(40), Losses: 1, Loss: 9, LossMin: 9, LossMax: 9}, // another leader's clock
			{LastStep: 6, At: at(60), Losses: 1, Loss: math.NaN()},
			{LastStep: 8, At: at(80), Losses: 2, Loss: 1.5, LossMin: 1, LossMax: 2},
			{LastStep: 9, At: at(90)}, // told no loss
		}},
		{Cell: &clusterpb.Cell{Column: 1}, Points: []*clusterpb.HistoryPoint{
			{LastStep: 8, At: at(80), PhaseSeconds: map[string]float64{"data": 0.5, "conv1": 1, "conv2": 2}}}},
	}}
	asked := 0
	s := New(Config{Past: func(_ context.Context, r *clusterpb.HistoryRequest) (*clusterpb.HistoryReply, error) {
		if asked++; r.Job != "j" || !r.Cells {
			t.Errorf("asked for %v", r)
		}
		return reply, nil
	}})
	s.fill(t.Context(), "j")
	s.store.Add("j", time.UnixMilli(100), Measured{Step: 10, Values: map[string]float64{"loss": 1}})
	s.fill(t.Context(), "j")
	if asked != 1 {
		t.Errorf("the history was asked %d times", asked)
	}
	want := []Series{
		{"images_per_second", []uint64{4}, []int64{40}, []float64{10}, []float64{9}, []float64{11}},
		{"loss", []uint64{4, 8, 10}, []int64{40, 80, 100}, []float64{2, 1.5, 1}, []float64{1, 1, 1}, []float64{3, 2, 1}},
	}
	if got := s.store.Series("j", []string{"loss", "images_per_second"}, 100); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	if got := s.store.Series("j", []string{"seconds/r0c1/forward"}, 100); len(got) != 1 || got[0].Mean[0] != 3 {
		t.Errorf("phases: %+v", got)
	}
}

// TestNoPast: a node without a history, or with a broken one, shows what it sees.
func TestNoPast(t *testing.T) {
	s := New(Config{Past: func(context.Context, *clusterpb.HistoryRequest) (*clusterpb.HistoryReply, error) {
		return nil, errors.New("damaged")
	}})
	s.fill(t.Context(), "j")
	s.store.Add("j", time.UnixMilli(100), Measured{Step: 10, Values: map[string]float64{"loss": 1}})
	if got := s.store.Series("j", nil, 100); len(got) != 1 || got[0].Step[0] != 10 {
		t.Errorf("%+v", got)
	}
}
