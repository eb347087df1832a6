package data

import (
	"bytes"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"colonnade/cudakern"
	"colonnade/shard/job"
)

// digitJob trains on 23 images and tests on 11, in batches of 4 seen through 4x5 pixels.
func digitJob(t testing.TB) (*job.Job, *Pack, *Pack) {
	t.Helper()
	from := digitFolder(t)
	trainPath, _ := mustPack(t, PackOptions{From: from, Split: "train"})
	testPath, _ := mustPack(t, PackOptions{From: from, Split: "test"})
	j := &job.Job{Seed: 5, Recipe: job.Recipe{Batch: 4, Epochs: 3},
		Augment: job.Augment{Crop: "random", Pad: 1, Flip: true},
		Train:   &job.Pack{Images: 23, Channels: 1, Height: 3, Width: 4, Classes: 10}}
	return j, mustOpen(t, trainPath), mustOpen(t, testPath)
}

// keep copies a batch, which the loader's next call overwrites.
func keep(b Batch) Batch {
	b.Images, b.Labels, b.Views = bytes.Clone(b.Images), slices.Clone(b.Labels), slices.Clone(b.Views)
	return b
}

// TestTrainBatchIsAFunctionOfTheStep asks for steps in any order, of loaders old and new.
func TestTrainBatchIsAFunctionOfTheStep(t *testing.T) {
	j, train, test := digitJob(t)
	old := NewLoader(j, 0, train, test, 4, 5)
	rapid.Check(t, func(t *rapid.T) {
		step := rapid.Uint64Range(0, 40).Draw(t, "step")
		got := keep(old.Train(step))
		if diff := cmp.Diff(NewLoader(j, 0, train, test, 4, 5).Train(step), got); diff != "" {
			t.Fatalf("step %d (-first asked +asked after others):\n%s", step, diff)
		}
		if rapid.Bool().Draw(t, "evaluate") {
			old.Test(rapid.IntRange(0, 2).Draw(t, "index"))
		}
	})
}

// TestTrainBatchFollowsOrderAndView says for each place of each batch which image it must be.
func TestTrainBatchFollowsOrderAndView(t *testing.T) {
	j, train, _ := digitJob(t)
	l := NewLoader(j, 0, train, nil, 4, 5)
	for step := range uint64(15) {
		epoch, first := step/5, step%5*4 // 5 whole batches of 4 in 23
		b := l.Train(step)
		if b.Valid != 4 || len(b.Labels) != 4 || len(b.Views) != 4 || len(b.Images) != 4*12 {
			t.Fatalf("step %d: batch of %d, %d, %d, %d", step, b.Valid, len(b.Labels), len(b.Views), len(b.Images))
		}
		for i := range uint64(4) {
			sample := NewOrder(5, epoch, 23).At(first + i)
			if !bytes.Equal(b.Images[12*i:12*i+12], train.Image(int(sample))) || b.Labels[i] != int32(sample%10) {
				t.Errorf("step %d: place %d is not sample %d", step, i, sample)
			}
			if diff := cmp.Diff(TrainView(5, epoch, sample, 3, 4, 4, 5, j.Augment), b.Views[i]); diff != "" {
				t.Errorf("step %d, place %d: view (-want +got):\n%s", step, i, diff)
			}
		}
	}
}

// TestEpochShowsNoImageTwice trains an epoch of 5 batches of 4: 20 different images of 23.
func TestEpochShowsNoImageTwice(t *testing.T) {
	j, train, _ := digitJob(t)
	l := NewLoader(j, 0, train, nil, 3, 4)
	var epochs [2][]string
	for step := range uint64(10) {
		b := l.Train(step)
		for i := range 4 {
			epochs[step/5] = append(epochs[step/5], string(b.Images[12*i:12*i+12]))
		}
	}
	for e, images := range epochs {
		slices.Sort(images)
		if n := len(slices.Compact(slices.Clone(images))); n != 20 {
			t.Errorf("epoch %d shows %d different images, want 20", e, n)
		}
	}
}

// TestTestBatchesAreThePackInOrder pads the last one with what does not count.
func TestTestBatchesAreThePackInOrder(t *testing.T) {
	j, train, test := digitJob(t)
	l := NewLoader(j, 0, train, test, 4, 5)
	if n := l.TestBatches(); n != 3 {
		t.Fatalf("11 images make %d batches of 4", n)
	}
	seen := 0
	for index, valid := range []int{4, 4, 3} {
		b := l.Test(index)
		if b.Valid != valid {
			t.Fatalf("batch %d has %d valid images, want %d", index, b.Valid, valid)
		}
		for i := range 4 {
			if i < valid {
				if !bytes.Equal(b.Images[12*i:12*i+12], test.Image(seen)) || b.Labels[i] != int32(seen%10) {
					t.Errorf("place %d of batch %d is not image %d", i, index, seen)
				}
				seen++
			}
			if diff := cmp.Diff(cudakern.View{Y: -1, X: -1}, b.Views[i]); diff != "" {
				t.Errorf("view %d of batch %d (-want +got):\n%s", i, index, diff)
			}
			if b.Labels[i] < 0 || b.Labels[i] > 9 {
				t.Errorf("padding has label %d", b.Labels[i])
			}
		}
	}
	if seen != 11 {
		t.Errorf("%d images seen", seen)
	}
	if n := NewLoader(j, 0, train, nil, 4, 5).TestBatches(); n != 0 {
		t.Errorf("no test set makes %d batches", n)
	}
}

// TestReplicasShareBatches wants the replicas' slices, one behind the other, to be the batches of one replica.
func TestReplicasShareBatches(t *testing.T) {
	j, train, test := digitJob(t)
	whole := NewLoader(j, 0, train, test, 4, 5)
	cut := *j
	cut.Replicas = 2
	var parts []*Loader
	for r := range cut.Replicas {
		parts = append(parts, NewLoader(&cut, r, train, test, 4, 5))
	}
	join := func(batch func(*Loader) Batch) (all Batch) {
		for _, l := range parts {
			b := batch(l)
			if len(b.Labels) != 2 {
				t.Fatalf("a slice of 4 images for one of 2 replicas has %d", len(b.Labels))
			}
			all.Images, all.Labels = append(all.Images, b.Images...), append(all.Labels, b.Labels...)
			all.Views, all.Valid = append(all.Views, b.Views...), all.Valid+b.Valid
		}
		return all
	}
	for step := range uint64(15) {
		batch := func(l *Loader) Batch { return l.Train(step) }
		if diff := cmp.Diff(batch(whole), join(batch)); diff != "" {
			t.Errorf("step %d (-whole +slices):\n%s", step, diff)
		}
	}
	for index := range whole.TestBatches() {
		batch := func(l *Loader) Batch { return l.Test(index) }
		if diff := cmp.Diff(batch(whole), join(batch)); diff != "" {
			t.Errorf("test batch %d (-whole +slices):\n%s", index, diff)
		}
	}
	test.Images = 9 // the last batch has one image, the second slice of it none
	if n := parts[1].TestBatches(); n != 3 || parts[0].Test(2).Valid != 1 || parts[1].Test(2).Valid != 0 {
		t.Errorf("%d batches of 9 images, the slices of the last have %d and %d", n, parts[0].Test(2).Valid,
			parts[1].Test(2).Valid)
	}
}

func TestLoaderSaysWhatItLoads(t *testing.T) {
	j, train, test := digitJob(t)
	l := NewLoader(j, 0, train, test, 4, 5)
	if c, h, w := l.Shape(); c != 1 || h != 3 || w != 4 {
		t.Errorf("shape %d x %d x %d", c, h, w)
	}
	if diff := cmp.Diff(train.Mean(), l.Mean()); diff != "" || len(l.Mean()) != 12 {
		t.Errorf("mean is not the training set's (-want +got):\n%s", diff)
	}
}

func TestLoaderAllocatesNothing(t *testing.T) {
	j, train, test := digitJob(t)
	l := NewLoader(j, 0, train, test, 4, 5)
	step := uint64(0)
	if n := testing.AllocsPerRun(50, func() {
		l.Train(step)
		l.Test(int(step % 3))
		step++
	}); n != 0 {
		t.Errorf("%v allocations a step", n)
	}
}
