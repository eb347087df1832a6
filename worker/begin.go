package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"colonnade/checkpoint/model"
	"colonnade/shard/job"
	"colonnade/worker/exchange"
	"colonnade/worker/train"
)

// begin gives a cell its state before the first step: random weights, or those of the model that the job names, which
// lies where the job has it or, under its name, in the directory of packs.
func (h *host) begin(j *job.Job, c *train.Cell, id exchange.Cell) error {
	if j.Start == nil {
		return c.Initialise()
	}
	path := j.Start.From
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		other := filepath.Join(h.packs, filepath.Base(path))
		if _, err := os.Stat(other); err != nil {
			return permanentError{fmt.Errorf("the model the job begins with is neither at %s nor at %s; copy it to one of them "+
				"and resume the job", path, other)}
		}
		path = other
	}
	values, err := model.StartOf(j, path)
	if err != nil {
		return permanentError{err}
	}
	return c.SetWeights(values[id.Column])
}
