package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"os"
	"testing"
)

// Peek reads what is wanted and no more, sees damage in it, and refuses what is of something else.
func TestPeek(t *testing.T) {
	m, tensors := sample()
	_, path, info := write(t, m, tensors)
	peek := func(want Want) (map[string][]float32, error) {
		got := map[string][]float32{}
		err := Peek(context.Background(), path, want, func(name string, shape []int) []float32 {
			if name != tensors[2].Name && name != tensors[5].Name {
				return nil
			}
			n, _ := volume(shape)
			got[name] = make([]float32, n)
			return got[name]
		})
		return got, err
	}
	whole := Want{Meta: m, Bytes: info.Bytes, Digest: info.Digest}
	got, err := peek(whole)
	if err != nil {
		t.Fatal(err)
	}
	if !same(got, []Tensor{tensors[2], tensors[5]}) {
		t.Error("it has other values")
	}
	other := whole
	other.Meta.Step++
	if _, err := peek(other); !errors.Is(err, ErrMismatch) {
		t.Errorf("of another step: %v", err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, littleEndian(tensors[5].Data[:16]))
	if at < 0 {
		t.Fatal("the tensor is not in its file")
	}
	b[at] ^= 1
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := peek(whole); !errors.Is(err, ErrCorrupt) {
		t.Errorf("with a bit changed: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := peek(whole); !errors.Is(err, ErrMissing) {
		t.Errorf("without a file: %v", err)
	}
}
