package shard

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Text draws the plan for people, at most 80 signs wide for the networks that come with the program: a row for each
// layer with what every column owns, its parameters and its multiply-adds, and between layers the exchanges with what
// crosses. All numbers are of one image, forward; floats are float32. From three columns on, neighbours with equal
// shares are drawn once.
func (p *Plan) Text(w io.Writer) error {
	d := &drawing{p: p, groups: p.groups()}
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
	p      *Plan
	groups []Span // columns that are drawn together
	b      strings.Builder
}

// groups puts neighbouring columns together that do equally much of every layer; up to two columns stay apart.
func (p *Plan) groups() []Span {
	var out []Span
	for c := range p.Columns {
		if p.Columns > 2 && c > 0 && p.alike(c-1, c) {
			out[len(out)-1].Count++
			continue
		}
		out = append(out, Span{c, 1})
	}
	return out
}

func (p *Plan) alike(a, b int) bool {
	return !slices.ContainsFunc(p.Layers, func(l LayerPlan) bool {
		return l.Columns[a].Own.Count != l.Columns[b].Own.Count || l.Columns[a].MACs != l.Columns[b].MACs
	})
}

func (d *drawing) heading() {
	p := d.p
	var params, macs, floats, logits int64
	for c := range p.Columns {
		params += p.Parameters(c)
		macs += p.MACs(c)
		for to := range p.Columns {
			floats += p.Crossing(c, to, false)
			logits += p.Crossing(c, to, true) - p.Crossing(c, to, false)
		}
	}
	n := p.Network
	of := Shape{n.Input.Channels[0], n.Input.Height, n.Input.Width}
	fmt.Fprintf(&d.b, "%s for images of %s in %s\n\n", n.Name, of.size(), plural(p.Columns, "column"))
	fmt.Fprintf(&d.b, "parameters     %s\nmultiply-adds  %s (MACs) an image forward\n", commas(params), commas(macs))
	if p.Columns > 1 {
		fmt.Fprintf(&d.b, "crossing       %s floats (%s) an image forward, as many back\n", commas(floats), kib(floats))
	}
	if logits > 0 {
		fmt.Fprintf(&d.b, "               %s logits (%s), forward only\n", commas(logits), kib(logits))
	}
	d.b.WriteString("\n")
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Cells of a row: the layer, its whole output, and for each group three: maps, parameters, multiply-adds.
const (
	cellsBefore = 2
	cellsEach   = 3
)

func (d *drawing) titles() []string {
	row := []string{"LAYER", "OUTPUT"}
	for _, g := range d.groups {
		switch {
		case g.Count > 1:
			row = append(row, fmt.Sprintf("COLUMNS %d-%d", g.First, g.First+g.Count-1))
		default:
			row = append(row, fmt.Sprintf("COLUMN %d", g.First))
		}
		row = append(row, "PARAMS", "MACS")
	}
	return row
}

func (d *drawing) input() []string {
	n := d.p.Network
	row := []string{"input", Shape{n.Input.Channels[0], n.Input.Height, n.Input.Width}.size()}
	for range d.groups {
		row = append(row, "all of it", "", "")
	}
	return row
}

// layer is a layer's row.
func (d *drawing) layer(l *LayerPlan) []string {
	row := []string{l.Layer.Name + l.Layer.detail(), l.Out.size()}
	for _, g := range d.groups {
		row = append(row, d.part(l, g)...)
	}
	return row
}

// part is what the columns of a group do of a layer, each.
func (d *drawing) part(l *LayerPlan, g Span) []string {
	c := l.Columns[g.First]
	maps := c.Own.text()
	switch {
	case l.Layer.Kind == Softmax && c.Own.Count > 0:
		return []string{"loss", "", ""}
	case c.Own.Count == 0:
		return []string{"-", "", ""}
	case g.Count > 1:
		maps = fmt.Sprintf("%d each", c.Own.Count)
	}
	if len(c.Blocks) == 0 {
		return []string{maps, "", ""}
	}
	params := d.p.Params[g.First][c.Bias].Len()
	for _, b := range c.Blocks {
		params += d.p.Params[g.First][b.Weight].Len()
	}
	return []string{maps, short(int64(params)), short(c.MACs)}
}

func (d *drawing) totals() []string {
	row := []string{"total", ""}
	for _, g := range d.groups {
		maps := ""
		if g.Count > 1 {
			maps = "each"
		}
		row = append(row, maps, short(d.p.Parameters(g.First)), short(d.p.MACs(g.First)))
	}
	return row
}

// table prints the rows under each other; an empty one is the exchange before the next layer.
func (d *drawing) table(rows [][]string) {
	width := make([]int, cellsBefore+cellsEach*len(d.groups))
	for _, row := range rows {
		for i, s := range row {
			width[i] = max(width[i], utf8.RuneCountInString(s))
		}
	}
	line := 2 * (len(width) - 1)
	for _, n := range width {
		line += n
	}
	rule := strings.Repeat("─", line) + "\n"
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
		d.row(row, width)
		if i == 0 {
			d.b.WriteString(rule)
		}
	}
}

// row prints names to the left and numbers to the right.
func (d *drawing) row(row []string, width []int) {
	var b strings.Builder
	for j, s := range row {
		space := strings.Repeat(" ", width[j]-utf8.RuneCountInString(s))
		if j >= cellsBefore && (j-cellsBefore)%cellsEach > 0 {
			b.WriteString(space + s + "  ")
		} else {
			b.WriteString(s + space + "  ")
		}
	}
	d.b.WriteString(strings.TrimRight(b.String(), " ") + "\n")
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
		if n := len(to); n > 1 && n == d.p.Columns-1 {
			whom = "the others"
		} else if n > 1 {
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

// short prints a number in thousands, millions or thousands of millions.
func short(n int64) string {
	switch v := float64(n); {
	case n < 1000:
		return fmt.Sprint(n)
	case n < 1_000_000:
		return fmt.Sprintf("%.1fk", v/1e3)
	case n < 1_000_000_000:
		return fmt.Sprintf("%.1fM", v/1e6)
	default:
		return fmt.Sprintf("%.2fG", v/1e9)
	}
}
