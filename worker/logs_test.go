package main

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
)

// Lines go to the log and, of level INFO and above, to the coordinator, with what they are about; never too many.
func TestLogTap(t *testing.T) {
	var own strings.Builder
	tap := newLogTap(slog.NewTextHandler(&own, &slog.HandlerOptions{Level: slog.LevelDebug}))
	log := slog.New(tap).With("job", "j")
	log.Debug("too little")
	log.WithGroup("g").Warn("two\nlines", "generation", uint64(3), "cell", "r0c1", "step", 7, "err", io.EOF)
	got := tap.lines.take()
	if len(got) != 1 || got[0].Job != "j" || got[0].Generation != 3 || got[0].Cell != "r0c1" || got[0].Step != 7 ||
		got[0].Level != "WARN" || got[0].Text != "two; lines job=j generation=3 cell=r0c1 step=7 err=EOF" {
		t.Errorf("taken: %v", got)
	}
	if !strings.Contains(own.String(), "too little") || !strings.Contains(own.String(), "g.cell=r0c1") {
		t.Errorf("the worker's own log has\n%s", own.String())
	}
	for i := range waitingLogs + 5 {
		log.Info(fmt.Sprint(i) + strings.Repeat("ä", longestLog))
	}
	if got := tap.lines.take(); len(got) != waitingLogs || len(got[0].Text) > longestLog+3 {
		t.Errorf("%d lines wait, the first of %d bytes", len(got), len(got[0].Text))
	}
	log.Info("after")
	if got := tap.lines.take(); len(got) != 1 || got[0].LeftOut != 5 {
		t.Errorf("after too many: %v", got)
	}
}
