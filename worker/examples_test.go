package main

import (
	"bytes"
	"context"
	"encoding/json"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"colonnade/worker/data"
)

// showsExamples wants of a model's examples what was predicted of the same images, and of each image that it is itself
// the nearest of those it was trained on, for all batches alike.
func showsExamples(t *testing.T, root string, p *data.Pack, want []prediction) {
	t.Helper()
	var before []byte
	for _, batch := range []string{"5", "64"} {
		out := filepath.Join(t.TempDir(), "examples.json")
		r := command(context.Background(), "examples", "--checkpoint", root, "--data", p.Path(), "--train", p.Path(),
			"--device", "ref", "--batch", batch, "--images", "4", "--queries", "3", "--nearest", "2", "--out", out)
		if r.code != 0 {
			t.Fatalf("examples: %s", r.err)
		}
		text, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if before != nil && !bytes.Equal(text, before) {
			t.Error("another batch, other examples")
		}
		before = text
		var s exampleSet
		if err := json.Unmarshal(text, &s); err != nil {
			t.Fatal(err)
		}
		if s.Among != p.Images || len(s.Predictions) != 4 || len(s.Similar) != 3 {
			t.Fatalf("among %d: %d predictions, %d rows", s.Among, len(s.Predictions), len(s.Similar))
		}
		for _, e := range s.Predictions {
			m, err := png.Decode(bytes.NewReader(e.PNG))
			if err != nil || m.Bounds().Dx() != p.Width || m.Bounds().Dy() != p.Height {
				t.Errorf("image %d: %v", e.Sample, err)
			}
			if e.Name != p.Classes[p.Label(e.Sample)] || len(e.Best) != 5 || e.Best[0] != want[e.Sample].Best[0] {
				t.Errorf("image %d, %s: %v, want %v", e.Sample, e.Name, e.Best, want[e.Sample].Best)
			}
		}
		for _, n := range s.Similar {
			if len(n.Nearest) != 2 || n.Nearest[0].Sample != n.Of.Sample || n.Nearest[0].Distance != 0 ||
				!(n.Nearest[1].Distance > 0) {
				t.Errorf("nearest to %d: %d of distance %g, and %g", n.Of.Sample, n.Nearest[0].Sample, n.Nearest[0].Distance,
					n.Nearest[1].Distance)
			}
		}
	}
	for _, c := range []struct {
		want string
		args []string
	}{
		{"--batch 0", []string{"--batch", "0"}},
		{"--images 2000", []string{"--images", "2000"}},
		{"no such file", []string{"--data", "none.pack"}},
		{"examples.json", []string{"--out", filepath.Join(t.TempDir(), "none", "examples.json")}},
	} {
		r := command(context.Background(), append([]string{"examples", "--checkpoint", root, "--data", p.Path(),
			"--device", "ref", "--out", filepath.Join(t.TempDir(), "examples.json")}, c.args...)...)
		if r.code == 0 || !strings.Contains(r.err, c.want) || strings.Count(r.err, "\n") != 1 {
			t.Errorf("examples %v: status %d, %s", c.args, r.code, r.err)
		}
	}
}
