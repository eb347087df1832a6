// Package promtext writes metrics in Prometheus' text format, for both programs: it is forty lines, and promtool checks
// what they come to.
package promtext

import (
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Exposition writes metrics: a family after another, each with its help and type.
type Exposition struct{ b strings.Builder }

// Family begins a family. Kind is gauge or counter.
func (e *Exposition) Family(name, kind, help string) {
	fmt.Fprintf(&e.b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

// Sample writes one value; labels are name, value, name, value.
func (e *Exposition) Sample(name string, v float64, labels ...string) {
	e.b.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		e.b.WriteString(map[bool]string{true: "{", false: ","}[i == 0])
		e.b.WriteString(labels[i] + `="` + labelText.Replace(strings.ToValidUTF8(labels[i+1], "?")) + `"`)
	}
	if len(labels) > 0 {
		e.b.WriteByte('}')
	}
	e.b.WriteString(" " + strconv.FormatFloat(v, 'g', -1, 64) + "\n")
}

var labelText = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// Gauge is a family of one value.
func (e *Exposition) Gauge(name, help string, v float64, labels ...string) {
	e.Family(name, "gauge", help)
	e.Sample(name, v, labels...)
}

// Truth is 1 for true.
func Truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// Process writes what this process uses.
func (e *Exposition) Process() {
	e.Gauge("go_goroutines", "Goroutines.", float64(runtime.NumGoroutine()))
	var use unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &use) == nil {
		e.Family("process_cpu_seconds_total", "counter", "Processor time of the process.")
		e.Sample("process_cpu_seconds_total", seconds(use.Utime)+seconds(use.Stime))
	}
	if pages, ok := residentPages(); ok {
		e.Gauge("process_resident_memory_bytes", "Memory of the process.", pages*float64(os.Getpagesize()))
	}
}

func seconds(t unix.Timeval) float64 { return float64(t.Sec) + float64(t.Usec)/1e6 }

func residentPages() (float64, bool) {
	b, err := os.ReadFile("/proc/self/statm")
	if words := strings.Fields(string(b)); err == nil && len(words) > 1 {
		n, err := strconv.ParseFloat(words[1], 64)
		return n, err == nil
	}
	return 0, false
}

// Answer sends what was written.
func (e *Exposition) Answer(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = w.Write([]byte(e.b.String())) // whom it cannot be told does not listen
}
