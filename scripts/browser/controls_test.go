package browser

import (
	"context"
	"fmt"
	"strings"

	"github.com/chromedp/chromedp"

	"colonnade/proto/clusterpb"
)

// checkpointRow is the newest checkpoint's line.
const checkpointRow = `section:has(#checkpoints) tbody tr:first-child`

// isNow waits until a job is in a state, and the page says so.
func isNow(l *looking, ctx context.Context, r *Rig, tab *Tab, name, state string) *clusterpb.Job {
	l.Helper()
	j, err := r.Await(ctx, name, "is "+state, func(j *clusterpb.Job) bool { return j.State == state })
	l.must(err)
	l.must(tab.Says(".title .state", state))
	return j
}

// controls: a checkpoint is written, pinned, unpinned, forked and deleted; a job is paused, resumed and deleted. What
// the coordinator refuses is said in the dialog, in a line.
func controls(l *looking, ctx context.Context, r *Rig) {
	tab := l.tab(Looks[0], r.URL(1, "/jobs/"+job))
	before := isNow(l, ctx, r, tab, job, "running")
	l.must(tab.Press("main", "Checkpoint now …"))
	l.must(tab.Press("dialog", "Write one"))
	_, err := r.Await(ctx, job, "has another checkpoint", func(j *clusterpb.Job) bool {
		return j.CommittedStep > before.CommittedStep && j.Generation > before.Generation && j.State == "running"
	})
	l.must(err)

	l.must(tab.Press("main", "Pause …"))
	l.must(tab.Press("dialog", "Pause"))
	j := isNow(l, ctx, r, tab, job, "paused")
	step := fmt.Sprintf(`document.querySelector("%s th")?.textContent.replaceAll(",", "") === "%d"`, checkpointRow,
		j.CommittedStep)
	l.must(tab.Until("the checkpoint of the pause is listed", step))

	pinned := func() bool {
		list, err := r.Client.ListCheckpoints(ctx, &clusterpb.GetJobRequest{Name: job})
		l.must(err)
		for _, c := range list.Checkpoints {
			if c.Step == j.CommittedStep {
				return c.Pinned
			}
		}
		return false
	}
	l.must(tab.Press(checkpointRow, "Pin …"))
	l.must(tab.Press("dialog", "Pin"))
	l.must(tab.Says(checkpointRow, "pinned"))
	if !pinned() {
		l.Error("the page says that the checkpoint is pinned, and it is not")
	}
	l.must(tab.Press(checkpointRow, "Delete …"))
	l.must(tab.Press("dialog", "Delete"))
	refused(l, tab)
	l.must(tab.Press("dialog", "Cancel"))
	l.must(tab.Press(checkpointRow, "Unpin …"))
	l.must(tab.Press("dialog", "Unpin"))
	l.must(tab.Until("it is unpinned", `!document.querySelector("`+checkpointRow+`").textContent.includes("pinned")`))

	fork(l, ctx, r, tab, j.CommittedStep)

	l.must(tab.Go(r.URL(1, "/jobs/"+job)))
	l.must(tab.Press("main", "Resume …"))
	l.must(tab.Press("dialog", "Resume"))
	isNow(l, ctx, r, tab, job, "running")
	goesOn(l, tab)
}

// refused waits until the dialog says why, in one line.
func refused(l *looking, tab *Tab) {
	l.Helper()
	const said = `document.querySelector("dialog [role=alert]")`
	l.must(tab.Until("the dialog says why not", said+` !== null && `+said+`.textContent.length > 10`))
	var text string
	l.must(tab.Value(said+".textContent", &text))
	if strings.Contains(text, "\n") {
		l.Errorf("more than a line: %q", text)
	}
}

// fork: a wrong setting is refused; a right one leads to the new job's page, which says where it came from; it is
// stopped and deleted, and the page of all jobs has it no more.
func fork(l *looking, ctx context.Context, r *Rig, tab *Tab, step uint64) {
	const name = "a-fork"
	l.must(tab.Press(checkpointRow, "Fork …"))
	l.must(tab.Fill(`dialog input[name="name"]`, name))
	l.must(tab.Fill(`dialog textarea`, "recipe.speed=9"))
	l.must(tab.Press("dialog", "Fork"))
	refused(l, tab)
	l.must(tab.Fill(`dialog textarea`, "recipe.rate=0.0005\n\nevaluate.every=0"))
	l.must(tab.Press("dialog", "Fork"))
	l.must(tab.Says("main h1", name))
	l.must(tab.Says("main", fmt.Sprintf("forked from %s", job)))
	j, err := r.Client.GetJob(ctx, &clusterpb.GetJobRequest{Name: name})
	l.must(err)
	if j.Parent.GetStep() != step || j.Parent.GetJob() != job {
		l.Errorf("its parent is %v", j.Parent)
	}
	l.must(tab.Press("main", "Stop at once …"))
	l.must(tab.Press("dialog", "Stop at once"))
	isNow(l, ctx, r, tab, name, "stopped")
	l.must(tab.Press("main .title", "Delete …"))
	l.must(tab.Press("dialog", "Delete"))
	l.must(tab.Says("main h1", "Jobs"))
	l.must(tab.Until("the job is gone", fmt.Sprintf(`![...document.querySelectorAll("main th a")].some((e) =>
		e.textContent === %q)`, name)))
}

// logLines: they are there, more come, and filters leave the rest out.
func logLines(l *looking, ctx context.Context, r *Rig) {
	tab := l.tab(Looks[0], r.URL(2, "/logs"))
	const count = `document.querySelectorAll(".logs li:not(.none)").length`
	l.must(tab.Until("there are lines", count+" > 3"))
	l.must(tab.Fill(`input[aria-label="Filter lines"]`, "no such text anywhere"))
	l.must(tab.Until("no line is left", count+" === 0"))
	l.must(tab.Fill(`input[aria-label="Filter lines"]`, "GENERATION="))
	l.must(tab.Until("lines that match are left", count+` > 0 && [...document.querySelectorAll(".logs .said")].every((e) =>
		e.textContent.includes("generation="))`))
	var generation uint64
	// Workers say that they begin anew. On a busy machine the job may be recovering just now.
	l.must(r.Until(ctx, "a job that runs writes a checkpoint", func(ctx context.Context) bool {
		j, err := r.Client.CheckpointNow(ctx, &clusterpb.CheckpointNowRequest{Name: job})
		generation = j.GetGeneration() + 1
		return err == nil
	}))
	l.must(tab.Says(".logs", fmt.Sprintf("generation=%d", generation)))
	l.must(tab.Choose(`select[aria-label="Level"]`, "error"))
	l.must(tab.Until("no line is as grave", count+" === 0"))
}

// pictures: the kernels of both columns by step, a checkpoint saved, and test images once a worker has looked at them.
func pictures(l *looking, ctx context.Context, r *Rig) {
	tab := l.tab(Looks[0], r.URL(1, "/jobs/"+job))
	const loaded = `[...document.querySelectorAll(".mosaics img")].filter((i) =>
		i.complete && i.naturalWidth > 10).length`
	l.must(tab.Until("the kernels of both columns are there", loaded+" === 2"))
	const shown = `document.querySelector(".mosaics img").alt`
	var newest string
	l.must(tab.Value(shown, &newest))
	l.must(tab.set(`.slider input`, "0", "input"))
	l.must(tab.Until("those of an older checkpoint are shown", fmt.Sprintf("%s !== %q && %s === 2", shown,
		newest, loaded)))
	var bytes float64
	l.must(tab.Do(chromedp.Evaluate(`fetch("/api/v1/jobs/`+job+`/checkpoints").then((r) => r.json()).then((all) =>
		fetch("/api/v1/jobs/`+job+`/checkpoints/" + all.checkpoints.at(-1).step + "/safetensors")).then((r) =>
		r.arrayBuffer()).then((b) => b.byteLength)`, &bytes, awaitPromise)))
	if bytes < 1e6 {
		l.Errorf("a checkpoint as safetensors has %g bytes", bytes)
	}
	l.must(tab.Says("main", "worker examples --checkpoint"))
	l.must(r.Examples(ctx, job))
	l.must(tab.Do(chromedp.Reload()))
	l.must(tab.Until("eight test images have five guesses each", `document.querySelectorAll(".examples li").length === 8 &&
		document.querySelectorAll(".examples .guess").length >= 40 && document.querySelectorAll(".nearest").length === 5`))
}

// evaluations: the newest ten are shown, and all when they are asked for.
func evaluations(l *looking, ctx context.Context, r *Rig) {
	_, err := r.Await(ctx, job, "has many evaluations", func(j *clusterpb.Job) bool { return len(j.Evaluations) > 11 })
	l.must(err)
	tab := l.tab(Looks[2], r.URL(1, "/jobs/"+job))
	const rows = `document.querySelectorAll("section:has(#evaluations) tbody tr").length`
	l.must(tab.Until("ten are shown", rows+" === 10"))
	l.must(tab.Press("section:has(#evaluations)", "all "))
	l.must(tab.Until("all are shown", rows+" > 11"))
	l.must(tab.Press("section:has(#evaluations)", "newest"))
	l.must(tab.Until("ten are shown again", rows+" === 10"))
}

// queue: jobs that wait stand in the order they will have workers in, each with its reason, and a lower priority puts
// the first behind the second.
func queue(l *looking, ctx context.Context, r *Rig) {
	for _, name := range []string{"third", "fourth"} {
		l.must(r.Submit(ctx, name, 500, 0.01, "queue.min_workers=2"))
	}
	tab := l.tab(Looks[0], r.URL(0, "/"))
	first := func(name string) string {
		return fmt.Sprintf(`(() => { const rows = [...document.querySelectorAll("section:has(#waiting) tbody tr")];
			const all = rows.filter((r) => /^\d+$/.test(r.querySelector("td").textContent)); return all.length >= 2 &&
			all[0].querySelector("td").textContent === "1" && all[0].querySelector("th a").textContent === %q &&
			all.every((r) => r.querySelector(".why").textContent.length > 10) })()`, name)
	}
	l.must(tab.Until("the third job is first", first("third")))
	l.must(tab.Press(`section:has(#waiting) tbody tr:first-child`, "Queue …"))
	l.must(tab.Fill(`dialog input[name="priority"]`, "-5"))
	l.must(tab.Press("dialog", "Change"))
	l.must(tab.Until("the fourth job is first", first("fourth")))
	j, err := r.Client.GetJob(ctx, &clusterpb.GetJobRequest{Name: "third"})
	l.must(err)
	if j.Priority != -5 || j.MinWorkers != 2 {
		l.Errorf("priority %d, at least %d workers", j.Priority, j.MinWorkers)
	}
	for _, name := range []string{"third", "fourth"} {
		_, err := r.Client.StopJob(ctx, &clusterpb.StopJobRequest{Name: name, Now: true})
		l.must(err)
	}
}
