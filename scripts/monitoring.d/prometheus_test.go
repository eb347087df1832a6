package monitoring

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"colonnade/proto/clusterpb"
	"colonnade/scripts/browser"
	"colonnade/scripts/cluster"
)

// shipped is where what is tested lies.
const shipped = "../../coordinator/web/monitoring"

// tool is where a program is, or skips the test.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("there is no %s here; scripts/monitoring installs it", name)
	}
	return path
}

// TestRules has promtool read the configuration, and each alert fire when it should and not before.
func TestRules(t *testing.T) {
	promtool := tool(t, "promtool")
	for _, args := range [][]string{{"check", "config", "prometheus.yaml"}, {"check", "rules", "alerts.yaml"},
		{"test", "rules", "alerts_test.yaml"}} {
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir = shipped
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// TestPrometheus has a real Prometheus look at a real cluster, by the configuration that ships: every query of the
// Grafana dashboard has an answer, and so has whatever an alert is made of. GPUs are those of a stand-in, behind the
// same code.
func TestPrometheus(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	program := tool(t, "prometheus")
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	r, err := browser.NewRig(ctx, t.TempDir(), 3, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	// The first ends, and has been tested then; the second is there to go on.
	if err := r.Submit(ctx, "short", 60, 0.01); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Await(ctx, "short", "is done", func(j *clusterpb.Job) bool { return j.State == "done" }); err != nil {
		t.Fatal(err)
	}
	if err := r.Submit(ctx, "long", 1_000_000, 0.01); err != nil {
		t.Fatal(err)
	}
	standIn, end := browser.StandIn("")
	defer end()
	p := start(ctx, t, program, append(slices.Clone(r.Pages), strings.TrimPrefix(standIn, "http://")))
	j, err := r.Await(ctx, "long", "trains", func(j *clusterpb.Job) bool { return j.Step > 20 })
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range slices.Concat(queries(t), operands(t), []string{`colonnade_job_step{job="long"}`}) {
		if !strings.Contains(q, "colonnade_job_generation") {
			p.answers(t, q)
		}
	}
	for i := range r.Workers {
		if j.Placement[0].WorkerName == fmt.Sprintf("worker-%d", i+1) {
			r.Workers[i].Kill()
		}
	}
	for _, q := range queries(t) {
		if strings.Contains(q, "colonnade_job_generation") { // one is of recoveries alone
			p.answers(t, q)
		}
	}
	p.rulesAreWell(t)
}

// dashboard is what is asked for by the Grafana dashboard.
type dashboard struct {
	Annotations struct{ List []struct{ Expr string } }
	Templating  struct {
		List []struct{ Name, Query json.RawMessage }
	}
	Panels []struct {
		Title   string
		Targets []struct{ Expr string }
	}
}

// queries are those of the dashboard, of all jobs; its variable's too.
func queries(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(shipped, "grafana.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, a := range d.Annotations.List {
		out = append(out, a.Expr)
	}
	for _, v := range d.Templating.List {
		if m := regexp.MustCompile(`label_values\((\w+), (\w+)\)`).FindSubmatch(v.Query); m != nil {
			out = append(out, fmt.Sprintf("group by (%s) (%s)", m[2], m[1]))
		}
	}
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			out = append(out, target.Expr)
		}
	}
	if len(out) < 15 {
		t.Fatalf("only %d queries are found in the dashboard", len(out))
	}
	for i := range out {
		out[i] = strings.ReplaceAll(out[i], "$job", ".*")
	}
	return out
}

// operands are the series that alerts look at. An alert itself has nothing to say of a cluster that is well.
func operands(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(shipped, "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range regexp.MustCompile(`(?m)^ +expr: (.*(?:\n {10}\S.*)*)$`).FindAllStringSubmatch(string(text), -1) {
		out = append(out, regexp.MustCompile(`\b(colonnade_\w+|up)\b(\{[^}]*\})?`).FindAllString(m[1], -1)...)
	}
	if len(out) < 8 {
		t.Fatalf("only %d operands are found in the alerts", len(out))
	}
	return out
}

// prometheus is a running one.
type prometheus struct {
	ctx context.Context
	at  string
}

// start runs Prometheus by the configuration that ships, with other addresses and every second.
func start(ctx context.Context, t *testing.T, program string, pages []string) *prometheus {
	t.Helper()
	dir := t.TempDir()
	replace := func(text, old, by string) string {
		if !strings.Contains(text, old) {
			t.Fatalf("prometheus.yaml does not say %s", old)
		}
		return strings.ReplaceAll(text, old, by)
	}
	for _, name := range []string{"prometheus.yaml", "alerts.yaml"} {
		b, err := os.ReadFile(filepath.Join(shipped, name))
		if err != nil {
			t.Fatal(err)
		}
		text := string(b)
		if name == "prometheus.yaml" {
			text = replace(text, `["127.0.0.1:7401"]`, `["`+strings.Join(pages, `", "`)+`"]`)
			text = replace(text, "_interval: 5s", "_interval: 1s")
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	port, err := cluster.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	p := &prometheus{ctx, fmt.Sprintf("127.0.0.1:%d", port)}
	cmd := exec.CommandContext(ctx, program, "--config.file="+filepath.Join(dir, "prometheus.yaml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+p.at, "--log.level=warn")
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("Prometheus says:\n%s", said.String())
		}
	})
	return p
}

// ask is what a call of Prometheus' API answers.
func (p *prometheus) ask(path string, into any) error {
	req, err := http.NewRequestWithContext(p.ctx, http.MethodGet, "http://"+p.at+"/api/v1/"+path, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer := struct {
		Error string
		Data  any
	}{Data: into}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return err
	}
	if answer.Error != "" {
		return fmt.Errorf("%s: %s", path, answer.Error)
	}
	return nil
}

// patience is how long a query may have no answer: scrapes come every second, on a machine that does other things.
const patience = time.Minute

// answers waits until a query has an answer.
func (p *prometheus) answers(t *testing.T, query string) {
	t.Helper()
	var reply struct{ Result []json.RawMessage }
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for limit := time.Now().Add(patience); ; <-tick.C {
		err := p.ask("query?query="+url.QueryEscape(query), &reply)
		if err == nil && len(reply.Result) > 0 {
			t.Logf("%3d series: %s", len(reply.Result), query)
			return
		}
		if time.Now().After(limit) {
			t.Errorf("no series: %s (%v)", query, err)
			return
		}
	}
}

// rulesAreWell fails if Prometheus could not work an alert out.
func (p *prometheus) rulesAreWell(t *testing.T) {
	t.Helper()
	var reply struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	if err := p.ask("rules", &reply); err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, g := range reply.Groups {
		for _, r := range g.Rules {
			count++
			if r.Health != "ok" {
				t.Errorf("alert %s is %s: %s", r.Name, r.Health, r.LastError)
			}
		}
	}
	if count < 8 {
		t.Errorf("Prometheus has %d alerts", count)
	}
}
