package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"colonnade/worker/data"
)

// packProgress prints how far packing is: one line that is written over on a terminal, a line every ten seconds
// elsewhere, nothing for what is done in two seconds.
type packProgress struct {
	out    io.Writer
	now    func() time.Time
	begun  time.Time
	shown  time.Time
	onLine bool // the cursor stands behind a line that is written over
}

func (p *packProgress) show(at data.Progress) {
	now := p.now()
	if p.begun.IsZero() {
		p.begun, p.shown = now, now.Add(-8*time.Second)
		if at.Resumed > 0 {
			fmt.Fprintf(p.out, "going on after %d of %d images\n", at.Resumed, at.Total)
		}
	}
	terminal, pause := isTerminal(p.out), 10*time.Second
	if terminal {
		pause = time.Second / 2
	}
	took := now.Sub(p.begun)
	if took < 2*time.Second || now.Sub(p.shown) < pause {
		return
	}
	p.shown = now
	done := at.Images + at.Skipped
	rate := float64(done-at.Resumed) / took.Seconds()
	left := time.Duration(float64(at.Total-done) / max(rate, 1e-9) * float64(time.Second))
	line := fmt.Sprintf("packed %d of %d images (%.0f %%), %.0f images/s, %s to go", done, at.Total,
		100*float64(done)/float64(max(at.Total, 1)), rate, left.Round(time.Second))
	if at.Skipped > 0 {
		line += fmt.Sprintf(", %d left out", at.Skipped)
	}
	if terminal {
		fmt.Fprintf(p.out, "\r\x1b[K%s", line)
		p.onLine = true
	} else {
		fmt.Fprintln(p.out, line)
	}
}

// end leaves the line that was written over.
func (p *packProgress) end() {
	if p.onLine {
		fmt.Fprintln(p.out)
	}
}

// isTerminal says whether lines can be written over.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
