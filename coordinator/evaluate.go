package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"colonnade/coordinator/fsm"
	"colonnade/coordinator/raftnode"
	"colonnade/proto/clusterpb"
	"colonnade/shard/pack"
	"colonnade/shard/score"
)

// evaluateCmd is `coordinator evaluate`.
type evaluateCmd struct {
	clientFlags
	Jobs   []string `arg:"" optional:"" name:"JOB" help:"Job; of several the mean of their predictions, as the paper's ensembles."`
	Step   *uint64  `placeholder:"N" help:"Step. Default: each job's newest good checkpoint."`
	Views  int      `default:"1" help:"1: the centre; 10: corners, centre and their mirrors, averaged (paper, section 4.1)."`
	Images string   `name:"data" placeholder:"PACK" help:"Images to test on. Default: the test pack of the first job."`
	Batch  int      `default:"${batch}" help:"Images at once."`
	Busy   bool     `help:"Have workers take part that train, too, beside their cells: those get slower."`
	Wait   bool     `default:"true" negatable:"" help:"Wait for the end. Ctrl-C ends the waiting only."`
	List   bool     `xor:"what" help:"List the evaluations that are kept, of the jobs named or of all."`
	Show   *uint64  `xor:"what" placeholder:"ID" help:"Wait for an evaluation that was asked for before, and show what it came to."`
	Cancel *uint64  `xor:"what" placeholder:"ID" help:"End an evaluation that is under way."`
	localFlags
}

// Run evaluates checkpoints on the cluster's workers.
func (c *evaluateCmd) Run(con console) error {
	if c.Views != 1 && c.Views != 10 {
		return usagef("--views %d; use 1, the centre, or 10, the paper's", c.Views)
	}
	if c.Batch < 1 || c.Batch > 1<<16 {
		return usagef("--batch %d; give a number of images, e.g. %d", c.Batch, score.DefaultBatch)
	}
	picks := c.Show != nil || c.Cancel != nil
	switch {
	case !c.Local && (c.Pack != "" || c.Device != "" || c.Threads != 0 || c.Program != ""):
		return usagef("--pack, --device, --threads and --program say how this machine computes; add --local")
	case picks && len(c.Jobs) > 0:
		return usagef("an evaluation is named by its number alone; see: coordinator evaluate --list")
	case !picks && !c.List && len(c.Jobs) == 0:
		return usagef("name the job to test; see: coordinator job list")
	case c.List:
		return c.list(con)
	case c.Cancel != nil:
		return c.cancel(con)
	case c.Show != nil:
		return c.follow(con, *c.Show)
	case c.Local:
		return c.runLocal(con)
	}
	return c.request(con)
}

// request asks for an evaluation and follows it.
func (c *evaluateCmd) request(con console) error {
	r := &clusterpb.EvaluateRequest{Views: uint32(c.Views), Batch: uint32(c.Batch), Busy: c.Busy,
		Request: raftnode.NewID()} // the same however often it has to be asked
	for _, name := range c.Jobs {
		m := &clusterpb.EvaluateModel{Job: name}
		if c.Step != nil {
			m.Step, m.HasStep = *c.Step, true
		}
		r.Models = append(r.Models, m)
	}
	if c.Images != "" {
		p, err := packOf(c.Images)
		if err != nil {
			return err
		}
		r.Pack = &clusterpb.EvaluationPack{Path: p.Path, Id: p.ID, Images: uint64(p.Images), Channels: uint32(p.Channels),
			Height: uint32(p.Height), Width: uint32(p.Width), Classes: uint32(p.Classes)}
	}
	var e *clusterpb.EvaluationStatus
	err := c.ask(func(ctx context.Context, client clusterpb.OperatorClient) (err error) {
		e, err = client.Evaluate(ctx, r)
		return err
	})
	switch {
	case err != nil:
		return err
	case c.Wait:
		return c.follow(con, e.Id)
	case c.JSON:
		return printProto(con.out, e)
	}
	_, err = fmt.Fprintf(con.out, "evaluation %d of %s on %s, %d images; see what it comes to: coordinator evaluate "+
		"--show %d\n", e.Id, modelsOf(e), e.Pack.Path, e.Pack.Images, e.Id)
	return err
}

// follow waits for an evaluation's end and prints what it came to. Workers go on without a coordinator, so one that is
// away is waited for.
func (c *evaluateCmd) follow(con console, id uint64) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return c.call(ctx, func(ctx context.Context, client clusterpb.OperatorClient) error {
		v := &view{con: con}
		f := &evaluationView{view: v, json: c.JSON}
		for {
			last, err := f.watch(ctx, client, id, c.Timeout)
			v.clear()
			switch {
			case ctx.Err() != nil:
				v.note("evaluation %d goes on; see it: coordinator evaluate --show %d, end it: coordinator evaluate "+
					"--cancel %d", id, id, id)
				return nil
			case err == nil:
				return c.printEvaluation(con, last)
			case status.Code(err) != codes.Unavailable || !f.seen:
				return err
			}
			v.note("the coordinator is away; workers go on; looking for it for %v", c.Timeout)
			again := time.NewTimer(leaderPoll)
			select {
			case <-again.C:
			case <-ctx.Done():
				again.Stop()
			}
		}
	})
}

// evaluationView is what a watcher sees of an evaluation.
type evaluationView struct {
	view  *view
	json  bool
	seen  bool // it has been heard of
	began time.Time
	from  uint64 // passes then
	told  time.Time
	waits string
}

// watch shows an evaluation's progress until it has ended.
func (f *evaluationView) watch(ctx context.Context, client clusterpb.OperatorClient, id uint64,
	patience time.Duration) (*clusterpb.EvaluationStatus, error) {
	look, cancel := context.WithTimeout(ctx, patience) // a leader is found before a stream is asked for
	_, err := client.EvaluateList(look, &clusterpb.EvaluateListRequest{})
	cancel()
	if err != nil {
		return nil, err
	}
	stream, err := client.EvaluateWatch(ctx, &clusterpb.EvaluationId{Id: id})
	for err == nil {
		var e *clusterpb.EvaluationStatus
		if e, err = stream.Recv(); err != nil {
			break
		}
		f.seen = true
		if e.State != fsm.Running {
			return e, nil
		}
		f.show(e)
	}
	if errors.Is(err, io.EOF) {
		err = status.Error(codes.Unavailable, "the coordinator ended the watch before the evaluation ended")
	}
	return nil, err
}

// show tells how far an evaluation is, or what it waits for.
func (f *evaluationView) show(e *clusterpb.EvaluationStatus) {
	now := f.view.con.now()
	if f.waits != e.Reason {
		if f.waits = e.Reason; f.waits != "" {
			f.view.note("evaluation %d: %s", e.Id, e.Reason)
		}
	}
	if e.Reason != "" || len(e.Places) == 0 {
		return
	}
	if f.began.IsZero() {
		f.began, f.from, f.told = now, e.Passes, now
	}
	text := fmt.Sprintf("part %d of %d, on %s", min(e.Done+1, e.Parts), e.Parts, workersOf(e))
	if took := now.Sub(f.began); took > time.Second && e.Passes > f.from {
		left := time.Duration(float64(took) * float64(e.AllPasses-e.Passes) / float64(e.Passes-f.from))
		text += fmt.Sprintf(", %v left", left.Round(time.Second))
	}
	if !f.json && f.view.con.terminal {
		f.view.mu.Lock()
		defer f.view.mu.Unlock()
		f.view.move(e.AllPasses, e.Passes, text)
	} else if now.Sub(f.told) >= plainEvery {
		f.told = now
		f.view.note("evaluation %d: %s", e.Id, text)
	}
}

// workersOf says who computes, or what a single one does.
func workersOf(e *clusterpb.EvaluationStatus) string {
	if len(e.Places) > 1 {
		return fmt.Sprintf("%d workers", len(e.Places))
	}
	if p := e.Places[0]; p.Phase != "test" {
		return fmt.Sprintf("worker %s: %s", p.WorkerName, p.Phase)
	}
	return "worker " + e.Places[0].WorkerName
}

// modelsOf names an evaluation's models.
func modelsOf(e *clusterpb.EvaluationStatus) string { return strings.Join(modelNames(e), " and ") }

func modelNames(e *clusterpb.EvaluationStatus) (names []string) {
	for _, m := range e.Models {
		names = append(names, fmt.Sprintf("%s step %d", m.Job, m.Step))
	}
	return names
}

// errEvaluation is an evaluation that did not get to its end.
var errEvaluation = errors.New("evaluation")

// printEvaluation prints what an evaluation came to.
func (c *evaluateCmd) printEvaluation(con console, e *clusterpb.EvaluationStatus) error {
	if e.State != fsm.Done {
		return fmt.Errorf("%w %d is %s: %s; when that is mended ask again: coordinator evaluate %s", errEvaluation, e.Id,
			e.State, e.Reason, strings.Join(jobsOf(e), " "))
	}
	t, err := tallyOf(e)
	if err != nil {
		return err
	}
	r := score.NewReport(t, classNames(e, len(t.ByClass)))
	r.Models, r.Data, r.Identity, r.Views = modelNames(e), e.Pack.Path, e.Pack.Id, int(e.Views)
	if c.JSON {
		return printJSON(con.out, r)
	}
	return r.Print(con.out)
}

func jobsOf(e *clusterpb.EvaluationStatus) (names []string) {
	for _, m := range e.Models {
		names = append(names, m.Job)
	}
	return names
}

// tallyOf is what an evaluation came to, which must have the digest that comes with it.
func tallyOf(e *clusterpb.EvaluationStatus) (*score.Tally, error) {
	s := e.GetSum()
	t := score.NewTally(int(e.Classes))
	t.Score = score.Score{Images: s.GetImages(), Loss: s.GetLoss(), Top1: s.GetTop1Errors(), Top5: s.GetTop5Errors()}
	for _, k := range s.GetClasses() {
		if int(k.Label) >= len(t.ByClass) {
			return nil, fmt.Errorf("%w %d: class %d of %d", errEvaluation, e.Id, k.Label, len(t.ByClass))
		}
		t.ByClass[k.Label] = score.Score{Images: k.Images, Loss: k.Loss, Top1: k.Top1Errors, Top5: k.Top5Errors}
	}
	for _, k := range s.GetConfused() {
		if err := t.Set(score.Confused{Label: int(k.Label), As: int(k.TakenFor), Images: k.Images}); err != nil {
			return nil, err
		}
	}
	if d := t.Digest(); string(d[:]) != string(e.Digest) {
		return nil, fmt.Errorf("%w %d: its figures have digest %x, not %x; this program is of another version than the "+
			"coordinator", errEvaluation, e.Id, d, e.Digest)
	}
	return t, nil
}

// classNames are those that the pack has, if it lies on this machine; numbers otherwise.
func classNames(e *clusterpb.EvaluationStatus, classes int) []string {
	names := make([]string, classes)
	for i := range names {
		names[i] = strconv.Itoa(i)
	}
	if h, err := pack.ReadFile(e.Pack.Path); err == nil && fmt.Sprintf("%x", h.ID) == e.Pack.Id {
		copy(names, h.Classes)
	}
	return names
}

// list prints the evaluations that are kept.
func (c *evaluateCmd) list(con console) error {
	jobs := c.Jobs
	if len(jobs) == 0 {
		jobs = []string{""}
	}
	return c.ask(func(ctx context.Context, client clusterpb.OperatorClient) error {
		all := &clusterpb.EvaluateListReply{}
		for _, name := range jobs {
			reply, err := client.EvaluateList(ctx, &clusterpb.EvaluateListRequest{Job: name})
			if err != nil {
				return err
			}
			all.Evaluations = append(all.Evaluations, reply.Evaluations...)
		}
		if c.JSON {
			return printProto(con.out, all)
		}
		if len(all.Evaluations) == 0 {
			_, err := fmt.Fprintln(con.out, "no evaluations; ask for one with: coordinator evaluate JOB")
			return err
		}
		w := tabwriter.NewWriter(con.out, 0, 4, 2, ' ', 0)
		fmt.Fprintln(w, "ID\tASKED FOR\tOF\tON\tVIEWS\tSTATE\tTOP-1\tTOP-5")
		for _, e := range all.Evaluations {
			state, top1, top5 := e.State, "", ""
			switch n := float64(max(e.Sum.GetImages(), 1)); {
			case e.State == fsm.Done:
				top1, top5 = fmt.Sprintf("%.2f %%", 100*e.Sum.Top1Errors/n), fmt.Sprintf("%.2f %%", 100*e.Sum.Top5Errors/n)
			case e.State == fsm.Running:
				state = fmt.Sprintf("%d of %d parts", e.Done, e.Parts)
			}
			if e.Reason != "" {
				state += ": " + e.Reason
			}
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n", e.Id, e.Requested.AsTime().Local().Format(time.DateTime),
				modelsOf(e), e.Pack.Path, e.Views, state, top1, top5)
		}
		return w.Flush()
	})
}

// cancel ends an evaluation.
func (c *evaluateCmd) cancel(con console) error {
	return c.ask(func(ctx context.Context, client clusterpb.OperatorClient) error {
		e, err := client.EvaluateCancel(ctx, &clusterpb.EvaluationId{Id: *c.Cancel})
		if err != nil {
			return err
		}
		if c.JSON {
			return printProto(con.out, e)
		}
		_, err = fmt.Fprintf(con.out, "evaluation %d is %s\n", e.Id, e.State)
		return err
	})
}
