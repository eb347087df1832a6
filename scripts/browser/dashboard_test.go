package browser

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"colonnade/proto/clusterpb"
)

// axeFile is axe-core as npm has put it there; scripts/gen does.
const axeFile = "../../coordinator/web/app/node_modules/axe-core/axe.min.js"

// looking is a test's browser and its tabs' faults.
type looking struct {
	*testing.T
	b *Browser
}

// look opens a browser, or says that there is none.
func look(t *testing.T) *looking {
	t.Helper()
	b, err := Open(t.Context())
	if errors.Is(err, ErrNone) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return &looking{t, b}
}

// must fails the test if there is an error.
func (l *looking) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

// tab opens a page; what goes wrong in it fails the test.
func (l *looking) tab(look Look, url string) *Tab {
	l.Helper()
	t, err := l.b.Tab(look)
	l.must(err)
	l.Cleanup(func() {
		for _, f := range t.Faults() {
			l.Errorf("in the page: %s", f)
		}
		t.Close()
	})
	l.must(t.Go(url))
	return t
}

// TestDashboard is one cluster through all that its dashboard shows and can do, since starting one takes a while.
func TestDashboard(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster and a browser")
	}
	l := look(t)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	r, err := NewRig(ctx, t.TempDir(), 3, 3)
	l.must(err)
	defer r.Close()
	l.must(r.Submit(ctx, job, 100_000, 0.01))
	l.must(r.Submit(ctx, "other", 500, 0.02))
	_, err = r.Await(ctx, job, "trains", func(j *clusterpb.Job) bool { return j.CommittedStep >= 50 })
	l.must(err)
	// One after another: each leaves the cluster as the next needs it.
	for _, s := range []struct {
		name string
		f    func(*looking, context.Context, *Rig)
	}{
		{"pages", pages}, {"accessible", accessible}, {"first pixel", firstPixel}, {"live through a reload", reload},
		{"a worker is killed", workerKilled}, {"drain", drain}, {"the leader is killed", leaderKilled},
		{"stop and resume", stopResume}, {"controls", controls}, {"logs", logLines}, {"pictures", pictures},
		{"evaluations", evaluations}, {"queue", queue},
	} {
		if !t.Run(s.name, func(t *testing.T) { s.f(&looking{t, l.b}, ctx, r) }) {
			return
		}
	}
}

// pages: each says what it is for, none has a fault, none is wider than a phone.
func pages(l *looking, _ context.Context, r *Rig) {
	for _, p := range []struct {
		path  string
		wants []string
	}{
		{"/", []string{"Jobs", "Running", job, "other", "Waiting"}},
		{"/jobs/" + job, []string{job, "running", "Curves", "conv1", "fc8", "r0c0", "r0c1", "cross between the columns",
			"Checkpoints", "usable", "Configuration", "recipe.batch", "submitted", "worker-"}},
		{"/cluster", []string{"Cluster", "worker-1", "worker-3", "connected", "follower", "leader", "3 of 3", "Drain"}},
		{"/compare?job=" + job + "&job=other", []string{"Compare", "Settings that differ", "recipe.rate"}},
		{"/logs", []string{"Logs", "worker-1", "INFO"}},
		{"/jobs/none", []string{"there is no job none"}},
	} {
		for _, how := range []Look{Looks[0], Looks[2]} {
			tab, err := l.b.Tab(how)
			l.must(err)
			l.must(tab.Do(chromedp.Navigate(r.URL(1, p.path))))
			for _, want := range p.wants {
				l.must(tab.Says("main", want))
			}
			var wide float64
			l.must(tab.Value("document.documentElement.scrollWidth - document.documentElement.clientWidth", &wide))
			if wide > 0 {
				l.Errorf("%s, %s: %g pixels wider than the screen", p.path, how.Name, wide)
			}
			for _, f := range tab.Faults() {
				l.Errorf("%s, %s: %s", p.path, how.Name, f)
			}
			tab.Close()
		}
	}
}

// accessible: axe-core finds nothing serious on any page, light or dark, nor in a dialog.
func accessible(l *looking, _ context.Context, r *Rig) {
	script, err := os.ReadFile(axeFile)
	if errors.Is(err, os.ErrNotExist) {
		l.Skip("no axe-core: scripts/gen gets it where there is npm")
	}
	l.must(err)
	for _, how := range Looks[:2] { // colours; what is on a phone is the same
		for _, path := range []string{"/", "/jobs/" + job, "/cluster", "/logs", "/compare?job=" + job + "&job=other"} {
			tab := l.tab(how, r.URL(0, path))
			l.must(tab.Says(".health", "live"))
			if path == "/jobs/"+job {
				l.must(tab.Says("main", "recipe.batch"))
			}
			found, err := tab.Axe(string(script))
			l.must(err)
			if found != "" {
				l.Errorf("%s, %s:\n%s", path, how.Name, found)
			}
			tab.Close()
		}
		for _, button := range [][2]string{{"main", "Stop …"}, {checkpointRow, "Fork …"}} {
			tab := l.tab(how, r.URL(0, "/jobs/"+job))
			l.must(tab.Press(button[0], button[1]))
			l.must(tab.Until("the dialog is open", `document.querySelector("dialog[open]") !== null`))
			found, err := tab.Axe(string(script))
			l.must(err)
			if found != "" {
				l.Errorf("the dialog of %s, %s:\n%s", button[1], how.Name, found)
			}
			tab.Close()
		}
	}
}

// firstPixel is reported: how soon it is depends on what else the machine does.
func firstPixel(l *looking, _ context.Context, r *Rig) {
	tab := l.tab(Looks[0], r.URL(0, "/"))
	var ms float64
	l.must(tab.Value(`performance.getEntriesByName("first-contentful-paint")[0].startTime`, &ms))
	l.Logf("first contentful paint after %.0f ms", ms)
	if ms > 5000 {
		l.Errorf("the first pixel comes after %.0f ms", ms)
	}
}

const stepShown = `Number([...document.querySelectorAll(".figure")].find((f) => f.textContent.startsWith("Step"))` +
	`.querySelector("dd").firstChild.textContent.replaceAll(",", ""))`

// goesOn waits until the page shows a later step than now.
func goesOn(l *looking, tab *Tab) {
	l.Helper()
	var now float64
	l.must(tab.Value(stepShown, &now))
	l.must(tab.Until("steps go on", fmt.Sprintf("%s > %g", stepShown, now)))
}

// reload: a page that is loaded anew has the curves it had, and goes on.
func reload(l *looking, _ context.Context, r *Rig) {
	tab := l.tab(Looks[0], r.URL(2, "/jobs/"+job))
	goesOn(l, tab)
	const drawn = `document.querySelector(".plot").getAttribute("aria-label")`
	l.must(tab.Until("there is a curve", drawn+`.includes("training")`))
	l.must(tab.Do(chromedp.Reload()))
	l.must(tab.Until("there is a curve again", `document.querySelector(".plot") !== null && `+drawn+
		`.includes("training")`))
	goesOn(l, tab)
}

// workerKilled: the page tells of it, and of the recovery, without being touched.
func workerKilled(l *looking, ctx context.Context, r *Rig) {
	tab := l.tab(Looks[0], r.URL(0, "/jobs/"+job))
	j, err := r.Client.GetJob(ctx, &clusterpb.GetJobRequest{Name: job})
	l.must(err)
	generation := func(n uint64) string {
		return fmt.Sprintf(`[...document.querySelectorAll(".figure")].some((f) => f.textContent.startsWith("Generation") &&
			Number(f.querySelector("dd").textContent) >= %d)`, n)
	}
	l.must(tab.Until("the page is live", generation(j.Generation)))
	for i := range r.Workers {
		if j.Placement[0].WorkerName == fmt.Sprintf("worker-%d", i+1) {
			r.Workers[i].Kill()
			defer func() { l.must(r.StartWorker(i)) }()
		}
	}
	l.must(tab.Until("there is a new generation", generation(j.Generation+1)))
	l.must(tab.Says(".events", "generation "+fmt.Sprint(j.Generation+1)))
	l.must(tab.Says(".state", "running"))
	goesOn(l, tab)
}

// drain: asks first, does nothing when told not to, and is undone.
func drain(l *looking, ctx context.Context, r *Rig) {
	tab := l.tab(Looks[0], r.URL(1, "/cluster"))
	draining := func() (names []string) {
		list, err := r.Client.ListWorkers(ctx, &clusterpb.ListWorkersRequest{})
		l.must(err)
		for _, w := range list.Workers {
			if w.Draining {
				names = append(names, w.Name)
			}
		}
		return names
	}
	l.must(tab.Press("main", "Drain …"))
	l.must(tab.Press("dialog", "Cancel"))
	if got := draining(); got != nil {
		l.Fatalf("cancelled, and drained all the same: %v", got)
	}
	l.must(tab.Press("main", "Drain …"))
	l.must(tab.Press("dialog", "Drain"))
	l.must(tab.Says(".state", "drain"))
	if got := draining(); len(got) != 1 {
		l.Fatalf("drained: %v", got)
	}
	l.must(tab.Press("main", "Undrain …"))
	l.must(tab.Press("dialog", "Let it have cells"))
	l.must(tab.Until("no worker is drained", `document.querySelector(".state.draining, .state.drained") === null`))
	if got := draining(); got != nil {
		l.Fatalf("undone, and still drained: %v", got)
	}
}

// leaderKilled: a page of another coordinator goes on with the next leader; the leader's own says that it is lost, and
// goes on when it is back.
func leaderKilled(l *looking, ctx context.Context, r *Rig) {
	leader := r.Leader(ctx)
	if leader < 0 {
		l.Fatal("nobody leads")
	}
	other := (leader + 1) % 3
	own, others := l.tab(Looks[0], r.URL(leader, "/jobs/"+job)), l.tab(Looks[0], r.URL(other, "/jobs/"+job))
	l.must(own.Says(".health", "live"))
	l.must(others.Says(".health", "live"))
	var term string
	l.must(others.Value(`document.querySelector(".health").textContent`, &term))
	r.Coordinators[leader].Kill()
	l.must(own.Says(".banner", "does not answer"))
	l.must(own.Until("what is old is dimmed", `document.querySelector("main.stale") !== null`))
	l.must(others.Until("another term is shown", fmt.Sprintf(`(() => {
		const t = document.querySelector(".health").textContent;
		return t.startsWith("live") && t !== %q })()`, term)))
	goesOn(l, others)
	l.must(r.StartCoordinator(leader))
	l.must(own.Until("the page is live again", `document.querySelector(".banner") === null &&
		document.querySelector(".health").textContent.startsWith("live")`))
	goesOn(l, own)
}

// stopResume: a job is stopped, gone on with from an older checkpoint, and stopped at once.
func stopResume(l *looking, ctx context.Context, r *Rig) {
	tab := l.tab(Looks[2], r.URL(0, "/jobs/"+job))
	is := func(state string) {
		l.Helper()
		_, err := r.Await(ctx, job, "is "+state, func(j *clusterpb.Job) bool { return j.State == state })
		l.must(err)
		l.must(tab.Says(".title .state", state))
	}
	l.must(tab.Press("main", "Stop …"))
	l.must(tab.Press("dialog", "Cancel"))
	goesOn(l, tab)
	l.must(tab.Press("main", "Stop …"))
	l.must(tab.Press("dialog", "Stop"))
	is("stopped")
	j, err := r.Client.GetJob(ctx, &clusterpb.GetJobRequest{Name: job})
	l.must(err)
	l.must(tab.Until("the checkpoint of the stop is listed", fmt.Sprintf(
		`document.querySelector("#checkpoints").closest("section").querySelector("tbody th")?.textContent
			.replaceAll(",", "") === "%d"`, j.CommittedStep)))
	l.must(tab.Do(chromedp.Evaluate(`[...document.querySelectorAll("#checkpoints")][0].closest("section")
		.querySelectorAll("tbody tr")[1].querySelector("button").click()`, nil)))
	l.must(tab.Press("dialog", "Go on from here"))
	is("running")
	goesOn(l, tab)
	l.must(tab.Press("main", "Stop at once …"))
	l.must(tab.Press("dialog", "Stop at once"))
	is("stopped")
	l.must(tab.Press("main", "Resume …"))
	l.must(tab.Press("dialog", "Resume"))
	is("running")
	if all := strings.Join(tab.Faults(), "\n"); all != "" {
		l.Error(all)
	}
}
