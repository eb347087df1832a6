package data

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// addIDX lists the images of an IDX pair.
func (l *listing) addIDX(from, split string, classes []string, scratch string) error {
	images, labels, err := idxPair(from, split)
	if err != nil {
		return err
	}
	r, done, err := openMaybeGzip(images)
	if err != nil {
		return err
	}
	defer func() { _ = done() }() // only read
	s, err := unpack(r, images, scratch)
	if err != nil {
		return err
	}
	l.spools = append(l.spools, s)
	if _, err := s.f.Seek(0, 0); err != nil {
		return err
	}
	size, err := idxHeader(s.f, 3)
	if err != nil {
		return fmt.Errorf("%s %w", images, err)
	}
	all, err := readIDXLabels(labels)
	if err != nil {
		return err
	}
	if size[0] != len(all) {
		return fmt.Errorf("%s has %d images, %s has %d labels", images, size[0], labels, len(all))
	}
	info, err := s.f.Stat()
	if err != nil {
		return err
	}
	each := int64(size[1]) * int64(size[2])
	const head = 16 // bytes of the header of three dimensions
	switch body := info.Size() - head; {
	case body < int64(size[0])*each:
		return fmt.Errorf("%s is truncated at image %d", images, body/each)
	case body > int64(size[0])*each:
		return fmt.Errorf("%s goes on after what its header says it has", images)
	}
	l.channels, l.height, l.width = 1, size[1], size[2]
	top := 0
	for i, label := range all {
		top = max(top, int(label))
		l.items = append(l.items, item{name: fmt.Sprintf("image %d", i), label: int(label), from: s,
			at: head + int64(i)*each, size: each, raw: true})
	}
	for c := range top + 1 {
		l.classes = append(l.classes, fmt.Sprint(c))
	}
	if classes == nil {
		classes = l.classes
	}
	if i := slices.IndexFunc(all, func(b byte) bool { return int(b) >= len(classes) }); i >= 0 {
		return fmt.Errorf("%s: image %d has label %d, but there are %d classes", images, i, all[i], len(classes))
	}
	return nil
}

// CIFAR's images: 3 planes of 32 x 32 behind the label or labels.
const (
	cifarSide  = 32
	cifarBytes = 3 * cifarSide * cifarSide
)

// addCIFAR lists the images of CIFAR-10's or CIFAR-100's binary batches
// (https://www.cs.toronto.edu/~kriz/cifar.html describes the format), of a file or of the directory of them. Of
// CIFAR-100's two labels the fine one counts.
func (l *listing) addCIFAR(from, split string) error {
	names, paths, labels, err := cifarFiles(from, split)
	if err != nil {
		return err
	}
	l.channels, l.height, l.width = 3, cifarSide, cifarSide
	top := -1
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		s := &spool{f: f, path: p}
		l.spools = append(l.spools, s)
		info, err := f.Stat()
		if err != nil {
			return err
		}
		record := int64(labels + cifarBytes)
		if info.Size() == 0 || info.Size()%record != 0 {
			return fmt.Errorf("%s has %d bytes, not a whole number of records of %d: it is truncated or no batch of CIFAR", p,
				info.Size(), record)
		}
		head := make([]byte, labels)
		for i := range info.Size() / record {
			if _, err := f.ReadAt(head, i*record); err != nil {
				return fmt.Errorf("read %s: %w", p, err)
			}
			label := int(head[labels-1])
			if names != nil && label >= len(names) {
				return fmt.Errorf("%s: image %d has label %d, but there are %d classes", p, i, label, len(names))
			}
			top = max(top, label)
			l.items = append(l.items, item{name: fmt.Sprintf("%s image %d", filepath.Base(p), i), label: label, from: s,
				at: i*record + int64(labels), size: cifarBytes, raw: true})
		}
	}
	if l.classes = names; names == nil {
		for c := range top + 1 {
			l.classes = append(l.classes, fmt.Sprint(c))
		}
	}
	return nil
}

// cifarFiles finds the batches of a split, the classes' names where there is a list, and how many labels an image has.
func cifarFiles(from, split string) (names, paths []string, labels int, err error) {
	info, err := os.Stat(from)
	if err != nil {
		return nil, nil, 0, err
	}
	dir := from
	if !info.IsDir() {
		dir, paths = filepath.Dir(from), []string{from}
	}
	list := filepath.Join(dir, "fine_label_names.txt")
	labels = 2
	if _, err := os.Stat(list); err != nil {
		list, labels = filepath.Join(dir, "batches.meta.txt"), 1
	}
	if text, err := os.ReadFile(list); err == nil {
		names = lines(string(text))
	}
	if paths != nil {
		return names, paths, labels, nil
	}
	pattern := map[string]string{"train": "data_batch_*.bin", "test": "test_batch.bin"}
	if labels == 2 {
		pattern = map[string]string{"train": "train.bin", "test": "test.bin"}
	}
	if pattern[split] == "" {
		return nil, nil, 0, fmt.Errorf("split %q: CIFAR's batches are train and test; use --split train or --split test",
			split)
	}
	paths, err = filepath.Glob(filepath.Join(escape(dir), pattern[split]))
	if err != nil || len(paths) == 0 {
		return nil, nil, 0, errors.Join(err, fmt.Errorf("%s has no %s", dir, pattern[split]))
	}
	slices.SortFunc(paths, strings.Compare)
	return names, paths, labels, nil
}
