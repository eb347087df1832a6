// Command screenshots.d takes pictures of every page of the dashboard, on a cluster of its own that trains: light and
// dark, wide and as on a phone. scripts/screenshots runs it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"colonnade/proto/clusterpb"
	"colonnade/scripts/browser"
)

func main() {
	out := flag.String("out", "screenshots", "directory for the pictures; it is made if it is not there")
	readme := flag.String("readme", "", "file for the README's picture as well")
	only := flag.Bool("terminal", false, "record a terminal only, and take no pictures")
	steps := flag.Int("steps", 500, "steps that the first job does before pictures are taken")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *out, *readme, *only, uint64(*steps)); err != nil {
		fmt.Fprintln(os.Stderr, "screenshots:", err)
		os.Exit(1)
	}
}

// jobs are what the cluster trains.
const first, second, third, fourth = "alexnet-32", "alexnet-32-fast", "alexnet-32-next", "alexnet-32-later"

func run(ctx context.Context, out, readme string, terminalOnly bool, steps uint64) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "colonnade-screenshots-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b, err := browser.Open(ctx)
	if err != nil {
		return err
	}
	defer b.Close()
	fmt.Println("starting three coordinators and three workers")
	r, err := browser.NewRig(ctx, dir, 3, 3)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := train(ctx, r, steps); err != nil {
		return err
	}
	if readme != "" {
		look := browser.Look{Width: 1200, Height: 860}
		if err := picture(b, look, r.URL(0, "/jobs/"+first), readme, false, ""); err != nil {
			return err
		}
		fmt.Println(readme)
	}
	cast := filepath.Join(out, "terminal.cast")
	if err := record(ctx, r, cast); err != nil {
		return fmt.Errorf("record a terminal: %w", err)
	}
	fmt.Println(cast)
	if terminalOnly {
		return nil
	}
	if err := r.Examples(ctx, first); err != nil {
		return err
	}
	return pictures(b, r, out)
}

// pictures takes those of every page, in every way to look at it.
func pictures(b *browser.Browser, r *browser.Rig, out string) error {
	standIn, end := browser.StandIn("") // has what this machine may not have
	defer end()
	job := r.URL(0, "/jobs/"+first)
	for _, look := range browser.Looks {
		for _, p := range []struct {
			name, url, press string
		}{{"jobs", r.URL(0, "/"), ""}, {"job", job, ""}, {"cluster", r.URL(0, "/cluster"), ""},
			{"gpus", standIn + "/cluster", ""}, {"logs", r.URL(0, "/logs"), ""},
			{"compare", r.URL(0, "/compare?job="+first+"&job="+second), ""},
			{"dialog", job, "Stop"}, {"fork", job, "Fork"}, {"queue", job, "Queue"}} {
			path := filepath.Join(out, p.name+"-"+look.Name+".png")
			if err := picture(b, look, p.url, path, p.press == "", p.press); err != nil {
				return err
			}
			fmt.Println(path)
		}
	}
	return nil
}

// train has a job come to its end, one lose a worker on its way, and one wait.
func train(ctx context.Context, r *browser.Rig, steps uint64) error {
	past := func(step uint64) func(*clusterpb.Job) bool {
		return func(j *clusterpb.Job) bool { return j.Step >= step }
	}
	if err := r.Submit(ctx, second, 120, 0.005); err != nil {
		return err
	}
	if _, err := r.Await(ctx, second, "is done", func(j *clusterpb.Job) bool { return j.State == "done" }); err != nil {
		return err
	}
	if err := r.Submit(ctx, first, 100_000, 0.003); err != nil {
		return err
	}
	j, err := r.Await(ctx, first, "is on its way", past(steps/2))
	if err != nil {
		return err
	}
	for i := range r.Workers {
		if j.Placement[1].WorkerName == fmt.Sprintf("worker-%d", i+1) {
			fmt.Println("killing", j.Placement[1].WorkerName)
			r.Workers[i].Kill()
			if _, err := r.Await(ctx, first, "has recovered", func(j *clusterpb.Job) bool {
				return j.Generation > 1 && j.State == "running"
			}); err != nil {
				return err
			}
			if err := r.StartWorker(i); err != nil {
				return err
			}
		}
	}
	for name, priority := range map[string]string{third: "0", fourth: "-3"} {
		if err := r.Submit(ctx, name, 1000, 0.01, "queue.min_workers=2", "queue.priority="+priority); err != nil {
			return err
		}
	}
	_, err = r.Await(ctx, first, "is half-way, with a checkpoint", func(j *clusterpb.Job) bool {
		return j.Step >= steps && j.CommittedStep > 0
	})
	return err
}

// awaited has an expression's promise be waited for.
func awaited(p *runtime.EvaluateParams) *runtime.EvaluateParams { return p.WithAwaitPromise(true) }

// picture takes one, after pressing a button if one is named.
func picture(b *browser.Browser, look browser.Look, url, path string, whole bool, press string) error {
	t, err := b.Tab(look)
	if err != nil {
		return err
	}
	defer t.Close()
	if err := t.Go(url); err != nil {
		return err
	}
	if err := t.Says(".health", "live"); err != nil {
		return err
	}
	if press != "" {
		if err := t.Press("main", press); err != nil {
			return err
		}
		if err := t.Until("the dialog is open", `document.querySelector("dialog[open]") !== null`); err != nil {
			return err
		}
	}
	// What the page asks for behind the stream's first look is there when the network has been still for a while.
	var quiet bool
	if err := t.Do(chromedp.Poll(`document.querySelectorAll("main section").length > 0 &&
		!document.body.textContent.includes("Asking the coordinator")`, &quiet), chromedp.Evaluate(
		`new Promise((done) => setTimeout(() => done(true), 1500))`, &quiet, awaited)); err != nil {
		return err
	}
	return t.Picture(path, whole)
}
