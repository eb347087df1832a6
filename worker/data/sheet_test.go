package data

import (
	"bytes"
	img "image"
	"image/png"
	"testing"
)

// TestSheetOfOne: a single picture is written as it is, without a frame.
func TestSheetOfOne(t *testing.T) {
	s, err := NewSheet(1, 8, 2, 3)
	if err != nil {
		t.Fatal(err)
	}
	pixels := []byte{1, 2, 3, 4, 5, 6}
	s.Add(pixels)
	var b bytes.Buffer
	if err := s.PNG(&b); err != nil {
		t.Fatal(err)
	}
	got, err := png.Decode(&b)
	if err != nil || got.Bounds() != img.Rect(0, 0, 3, 2) {
		t.Fatalf("%v, %v", got.Bounds(), err)
	}
	for i, want := range pixels {
		if r, _, _, _ := got.At(i%3, i/3).RGBA(); byte(r>>8) != want {
			t.Errorf("pixel %d is %d, want %d", i, r>>8, want)
		}
	}
}
