package web

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// Files has what lies in checkpoints, as far as their files are on the coordinator's machine. Its errors are those of
// the Operator service.
type Files interface {
	// Kernels are a job's first kernels after a step, after that of its newest usable checkpoint if step is nil.
	Kernels(ctx context.Context, job string, step *uint64) (*Kernels, error)
	// Examples are what worker examples has written of a job last.
	Examples(ctx context.Context, job string) ([]byte, error)
	// Export writes a checkpoint as safetensors.
	Export(ctx context.Context, job string, step uint64) (func(io.Writer) error, error)
}

// Kernels are what the first layer of every column has learnt to see, all by one scale: low is black, high is white.
type Kernels struct {
	Job     string         `json:"job"`
	Step    uint64         `json:"step"`
	Low     float64        `json:"low"`
	High    float64        `json:"high"`
	Columns []KernelColumn `json:"columns"`
}

// KernelColumn is a column's kernels side by side, a pixel a weight.
type KernelColumn struct {
	Column  int    `json:"column"`
	Kernels int    `json:"kernels"`
	Side    int    `json:"side"`
	Width   int    `json:"width"` // of the picture
	Height  int    `json:"height"`
	PNG     []byte `json:"png"`
}

// noFiles answers for a coordinator that reads no files.
func (s *Server) noFiles(w http.ResponseWriter) bool {
	if s.cfg.Files == nil {
		s.refuse(w, http.StatusNotImplemented, "NO_FILES", "this coordinator reads no checkpoints")
	}
	return s.cfg.Files == nil
}

func (s *Server) kernels(w http.ResponseWriter, r *http.Request) {
	if s.noFiles(w) {
		return
	}
	var step *uint64
	if r.FormValue("step") != "" {
		n, ok := s.number(w, r, "step", 0)
		if !ok {
			return
		}
		step = &n
	}
	ctx, cancel := asked(r)
	defer cancel()
	k, err := s.cfg.Files.Kernels(ctx, r.PathValue("job"), step)
	if err != nil {
		s.fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(k) // whom it cannot be told does not listen
}

func (s *Server) examples(w http.ResponseWriter, r *http.Request) {
	if s.noFiles(w) {
		return
	}
	ctx, cancel := asked(r)
	defer cancel()
	b, err := s.cfg.Files.Examples(ctx, r.PathValue("job"))
	if err != nil {
		s.fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b) // whom it cannot be told does not listen
}

func (s *Server) export(w http.ResponseWriter, r *http.Request) {
	if s.noFiles(w) {
		return
	}
	step, err := stepOf(r)
	if err != nil {
		s.refuse(w, http.StatusBadRequest, "INVALID", err.Error())
		return
	}
	write, err := s.cfg.Files.Export(r.Context(), r.PathValue("job"), step)
	if err != nil {
		s.fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q",
		fmt.Sprintf("%s-%d.safetensors", r.PathValue("job"), step)))
	if err := write(w); err != nil { // the connection breaks, so that nobody takes what there is for all of it
		s.cfg.Log.Info("an export was not taken to its end", "job", r.PathValue("job"), "step", step, "err", err)
		panic(http.ErrAbortHandler)
	}
}
