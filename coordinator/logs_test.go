package main

import (
	"testing"

	"google.golang.org/protobuf/types/known/timestamppb"

	"colonnade/coordinator/control"
	"colonnade/proto/clusterpb"
)

// Lines that a worker sends are shown by job and by worker.
func TestLogsOfWorkers(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	c := startCluster(t)
	like(t, succeeds(t, "logs"), `the leader has no such lines; wait for them with: coordinator logs --follow\n`)
	succeeds(t, "job", "submit", writeJob(t, dir, "job.yaml"))
	s, err := c.node.control.Attach(c.ctx, &clusterpb.Register{Worker: "w1", Name: "one", Address: "h:1", Incarnation: "i",
		Protocol: control.Protocol, Device: &clusterpb.Device{Numerics: "fake"}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Detach()
	s.Heartbeat(&clusterpb.Heartbeat{Logs: []*clusterpb.LogRecord{
		{At: timestamppb.Now(), Level: "INFO", Text: "training job=j", Job: "j"},
		{At: timestamppb.Now(), Level: "WARN", Text: "disk is slow", LeftOut: 3}}})
	like(t, succeeds(t, "logs"), `\S+ \S+  one INFO  training job=j\n\(3 lines of one were too many\)\n`+
		`\S+ \S+  one WARN  disk is slow\n`)
	like(t, succeeds(t, "logs", "j"), `\S+ \S+  one INFO  training job=j\n`)
	like(t, succeeds(t, "logs", "one", "-n1"), `\(3 .*\n\S+ \S+  one WARN  disk is slow\n`)
	if got := object(t, succeeds(t, "logs", "w1", "-n", "1", "--json"), "worker_name"); got != "one" {
		t.Errorf("JSON names worker %v", got)
	}
	check(t, dir, []wrong{{"logs of nobody", words("logs nobody"), exitFailure, []string{"there is no job \"nobody\"",
		"coordinator worker list"}}})
}
