package data

import (
	"fmt"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"colonnade/cudakern"
	"colonnade/shard/job"
	"colonnade/shard/pack"
)

// colourJob is a job on photographs whose channels vary together.
func colourJob(t testing.TB, a job.Augment) (*job.Job, *Pack) {
	t.Helper()
	f := files{}
	for i := range 96 {
		pixels := make([]byte, 3*36)
		for p := range 36 {
			v := (i*31 + p*17) % 200
			pixels[3*p], pixels[3*p+1], pixels[3*p+2] = byte(v), byte(v/2+p), byte(50+(p*i)%90)
		}
		f[fmt.Sprintf("%d/%02d.png", i%2, i)] = colour(t, 6, 6, pixels...)
	}
	path, _ := mustPack(t, PackOptions{From: f.folder(t)})
	p := mustOpen(t, path)
	return &job.Job{Seed: 5, Replicas: 1, Recipe: job.Recipe{Batch: 32, Epochs: 9, ColourOff: 3}, Augment: a,
		Train: &job.Pack{Images: p.Images, Channels: 3, Height: 6, Width: 6, Classes: 2}}, p
}

// TestColourNoise compares the noise of many samples with the covariance of the set, computed from its pixels.
func TestColourNoise(t *testing.T) {
	for _, by := range []string{job.ByStddev, job.ByEigenvalue} {
		j, p := colourJob(t, job.Augment{Crop: "random", Flip: true, Colour: &job.Colour{By: by, Noise: 0.1}})
		a := NewAugmenter(j, p, 4, 4)
		c, ok := p.Header.Colour()
		if !ok {
			t.Fatal("a pack of photographs has no colours")
		}
		if diff := cmp.Diff(covarianceOf(p), c.Covariance, cmp.Comparer(func(x, y float64) bool {
			return math.Abs(x-y) < 1e-9*(math.Abs(x)+1)
		})); diff != "" {
			t.Errorf("covariance (-want +got):\n%s", diff)
		}
		const n = 40_000
		var sum [3]float64
		var got [3][3]float64
		for s := range uint64(n) {
			v, divisor := a.View(s%2, 0, s)
			if divisor != 1 {
				t.Fatalf("without rescale the divisor is %g", divisor)
			}
			for x := range 3 {
				sum[x] += float64(v.Shift[x])
				for y := range 3 {
					got[x][y] += float64(v.Shift[x]) * float64(v.Shift[y]) / n
				}
			}
		}
		for x := range 3 {
			for y := range 3 {
				want := 0.0
				for k, value := range c.Values { // V diag(size^2) V^T
					size := value
					if by == job.ByEigenvalue {
						size = value * value / 255 / 255
					}
					want += 0.01 * size * c.Vectors[k][x] * c.Vectors[k][y]
				}
				scale := 0.01 * c.Values[0]
				if by == job.ByEigenvalue {
					scale *= c.Values[0] / 255 / 255
				}
				if math.Abs(got[x][y]-want) > 0.03*scale { // six standard errors
					t.Errorf("%s: covariance of the noise of %d and %d is %g, want %g", by, x, y, got[x][y], want)
				}
			}
			if dev := math.Sqrt(got[x][x] / n); math.Abs(sum[x]/n) > 6*dev {
				t.Errorf("%s: the noise of channel %d has mean %g", by, x, sum[x]/n)
			}
		}
	}
}

// covarianceOf computes the covariance of a pack's colours as a textbook does.
func covarianceOf(p *Pack) (out [3][3]float64) {
	area := p.Height * p.Width
	n := float64(p.Images * area)
	var mean [3]float64
	for i := range p.Images {
		for at, v := range p.Image(i) {
			mean[at/area] += float64(v) / n
		}
	}
	for i := range p.Images {
		img := p.Image(i)
		for at := range area {
			for x := range 3 {
				for y := range 3 {
					out[x][y] += (float64(img[x*area+at]) - mean[x]) * (float64(img[y*area+at]) - mean[y]) / n
				}
			}
		}
	}
	return out
}

// TestColourIsGolden holds draws that jobs are trained with, computed by a second implementation, in another language.
func TestColourIsGolden(t *testing.T) {
	c := newColours(job.Augment{Colour: &job.Colour{By: job.ByStddev, Noise: 0.1, Rescale: true}}, pack.Colour{
		Values: [3]float64{14831, 1376, 389}, Vectors: [3][3]float64{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}})
	var got []string
	for s := range uint64(3) {
		got = append(got, fmt.Sprintf("%.4f", c.shift(7, 2, s)))
	}
	want := []string{"[0.1942 -5.0979 -1.2580]", "[-15.7984 0.0735 1.8481]", "[-3.2324 1.1240 1.3622]"}
	if diff := cmp.Diff(want, got); diff != "" || c.divisor != 1.1 {
		t.Errorf("divisor %g, shifts (-golden +got):\n%s", c.divisor, diff)
	}
}

// TestSourceAugmentation wants crop and flip shared by 32 places, noise by sample, and both off where they end.
func TestSourceAugmentation(t *testing.T) {
	j, p := colourJob(t, job.Augment{Crop: "random", Flip: true, Share: 16, Mean: job.MeanCentre,
		Colour: &job.Colour{By: job.ByStddev, Noise: 0.1, Rescale: true}})
	l := NewLoader(j, 0, p, nil, 2, 2)
	seen := map[cudakern.View]bool{}
	for step := range uint64(9) {
		b := keep(l.Train(step))
		noisy := step/3 < 2 // colours are left alone from epoch 3 on
		if want := map[bool]float64{true: 1.1}[noisy]; b.Divisor != want || b.Err != nil {
			t.Fatalf("step %d: divisor %g, want %g; %v", step, b.Divisor, want, b.Err)
		}
		shifts := map[[3]float32]bool{}
		for i, v := range b.Views {
			shifts[v.Shift] = true
			v.Shift = [3]float32{}
			first := b.Views[i/16*16]
			first.Shift = v.Shift
			if v != first {
				t.Fatalf("step %d: place %d is seen as %+v, the first of its share as %+v", step, i, v, first)
			}
			seen[v] = true
		}
		if want := map[bool]int{true: 32, false: 1}[noisy]; len(shifts) != want {
			t.Errorf("step %d: %d different noises, want %d", step, len(shifts), want)
		}
	}
	if len(seen) < 8 {
		t.Errorf("%d different views in 18 shares", len(seen))
	}
	// Two replicas see what one does.
	j.Replicas = 2
	for r := range 2 {
		half := NewLoader(j, r, p, nil, 2, 2).Train(4)
		if diff := cmp.Diff(keep(l.Train(4)).Views[16*r:16*r+16], half.Views); diff != "" {
			t.Errorf("replica %d (-alone +beside another):\n%s", r, diff)
		}
	}
}
