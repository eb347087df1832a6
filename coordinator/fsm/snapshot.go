package fsm

import (
	"fmt"
	"io"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"colonnade/proto/commandpb"
)

// Encode gives a state's bytes: equal states give equal bytes.
func (v View) Encode() ([]byte, error) {
	s := &commandpb.Snapshot{Version: Version, Cluster: v.Cluster, AppliedIndex: v.Index, Events: v.Events}
	for _, id := range slices.Sorted(maps.Keys(v.Workers)) {
		s.Workers = append(s.Workers, v.Workers[id])
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

// maxSnapshot bounds what a snapshot may be: a few megabytes hold thousands of jobs.
const maxSnapshot = 1 << 30

// Decode reads a state.
func Decode(r io.Reader) (*State, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxSnapshot))
	if err != nil {
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	var s commandpb.Snapshot
	if err := proto.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("decode snapshot: %w", err)
	}
	if s.Version != Version {
		return nil, fmt.Errorf("snapshot of version %d, this program reads %d; install a newer one", s.Version, Version)
	}
	st := New()
	st.v.Cluster, st.v.Index, st.v.Events = s.Cluster, s.AppliedIndex, s.Events
	for _, w := range s.Workers {
		if w.Registered == nil {
			return nil, fmt.Errorf("decode snapshot: a worker without registration")
		}
		st.v.Workers[w.Registered.Worker] = w
	}
	for _, j := range s.Jobs {
		if j.Submitted == nil {
			return nil, fmt.Errorf("decode snapshot: a job without submission")
		}
		st.v.Jobs[j.Submitted.Job] = j
	}
	return st, nil
}
