package main

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"colonnade/proto/clusterpb"
)

// TestJSONIsPinned: scripts of users read this.
func TestJSONIsPinned(t *testing.T) {
	u := &clusterpb.JobUpdate{
		Job: &clusterpb.Job{Name: "j", State: "running", Reason: "a \"quoted\" <reason>", Steps: math.MaxUint64,
			Spec: []byte("job: j\n"),
			Cells: []*clusterpb.CellStatus{{Job: "j", Cell: &clusterpb.Cell{Replica: -1}, Loss: math.NaN(),
				ImagesPerSecond: 1e21,
				PhaseSeconds:    map[string]float64{"b": 1, "a": 0.5}}},
			Digest: []byte{0xab, 1}, Submitted: timestamppb.New(time.Date(2012, 9, 30, 1, 2, 3, 4e6, time.FixedZone("x",
				3600)))},
		Events: []*clusterpb.LogEvent{{Index: 7}, {Text: "e"}},
	}
	const want = `{"job":{"name":"j","state":"running","reason":"a \"quoted\" \u003creason\u003e","generation":0,` +
		`"step":0,"steps":18446744073709551615,"committed_step":0,"spec":"job: j\n","placement":[],` +
		`"cells":[{"job":"j","generation":0,` +
		`"cell":{"replica":-1,"column":0},"step":0,"phase":"","images_per_second":1e+21,"loss":null,` +
		`"phase_seconds":{"a":0.5,"b":1},"carrier":"","memory":"","in_phase_seconds":0,"usual_seconds":0,"waits_for":[],` +
		`"busy_seconds":0,"kind":"","scored":0,"top1_errors":0,"top5_errors":0}],"evaluations":[],"digest":"ab01",` +
		`"submitted":"2012-09-30T00:02:03.004Z","ended":null,` +
		`"epochs":0,"steps_per_epoch":0,"batch":0,"loss":0,"images_per_second":0,"numerics":"","vetoes":[],"parent":null,` +
		`"priority":0,"place":0,"max_workers":0,"min_workers":0,"preemptions":0,"preempted_by":""},` +
		`"events":[{"index":7,"at":null,"kind":"","job":"","worker":"","text":""},` +
		`{"index":0,"at":null,"kind":"","job":"","worker":"","text":"e"}]}` + "\n"
	var line, indented bytes.Buffer
	if err := printLine(&line, u); err != nil {
		t.Fatal(err)
	}
	if line.String() != want {
		t.Errorf("printed\n%swant\n%s", &line, want)
	}
	if err := printProto(&indented, u); err != nil {
		t.Fatal(err)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, indented.Bytes()); err != nil || compact.String()+"\n" != want {
		t.Errorf("indented it is another value: %v\n%s", err, &indented)
	}
	if !strings.HasSuffix(indented.String(), "}\n") {
		t.Error("the last line has no end")
	}
}
