package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"colonnade/checkpoint/promtext"
	"colonnade/proto/clusterpb"
)

// asked is what a worker's HTTP port answers.
func asked(t *testing.T, p *httpPort, path, token string) (int, string) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	p.handler().ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

// The probes mean what they say: ready is a worker that may be given cells, healthy one whose state can be read.
func TestProbes(t *testing.T) {
	h := &host{runs: map[string]*assignment{}, worker: "id"}
	connected := false
	p := &httpPort{host: h, connected: func() bool { return connected }, pending: func() int { return 0 },
		token: "0123456789abcdef"}
	want := func(what, path string, code int) {
		t.Helper()
		if got, text := asked(t, p, path, ""); got != code {
			t.Errorf("%s: %s is %d %q, want %d", what, path, got, text, code)
		}
	}
	want("without a coordinator", "/healthz", 200)
	want("without a coordinator", "/readyz", 503)
	connected = true
	want("connected", "/readyz", 200)
	h.draining = true
	want("drained", "/readyz", 503)
	want("drained", "/healthz", 200)
	h.draining, h.closed = false, true
	want("at its end", "/readyz", 503)
	want("at its end", "/healthz", 503)
	h.closed = false
	want("without the token", "/metrics", 401)
	if code, _ := asked(t, p, "/metrics", "0123456789abcdef"); code != 200 {
		t.Errorf("with the token: %d", code)
	}
	p.patience = time.Millisecond
	h.mu.Lock()
	want("locked up", "/healthz", 503)
	h.mu.Unlock()
}

// Every metric is in the table of API.md, and promtool takes them.
func TestPromtoolTakesAWorkersMetrics(t *testing.T) {
	e := &promtext.Exposition{}
	trainingMetrics(e, []*clusterpb.CellStatus{{Job: "j", Cell: &clusterpb.Cell{Column: 1}, Step: 7, Loss: 2, Scored: 8,
		Top1Errors: 4, BusySeconds: 0.5, PhaseSeconds: map[string]float64{"conv1": 0.25}}})
	written := httptest.NewRecorder()
	e.Answer(written)
	g := &gauge{}
	g.set(&clusterpb.DeviceHealth{Celsius: proto.Int32(61), EccUncorrected: proto.Uint64(2)})
	p := &httpPort{host: &host{runs: map[string]*assignment{}, worker: "id"}, health: g, name: "w",
		connected: func() bool { return true }, pending: func() int { return 3 }}
	_, text := asked(t, p, "/metrics", "")
	for _, want := range []string{`colonnade_worker_connected 1`, `colonnade_worker_pending_reports 3`,
		`colonnade_gpu_temperature_celsius{worker="id",name="w"} 61`,
		`colonnade_gpu_ecc_uncorrected_errors_total{worker="id",name="w"} 2`} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("the metrics lack %s", want)
		}
	}
	for _, want := range []string{`colonnade_worker_cell_step{job="j",cell="r0c1"} 7`,
		`colonnade_worker_cell_train_error_ratio{job="j",cell="r0c1"} 0.5`,
		`colonnade_worker_cell_phase_seconds{job="j",cell="r0c1",phase="conv1"} 0.25`} {
		if !strings.Contains(written.Body.String(), want+"\n") {
			t.Errorf("the metrics of cells lack %s", want)
		}
	}
	document, err := os.ReadFile("../coordinator/web/API.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(text, "\n") {
		if name, ok := strings.CutPrefix(line, "# HELP "); ok {
			name, _, _ = strings.Cut(name, " ")
			short := "`" + strings.TrimPrefix(name, "colonnade_worker_cell") + "`"
			if !strings.Contains(string(document), name) && !strings.Contains(string(document), short) {
				t.Errorf("API.md does not name %s", name)
			}
		}
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("not checked by promtool: it is not installed (Debian package prometheus)")
	}
	for _, text := range []string{text, written.Body.String()} {
		cmd := exec.CommandContext(t.Context(), promtool, "check", "metrics")
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("promtool: %v\n%s", err, out)
		}
	}
}

// A worker of each of several GPUs has a port of its own.
func TestChildrensPorts(t *testing.T) {
	c := &runCmd{HTTP: "127.0.0.1:7411"}
	if got := c.child(2).HTTP; got != "127.0.0.1:7413" {
		t.Errorf("the third GPU's worker listens at %s", got)
	}
	for _, as := range []string{"127.0.0.1:0", noAddress} {
		if got := (&runCmd{HTTP: as}).child(2).HTTP; got != as {
			t.Errorf("%s becomes %s", as, got)
		}
	}
}
