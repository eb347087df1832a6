package shard

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Text draws the plan: a row for each layer with what every column computes and owns, and between layers the exchanges
// with what crosses, an image. Multiply-adds are forward; floats are float32.
func (p *Plan) Text(w io.Writer) error {
	d := &drawing{p: p}
	d.heading()
	rows := [][]string{d.titles(), d.input()}
	for i := range p.Layers {
		if e := p.Layers[i].Exchange; e >= 0 {
			rows = append(rows, nil) // where the exchange goes
		}
		rows = append(rows, d.layer(&p.Layers[i]))
	}
	rows = append(rows, d.totals())
	d.table(rows)
	_, err := io.WriteString(w, d.b.String())
	return err
}

// drawing builds the text.
type drawing struct {
	p *Plan
	b strings.Builder
}

func (d *drawing) heading() {
	p := d.p
	var params, macs int64
	for c := range p.Columns {
		params += p.Parameters(c)
		macs += p.MACs(c)
	}
	columns := "1 column"
	if p.Columns > 1 {
		columns = fmt.Sprintf("%d columns", p.Columns)
	}
	fmt.Fprintf(&d.b, "%s in %s: %s parameters, %s multiply-adds an image forward\n",
		p.Network.Name, columns, commas(params),
		commas(macs))
	if p.Columns > 1 {
		var floats, logits int64
		for _, e := range p.Exchanges {
			for _, m := range e.Moves {
				if e.Logits {
					logits += int64(m.Shape.Len())
				} else {
					floats += int64(m.Shape.Len())
				}
			}
		}
		fmt.Fprintf(&d.b, "crossing an image: %s floats (%s) of activations forward, as many gradients back",
			commas(floats), kib(floats))
		if logits > 0 {
			fmt.Fprintf(&d.b, ", %s logits", commas(logits))
		}
		d.b.WriteString("\n")
	}
	d.b.WriteString("\n")
}

func (d *drawing) titles() []string {
	row := []string{"LAYER", "WHOLE"}
	for c := range d.p.Columns {
		row = append(row, fmt.Sprintf("COLUMN %d", c))
	}
	return row
}

func (d *drawing) input() []string {
	n := d.p.Network
	row := []string{"input", Shape{n.Input.Channels[0], n.Input.Height, n.Input.Width}.size()}
	for range d.p.Columns {
		row = append(row, "all of it")
	}
	return row
}

// layer is a layer's row.
func (d *drawing) layer(l *LayerPlan) []string {
	row := []string{l.Layer.Name + l.Layer.detail(), l.Out.size()}
	for c := range l.Columns {
		row = append(row, d.part(l, c))
	}
	return row
}

// part is what one column does of a layer.
func (d *drawing) part(l *LayerPlan, column int) string {
	c := l.Columns[column]
	switch {
	case l.Layer.Kind == Softmax && c.Own.Count > 0:
		return "loss of all, gradient of own"
	case c.Own.Count == 0:
		return "-"
	}
	s := c.Own.text()
	if len(c.Blocks) == 0 {
		return s
	}
	params := 0
	for _, b := range c.Blocks {
		params += d.p.Params[column][b.Weight].Len()
	}
	if c.Bias >= 0 {
		params += d.p.Params[column][c.Bias].Len()
	}
	return fmt.Sprintf("%s: %s par, %s mac", s, short(int64(params)), short(c.MACs))
}

func (d *drawing) totals() []string {
	row := []string{"total", ""}
	for c := range d.p.Columns {
		row = append(row, fmt.Sprintf("%s par, %s mac", short(d.p.Parameters(c)), short(d.p.MACs(c))))
	}
	return row
}

// table prints the rows under each other; an empty one is the exchange before the next layer.
func (d *drawing) table(rows [][]string) {
	width := make([]int, 2+d.p.Columns)
	for _, row := range rows {
		for i, s := range row {
			width[i] = max(width[i], utf8.RuneCountInString(s))
		}
	}
	line := 0
	for _, n := range width {
		line += n + 2
	}
	rule := strings.Repeat("─", line-2) + "\n"
	exchange := 0
	for i, row := range rows {
		if row == nil {
			d.exchange(&d.p.Exchanges[exchange])
			exchange++
			continue
		}
		if i == len(rows)-1 {
			d.b.WriteString(rule)
		}
		for j, s := range row {
			if j == len(row)-1 {
				d.b.WriteString(s)
				break
			}
			fmt.Fprintf(&d.b, "%s%s", s, strings.Repeat(" ", width[j]-utf8.RuneCountInString(s)+2))
		}
		d.b.WriteString("\n")
		if i == 0 {
			d.b.WriteString(rule)
		}
	}
}

// exchange prints what moves before a layer.
func (d *drawing) exchange(e *Exchange) {
	what := "maps"
	if e.Logits {
		what = "logits"
	}
	fmt.Fprintf(&d.b, "  ╞═ exchange %d: %s needs all %s of %s\n", e.ID, e.Before, what, e.Of)
	for i := 0; i < len(e.Moves); {
		m := e.Moves[i] // what a column sends is the same for all who need it
		var to []string
		for ; i < len(e.Moves) && e.Moves[i].From == m.From; i++ {
			to = append(to, fmt.Sprint(e.Moves[i].To))
		}
		branch := "├"
		if i == len(e.Moves) {
			branch = "└"
		}
		whom := "column " + to[0]
		if n := len(to); n > 1 {
			whom = fmt.Sprintf("columns %s and %s", strings.Join(to[:n-1], ", "), to[n-1])
		}
		fmt.Fprintf(&d.b, "  %s─ column %d sends %s its %s %s: %s floats, %s\n", branch, m.From, whom, what, m.Maps.text(),
			commas(int64(m.Shape.Len())), kib(int64(m.Shape.Len())))
	}
}

// detail is a layer's geometry, for people.
func (l *Layer) detail() string {
	switch l.Kind {
	case Conv, Pool:
		s := fmt.Sprintf(" %dx%d", l.Kernel, l.Kernel)
		if l.Stride > 1 {
			s += fmt.Sprintf("/%d", l.Stride)
		}
		return s
	case Dropout:
		return fmt.Sprintf(" %g", l.Keep)
	}
	return ""
}

// size is channels x height x width, or the number of features.
func (s Shape) size() string {
	if s.H == 1 && s.W == 1 {
		return fmt.Sprint(s.C)
	}
	return fmt.Sprintf("%dx%dx%d", s.C, s.H, s.W)
}

// text is the first and the last map.
func (s Span) text() string {
	if s.Count == 1 {
		return fmt.Sprint(s.First)
	}
	return fmt.Sprintf("%d-%d", s.First, s.First+s.Count-1)
}

// kib is how much memory so many floats take.
func kib(floats int64) string {
	if floats < 1024 {
		return fmt.Sprintf("%d bytes", 4*floats)
	}
	return fmt.Sprintf("%.1f KiB", float64(floats)*4/1024)
}

// commas prints a number in groups of three digits.
func commas(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// short prints a number to three digits.
func short(n int64) string {
	switch v := float64(n); {
	case n < 1000:
		return fmt.Sprint(n)
	case n < 1_000_000:
		return fmt.Sprintf("%.3g k", v/1e3)
	default:
		return fmt.Sprintf("%.4g M", v/1e6)
	}
}
