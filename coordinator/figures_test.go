package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"colonnade/coordinator/figures"
	"colonnade/proto/clusterpb"
)

// TestFiguresOfADirectory draws a checkpoint where no coordinator is, twice over, and refuses what is not there.
func TestFiguresOfADirectory(t *testing.T) {
	dir, _ := modelDir(t)
	out := filepath.Join(dir, "drawn", "here")
	for range 2 {
		text := succeeds(t, "figures", "j", "--dir", filepath.Join(dir, "ckpt"), "--out", out)
		if !strings.Contains(text, "job j, step 0") {
			t.Errorf("it says\n%s", text)
		}
	}
	for _, name := range []string{"network", "kernels"} {
		f, err := os.Open(filepath.Join(out, name+".png"))
		if err != nil {
			t.Fatal(err)
		}
		m, err := png.Decode(f)
		if err != nil || m.Bounds().Dx() < 100 {
			t.Errorf("%s: %v, %v", name, m.Bounds(), err)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if text, err := os.ReadFile(filepath.Join(out, name+".svg")); err != nil || !strings.HasPrefix(string(text), "<svg") {
			t.Errorf("%s.svg: %v", name, err)
		}
	}
	left, err := os.ReadDir(out)
	if err != nil || len(left) != 4 {
		t.Errorf("%d files: %v", len(left), err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ job, out, want string }{
		{"other", out, "other"}, {"j", file, "choose another --out"},
	} {
		r := command("figures", c.job, "--dir", filepath.Join(dir, "ckpt"), "--out", c.out)
		if r.status != exitFailure || strings.Count(r.err, "\n") != 1 || !strings.Contains(r.err, c.want) {
			t.Errorf("figures of %s in %s: status %d, %s", c.job, c.out, r.status, r.err)
		}
	}
}

// TestLearningCurves draws what the history and evaluations have, and takes no loss that is not known for 0.
func TestLearningCurves(t *testing.T) {
	tested := []*clusterpb.Evaluation{{Step: 10, Images: 8, Top1Errors: 4, Top5Errors: 2, Loss: 2}}
	points := []*clusterpb.HistorySeries{{Points: []*clusterpb.HistoryPoint{
		{FirstStep: 1, LastStep: 4, Losses: 2, Loss: 3}, {FirstStep: 5, LastStep: 9},
		{FirstStep: 10, LastStep: 10, Losses: 1, Loss: 1}}}}
	for name, c := range map[string]struct {
		past        *clusterpb.HistoryReply
		marks, errs int // points drawn
	}{
		"both":        {&clusterpb.HistoryReply{Series: points, Evaluations: tested}, 3, 2},
		"history":     {&clusterpb.HistoryReply{Series: points}, 2, 0},
		"evaluations": {&clusterpb.HistoryReply{Evaluations: tested}, 1, 2},
		"neither":     {&clusterpb.HistoryReply{}, 0, 0},
	} {
		drawings := map[string]*figures.Drawing{}
		if err := drawCurves("j", 5, c.past, drawings); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for drawing, want := range map[string]int{"loss": c.marks, "error": c.errs} {
			var svg bytes.Buffer
			if d := drawings[drawing]; d != nil {
				if err := d.SVG(&svg); err != nil {
					t.Fatal(err)
				}
			}
			if got := strings.Count(svg.String(), `width="5" height="5"`); got != want {
				t.Errorf("%s: %d points in %s, want %d", name, got, drawing, want)
			}
		}
	}
}

// TestFiguresOfFiles draws what the worker's commands write, and refuses files that are something else.
func TestFiguresOfFiles(t *testing.T) {
	dir, _ := modelDir(t)
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewGray(image.Rect(0, 0, 8, 8))); err != nil {
		t.Fatal(err)
	}
	one := fmt.Sprintf(`{"label": 3, "name": "cat", "png": %q, `+
		`"best": [{"class": 3, "name": "cat", "probability": 0.75}]}`, base64.StdEncoding.EncodeToString(b.Bytes()))
	examples := write("examples.json", fmt.Sprintf(
		`{"predictions": [%s, %[1]s], "similar": [{"of": %[1]s, "nearest": [%[1]s]}]}`, one))
	phases := write("phases.json", `{"network": "tiny", "batch": 4, "cells": [{"cell": "0/0", "phases": [`+
		`{"name": "conv1", "kind": "forward", "ms": 2}, {"name": "conv1/w weights", "kind": "weights", "ms": 3}, `+
		`{"name": "update", "kind": "other", "ms": 1}]}, {"cell": "0/1", "phases": []}]}`)
	out := filepath.Join(dir, "out")
	text := succeeds(t, "figures", "j", "--dir", filepath.Join(dir, "ckpt"), "--out", out, "--examples", examples,
		"--phases", phases)
	for _, name := range []string{"predictions", "nearest", "phases"} {
		svg, err := os.ReadFile(filepath.Join(out, name+".svg"))
		if err != nil || !strings.Contains(text, name+".svg, .png") || !strings.HasPrefix(string(svg), "<svg") {
			t.Errorf("%s: %v; it says\n%s", name, err, text)
		}
	}
	for file, want := range map[string]string{
		write("empty.json", "{}"):                               "nothing to draw",
		write("text.json", "no JSON"):                           "invalid character",
		write("png.json", `{"predictions": [{"name": "cat"}]}`): "image of class cat",
		filepath.Join(dir, "missing.json"):                      "no such file",
	} {
		for _, flag := range []string{"--examples", "--phases"} {
			if flag == "--phases" && strings.HasSuffix(file, "png.json") {
				continue
			}
			r := command("figures", "j", "--dir", filepath.Join(dir, "ckpt"), "--out", out, flag, file)
			if r.status != exitFailure || strings.Count(r.err, "\n") != 1 || !strings.Contains(r.err, want) ||
				!strings.Contains(r.err, "with: worker") {
				t.Errorf("figures %s %s: status %d, %s", flag, file, r.status, r.err)
			}
		}
	}
}
