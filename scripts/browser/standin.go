package browser

import (
	"context"
	"log/slog"
	"math"
	"net/http/httptest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"colonnade/coordinator/web"
	"colonnade/proto/clusterpb"
)

// job is the name of the job that is looked at.
const job = "alexnet-32"

// standing is an Operator service with one job that stands still.
type standing struct{ clusterpb.OperatorClient }

func (standing) job() *clusterpb.Job {
	return &clusterpb.Job{Name: job, State: "stopped", Step: points, Steps: points, StepsPerEpoch: 100, Batch: 1}
}

// Status implements the Operator service.
func (s standing) Status(context.Context, *clusterpb.StatusRequest, ...grpc.CallOption) (*clusterpb.StatusReply,
	error) {
	return &clusterpb.StatusReply{Cluster: "stand-in", Node: "n", Leader: "n", Term: 1, Jobs: []*clusterpb.Job{s.job()},
		Workers: []*clusterpb.Worker{{Id: "w", Name: "gpu-1", State: "connected",
			Device: &clusterpb.Device{Name: "cuda:0", Model: "A100", MemoryBytes: 40 << 30},
			Health: &clusterpb.DeviceHealth{Celsius: proto.Int32(88), BusyPercent: proto.Int32(97), Watts: proto.Float64(301),
				FreeBytes: proto.Int64(7 << 30), EccUncorrected: proto.Uint64(2), SlowedBy: []string{"its power limit"},
				Warnings: []string{"88 degrees Celsius: look at its cooling"}}}}}, nil
}

// GetJob implements the Operator service.
func (s standing) GetJob(context.Context, *clusterpb.GetJobRequest, ...grpc.CallOption) (*clusterpb.Job, error) {
	return s.job(), nil
}

// ListJobs implements the Operator service.
func (s standing) ListJobs(context.Context, *clusterpb.ListJobsRequest, ...grpc.CallOption) (*clusterpb.ListJobsReply,
	error) {
	return &clusterpb.ListJobsReply{Jobs: []*clusterpb.Job{s.job()}}, nil
}

// ListCheckpoints implements the Operator service.
func (standing) ListCheckpoints(context.Context, *clusterpb.GetJobRequest, ...grpc.CallOption) (
	*clusterpb.ListCheckpointsReply, error) {
	return &clusterpb.ListCheckpointsReply{}, nil
}

// Logs implements the Operator service.
func (standing) Logs(context.Context, *clusterpb.LogsRequest, ...grpc.CallOption) (
	grpc.ServerStreamingClient[clusterpb.LogsReply], error) {
	return nil, status.Error(codes.Unavailable, "nobody writes here")
}

// EvaluateList implements the Operator service.
func (standing) EvaluateList(context.Context, *clusterpb.EvaluateListRequest, ...grpc.CallOption) (
	*clusterpb.EvaluateListReply, error) {
	return &clusterpb.EvaluateListReply{}, nil
}

// points are more than any series has that the coordinator keeps.
const points = 100_000

// long is a store with a long series that goes on and one that comes to nothing, whatever is asked for.
type long struct{}

func (long) Add(string, time.Time, web.Measured) {}
func (long) Has(string) bool                     { return true }
func (long) Fill(string, []web.Series)           {}
func (long) Keep([]string)                       {}
func (long) Since(string, int64) []web.Series    { return nil }
func (long) Series(string, []string, int) []web.Series {
	loss, wrong := web.Series{Name: "loss"}, web.Series{Name: "train_error"}
	add := func(s *web.Series, i int, v float64) {
		s.Step, s.Time = append(s.Step, uint64(i+1)), append(s.Time, int64(1.7e12)+int64(i)*1000)
		s.Mean, s.Min, s.Max = append(s.Mean, v), append(s.Min, v), append(s.Max, v)
	}
	for i := range points {
		add(&loss, i, 3*math.Exp(-float64(i)/30_000)+0.3*math.Sin(float64(i*i%977)))
		if i >= points-100 {
			add(&wrong, i, max(0, float64(points-50-i)/50))
		}
	}
	return []web.Series{loss, wrong}
}

// StandIn serves the dashboard of a cluster that stands still: a job that has measured a lot, and a worker with a GPU
// that is not well. It says where, and how to end it.
func StandIn(token string) (url string, end func()) {
	s := web.New(web.Config{Operator: standing{}, Events: func(uint64) []*clusterpb.LogEvent { return nil },
		Store: long{}, Token: token, Log: slog.New(slog.DiscardHandler),
		Local: func(ctx context.Context) (*clusterpb.StatusReply, error) { return standing{}.Status(ctx, nil) }})
	h := httptest.NewServer(s.Handler())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Run(ctx)
	}()
	return h.URL, func() {
		cancel()
		<-ended
		h.CloseClientConnections()
		h.Close()
	}
}
