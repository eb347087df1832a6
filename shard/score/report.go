package score

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// Report is what an evaluation came to, for people and as JSON.
type Report struct {
	Models    []string       `json:"models"`
	Data      string         `json:"data"`
	Identity  string         `json:"identity"` // of the pack
	Images    uint64         `json:"images"`
	Views     int            `json:"views"`
	Loss      float64        `json:"loss"`       // mean, in nats
	Top1      float64        `json:"top1_error"` // share of 1
	Top5      float64        `json:"top5_error"` // share of 1
	Classes   []ClassScore   `json:"classes"`    // of which there are images
	Confusion []ConfusedPair `json:"confusion"`  // all that is not zero, by label
	Digest    string         `json:"digest"`     // of all figures: Tally.Digest

	names []string       // of the classes
	worst []ConfusedPair // the most frequent mistakes
}

// ClassScore is what the images of a class came to.
type ClassScore struct {
	Class  int     `json:"class"`
	Name   string  `json:"name"`
	Images uint64  `json:"images"`
	Loss   float64 `json:"loss"`
	Top1   float64 `json:"top1_error"`
	Top5   float64 `json:"top5_error"`
}

// ConfusedPair is how many images of a label were taken for a class.
type ConfusedPair struct {
	Label  int    `json:"label"`
	As     int    `json:"as"`
	Images uint64 `json:"images"`
}

// NewReport reports a tally. names are those of all its classes.
func NewReport(t *Tally, names []string) *Report {
	n := float64(max(t.Images, 1))
	r := &Report{Images: t.Images, Loss: t.Loss / n, Top1: t.Top1 / n, Top5: t.Top5 / n, names: names,
		Digest: fmt.Sprintf("%x", t.Digest())}
	for i, s := range t.ByClass {
		if s.Images > 0 {
			n := float64(s.Images)
			r.Classes = append(r.Classes, ClassScore{i, names[i], s.Images, s.Loss / n, s.Top1 / n, s.Top5 / n})
		}
	}
	for _, x := range t.Cells() {
		r.Confusion = append(r.Confusion, ConfusedPair(x))
	}
	for _, x := range t.Worst(10) {
		r.worst = append(r.worst, ConfusedPair(x))
	}
	return r
}

// Of so many classes all are printed, of more the worst; of so few the confusion matrix too.
const (
	fewClasses = 30
	atAGlance  = 12
)

// Print writes the report for people.
func (r *Report) Print(out io.Writer) error {
	views := "the centre"
	if r.Views > 1 {
		views = fmt.Sprintf("%d views", r.Views)
	}
	fmt.Fprintf(out, "%s on %s\n%d images, %s: loss %.4f, top-1 error %.2f %%, top-5 error %.2f %%\n",
		strings.Join(r.Models, " and "), r.Data, r.Images, views, r.Loss, 100*r.Top1, 100*r.Top5)
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	shown := slices.Clone(r.Classes)
	if len(shown) > fewClasses {
		slices.SortStableFunc(shown, func(a, b ClassScore) int { return cmp.Compare(b.Top1, a.Top1) })
		shown = shown[:10]
		fmt.Fprint(w, "\nthe ten classes with most errors")
	}
	fmt.Fprintln(w, "\nCLASS\tNAME\tIMAGES\tLOSS\tTOP-1 ERROR\tTOP-5 ERROR")
	for _, c := range shown {
		fmt.Fprintf(w, "%d\t%s\t%d\t%.4f\t%.2f %%\t%.2f %%\n", c.Class, c.Name, c.Images, c.Loss, 100*c.Top1, 100*c.Top5)
	}
	if len(r.names) <= atAGlance {
		r.matrix(w, len(r.names))
	} else if len(r.worst) > 0 {
		fmt.Fprintln(w, "\nTAKEN FOR\t\tIMAGES")
		for _, x := range r.worst {
			fmt.Fprintf(w, "%s\t%s\t%d\n", r.names[x.Label], r.names[x.As], x.Images)
		}
	}
	fmt.Fprintf(w, "\ndigest %s\n", r.Digest)
	return w.Flush()
}

// matrix prints the confusion matrix: a row for each label, a column for each class it was taken for.
func (r *Report) matrix(w io.Writer, classes int) {
	fmt.Fprint(w, "\nLABEL")
	for k := range classes {
		fmt.Fprintf(w, "\tas %d", k)
	}
	fmt.Fprintln(w)
	counts := map[[2]int]uint64{}
	for _, x := range r.Confusion {
		counts[[2]int{x.Label, x.As}] = x.Images
	}
	for i := range classes {
		fmt.Fprint(w, i)
		for k := range classes {
			fmt.Fprintf(w, "\t%d", counts[[2]int{i, k}])
		}
		fmt.Fprintln(w)
	}
}
