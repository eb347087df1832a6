package model

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"slices"

	"colonnade/checkpoint/tensors"
	"colonnade/shard/job"
)

// Sum is the SHA-256 of a file.
func Sum(path string) (sum [32]byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum, fmt.Errorf("read %s: %w", path, err)
	}
	return [32]byte(h.Sum(nil)), nil
}

// StartOf reads the weights that a resolved job begins with from its model file, which lies at path: by column and
// parameter; nil for parameters of layers that begin at random.
func StartOf(j *job.Job, path string) ([][][]float32, error) {
	sum, err := Sum(path)
	if err != nil {
		return nil, fmt.Errorf("start.from: %w", err)
	}
	if got := hex.EncodeToString(sum[:]); got != j.Start.SHA256 {
		return nil, fmt.Errorf("start.from: %w: %s has the SHA-256 %.12s, the job was submitted with %.12s; put that file "+
			"back, or "+
			"submit a job under another name", ErrModel, path, got, j.Start.SHA256)
	}
	plan, err := j.Plan()
	if err != nil {
		return nil, err
	}
	f, err := tensors.Open(path)
	if err != nil {
		return nil, fmt.Errorf("start.from: %w", err)
	}
	defer f.Close()
	a, err := AboutOf(f)
	if err == nil && a == nil {
		err = fmt.Errorf("%w: it does not say what input its weights are for; import it first: coordinator checkpoint import",
			ErrModel)
	}
	if err == nil && a.Scale != j.Augment.Scale {
		err = fmt.Errorf("%w: its weights are for pixels times %g, augment.scale is %g; set augment.scale to %g", ErrModel,
			a.Scale,
			j.Augment.Scale, a.Scale)
	}
	var s *State
	if err == nil {
		s, err = LoadFile(plan, f, j.Start.Fresh)
	}
	if err != nil {
		return nil, fmt.Errorf("start.from: %s: %w", path, err)
	}
	for c, params := range plan.Params {
		for i, p := range params {
			if slices.Contains(j.Start.Fresh, p.Layer) {
				s.Values[c][i] = nil
			}
		}
	}
	return s.Values, nil
}
