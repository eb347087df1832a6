package data

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The files in testdata were written by SciPy, not by this reader's author's idea of the format: five synsets as the
// development kit has them, three of them classes, not in the order of their numbers.
var kitNames = []string{"n01440764", "n01443537", "n01491361"}

func TestMetaMat(t *testing.T) {
	for _, name := range []string{"meta.mat", "meta-plain.mat"} {
		b := mustRead(t, filepath.Join("testdata", name))
		got, err := matlabSynsets(b)
		if err != nil || !slices.Equal(got, kitNames) {
			t.Errorf("%s: %v, %v, want %v", name, got, err, kitNames)
		}
		for n := range len(b) { // the last array is not looked at
			if got, err := matlabSynsets(b[:n]); err == nil && !slices.Equal(got, kitNames) || err != nil &&
				(!errors.Is(err, errMatlab) || strings.Contains(err.Error(), "\n")) {
				t.Errorf("%s cut to %d bytes: %v, %v", name, n, got, err)
			}
		}
		for n := 128; n < len(b); n++ { // nonsense is refused or read, and nothing worse
			for _, v := range []byte{0, 0xff, b[n] ^ 1, b[n] ^ 0x80} {
				spoilt := bytes.Clone(b)
				spoilt[n] = v
				_, _ = matlabSynsets(spoilt)
			}
		}
	}
}

// TestMetaMatNamesTheValidationSet packs a flat folder by the kit's ground truth and its meta.mat, and by the text that
// says the same.
func TestMetaMatNamesTheValidationSet(t *testing.T) {
	flat := files{"val_1.png": grey(t, 1, 1, 1), "val_2.png": grey(t, 1, 1, 2), "val_3.png": grey(t, 1, 1, 3)}
	truth := stow(t, "truth.txt", []byte("3\n1\n2\n"))
	o := PackOptions{From: flat.folder(t), Labels: truth, Synsets: filepath.Join("testdata", "meta.mat")}
	path, s := mustPack(t, o)
	want := []string{"n01491361 [1]", "n01440764 [2]", "n01443537 [3]"}
	if got := content(t, path); !slices.Equal(got, want) {
		t.Errorf("packed %v, want %v", got, want)
	}
	o.Synsets = stow(t, "synsets.txt", []byte(strings.Join(kitNames, "\n")))
	if _, by := mustPack(t, o); by.ID != s.ID {
		t.Error("the text of the same names gives another pack")
	}
	hdf, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"another binary": hdf,
		"version 7.3":    append([]byte("MATLAB 7.3 MAT-file"), make([]byte, 500)...),
		"no synsets":     append(mustRead(t, filepath.Join("testdata", "meta.mat"))[:128:128], 1, 0, 0, 0, 0, 0, 0, 0),
	} {
		o.Synsets = stow(t, "meta.mat", b)
		if line := refused(t, o); !strings.Contains(line, "MATLAB") || !strings.Contains(line, "a name a line") {
			t.Errorf("%s: %q does not say what to give", name, line)
		}
	}
}
