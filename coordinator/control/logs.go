package control

import (
	"context"
	"slices"

	"google.golang.org/protobuf/proto"

	"colonnade/proto/clusterpb"
)

// keepLogs is how many records of workers' logs a leader has in memory: the newest.
const keepLogs = 5000

// logs are the records that workers have sent with their heartbeats since this node began to lead; lost with the lead.
type logs struct {
	source int64
	last   uint64                 // sequence of the newest
	all    []*clusterpb.LogRecord // oldest first
}

// add takes in what a worker sends.
func (l *logs) add(worker, name string, records []*clusterpb.LogRecord) {
	for _, r := range records {
		r = proto.CloneOf(r)
		l.last++
		r.Worker, r.WorkerName, r.Sequence = worker, name, l.last
		l.all = append(l.all, r)
	}
	if over := len(l.all) - keepLogs; over > 0 {
		l.all = slices.Clone(l.all[over:])
	}
}

// LogsAt names the leader's memory of logs and the newest line in it; false: this node does not lead. It asks nobody,
// so that many may wait for more.
func (c *Control) LogsAt() (source int64, last uint64, leading bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.logs.source, c.logs.last, c.leading
}

// Logs answers a request for records of workers' logs. Only a leader has them.
func (c *Control) Logs(ctx context.Context, r *clusterpb.LogsRequest) (*clusterpb.LogsReply, error) {
	if err := c.readable(ctx); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	out := &clusterpb.LogsReply{Source: c.logs.source}
	after := r.After
	if r.Source != c.logs.source {
		after = 0
	}
	for _, one := range c.logs.all {
		if one.Sequence > after && (r.Job == "" || one.Job == r.Job) && (r.Worker == "" || one.Worker == r.Worker) {
			out.Records = append(out.Records, one)
		}
	}
	if n := int(r.Last); n > 0 && len(out.Records) > n {
		out.Records = out.Records[len(out.Records)-n:]
	}
	return out, nil
}
