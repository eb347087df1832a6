package model

import (
	"io"

	"colonnade/checkpoint/tensors"
)

// Export gives the tensors of an export, the mean image last, and what writes them. A column other than nil is written
// as it is, without the mean.
func Export(a *About, s *State, format string, column *int) ([]tensors.Source, func(io.Writer) error, error) {
	if column != nil {
		all := s.Column(*column)
		return all, func(w io.Writer) error { return tensors.Write(w, format, nil, all) }, nil
	}
	all, err := s.Whole()
	if err != nil {
		return nil, nil, err
	}
	if a.Mean != nil {
		in := s.Plan.Network.Input
		all = append(all, tensors.Of(MeanName, []int{in.Channels[0], in.Height, in.Width}, a.Mean))
	}
	if format == "onnx" {
		return all, func(w io.Writer) error { return WriteONNX(w, a, s) }, nil
	}
	metadata, err := a.Metadata()
	if err != nil {
		return nil, nil, err
	}
	return all, func(w io.Writer) error { return tensors.Write(w, format, metadata, all) }, nil
}
