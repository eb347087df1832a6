package data

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

// otherLabels ends what is said of a file of labels that does not go with the pictures.
const otherLabels = "give the labels of these images with --labels"

// label gives the pictures of a flat folder their classes from a text file. Lines are either "FILE CLASS" (blanks or a
// comma between), or one number each, as ILSVRC2012_validation_ground_truth.txt has them: of the i-th file by name,
// counted from 1 into the list of synsets.
func (l *listing) label(file, synsets string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("%w; give another --labels", err)
	}
	var names []string
	if synsets != "" {
		list, err := os.ReadFile(synsets)
		if err != nil {
			return fmt.Errorf("%w; give another --synsets", err)
		}
		if names, err = synsetNames(list); err != nil {
			return fmt.Errorf("%s %w; give the kit's meta.mat, or a text with a name a line in the order of the numbers, with "+
				"--synsets", synsets, err)
		}
	}
	slices.SortFunc(l.items, func(a, b item) int { return strings.Compare(path.Base(a.name), path.Base(b.name)) })
	all := lines(string(text))
	if len(all) > 0 && len(fields(all[0])) == 1 {
		return l.groundTruth(file, all, names)
	}
	by := make(map[string]string, len(all))
	for n, line := range all {
		f := fields(line)
		if len(f) < 2 {
			return fmt.Errorf("%s: line %d, %.60q, is not FILE CLASS; %s", file, n+1, line, otherLabels)
		}
		if n == 0 && !isPicture(f[0]) && path.Ext(f[0]) == "" && len(l.items) > 0 && !l.named(f[0]) {
			continue // a header, as in FILE,CLASS
		}
		class := f[1]
		if names != nil {
			if class, err = numbered(names, class, 0); err != nil {
				return fmt.Errorf("%s: line %d: %w; %s", file, n+1, err, otherLabels)
			}
		}
		if was, ok := by[stem(f[0])]; ok && was != class {
			return fmt.Errorf("%s: line %d: %.60q is of class %q here and of %q above; %s", file, n+1, f[0], class, was,
				otherLabels)
		}
		by[stem(f[0])] = class
	}
	for i := range l.items {
		it := &l.items[i]
		if it.class = by[stem(it.name)]; it.class == "" {
			return fmt.Errorf("%s says nothing of %s; %s", file, it.name, otherLabels)
		}
		it.name = path.Base(it.name)
	}
	return nil
}

// synsetNames are the names in a list of synsets, a text or the kit's meta.mat.
func synsetNames(list []byte) (names []string, err error) {
	if isMatlab(list) {
		return matlabSynsets(list)
	}
	if bytes.IndexByte(list, 0) >= 0 {
		return nil, errMatlab // nor a text
	}
	for _, line := range lines(string(list)) {
		names = append(names, strings.Fields(line)[0])
	}
	return names, nil
}

// named says whether a picture has a name, with or without suffix.
func (l *listing) named(name string) bool {
	return slices.ContainsFunc(l.items, func(it item) bool { return stem(it.name) == stem(name) })
}

// stem is a file's name without directory and picture's suffix.
func stem(name string) string {
	name = path.Base(name)
	if isPicture(name) {
		name = strings.TrimSuffix(name, path.Ext(name))
	}
	return name
}

// groundTruth labels the i-th picture by the i-th number.
func (l *listing) groundTruth(file string, all, names []string) error {
	if len(all) != len(l.items) {
		return fmt.Errorf("%s has %d lines for %d images; %s", file, len(all), len(l.items), otherLabels)
	}
	for i, line := range all {
		it := &l.items[i]
		it.name = path.Base(it.name)
		if it.class = line; names == nil {
			if n, err := strconv.Atoi(line); err != nil || n < 1 {
				return fmt.Errorf("%s: line %d, %.60q, is no number from 1 on; %s", file, i+1, line, otherLabels)
			}
			it.class = fmt.Sprintf("%04s", line) // so that the order of names is that of numbers
			continue
		}
		var err error
		if it.class, err = numbered(names, line, 1); err != nil {
			return fmt.Errorf("%s: line %d: %w; %s", file, i+1, err, otherLabels)
		}
	}
	return nil
}

// numbered is the name at a number, counted from `first`, or the name itself if it is one.
func numbered(names []string, text string, first int) (string, error) {
	if slices.Contains(names, text) {
		return text, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < first || n-first >= len(names) {
		return "", fmt.Errorf("%.60q is none of the %d synsets, counted from %d", text, len(names), first)
	}
	return names[n-first], nil
}

// lines gives the lines that say something.
func lines(text string) []string {
	var out []string
	for _, l := range strings.Split(text, "\n") {
		if l = strings.TrimSpace(l); l != "" {
			out = append(out, l)
		}
	}
	return out
}

func fields(line string) []string {
	return strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' || r == ',' || r == ';' })
}

// share is a part of a source, drawn by the names of its images.
type share struct{ from, to float64 } // of 1

// parseSplit reads NAME, a part that the source itself has, or NAME=FROM-TO, percentages of a source that has none.
func parseSplit(text string) (string, *share, error) {
	name, span, ok := strings.Cut(text, "=")
	if !ok {
		return text, nil, nil
	}
	a, b, ok := strings.Cut(span, "-")
	from, err1 := strconv.ParseFloat(a, 64)
	to, err2 := strconv.ParseFloat(b, 64)
	if !ok || name == "" || err1 != nil || err2 != nil || !(from >= 0 && from < to && to <= 100) {
		return "", nil, fmt.Errorf("split %q; use NAME, or NAME=FROM-TO in percent, e.g. --split val=90-100", text)
	}
	return "", &share{from / 100, to / 100}, nil
}

// has says whether an image is of the part. Where an image falls depends on its name alone, so it stays there when
// others are added.
func (s *share) has(name string) bool {
	h := sha256.Sum256([]byte(name))
	at := float64(binary.LittleEndian.Uint64(h[:])>>11) / (1 << 53)
	return at >= s.from && at < s.to
}
