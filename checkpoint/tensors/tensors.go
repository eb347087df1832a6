// Package tensors reads and writes files of named float32 tensors in the formats of other programs: safetensors,
// numpy's npz, PyTorch's state_dict and ONNX. Files are written as a stream, the same tensors always as the same bytes.
// A file that is read may be anything: it is refused with one line, never trusted, and no memory is asked for that it
// does not fill.
//
// Tensors are row-major; values are little-endian in all formats.
package tensors

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
)

// ErrFormat is wrapped by every refusal of a file's contents.
var ErrFormat = errors.New("not a file of tensors")

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

// Source is a tensor to be written. Each gives its values in order, in as many pieces as it likes; a piece is only
// borrowed.
type Source struct {
	Name  string
	Shape []int
	Each  func(yield func([]float32) error) error
}

// Of is a tensor whose values lie in memory.
func Of(name string, shape []int, values []float32) Source {
	return Source{Name: name, Shape: shape, Each: func(yield func([]float32) error) error { return yield(values) }}
}

// Entry is a tensor of a file.
type Entry struct {
	Name  string
	Shape []int
}

// Len is the number of values.
func (e Entry) Len() int { return volume(e.Shape) }

// File is an open file of tensors.
type File struct {
	Entries  []Entry           // in the file's order
	Metadata map[string]string // safetensors only
	Format   string            // safetensors, npz, pytorch, onnx

	open   func(i int) (io.ReadCloser, error) // the bytes of tensor i, exactly as many as its shape says
	closer io.Closer
}

// Open opens a file and reads what is in it, but no values. The format is told by the contents, not by the name.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open model: %w", err)
	}
	out, err := open(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	out.closer = f
	return out, nil
}

// open tells the format and reads the list of tensors.
func open(f *os.File) (*File, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, refuse("it is no plain file")
	}
	return Read(f, info.Size())
}

// Read is Open for what is not a file of its own; r must outlive what it returns.
func Read(r io.ReaderAt, size int64) (*File, error) {
	head := make([]byte, 10)
	n, err := r.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	head = head[:n]
	switch {
	case len(head) < 8:
		return nil, refuse("it has only %d bytes", size)
	case string(head[:4]) == "PK\x03\x04" || string(head[:4]) == "PK\x05\x06":
		return readZip(r, size)
	case head[0] == 0x80 && head[1] <= 5: // a bare pickle: PyTorch before 1.6
		return nil, refuse("it is PyTorch's format of before 2020; write it again: " +
			"python3 -c \"import torch; torch.save(torch.load('FILE', weights_only=True), 'NEW.pt')\"")
	case len(head) > 8 && head[8] == '{':
		return readSafetensors(r, size)
	case head[0] == 0x08: // ModelProto: ir_version comes first
		return readONNX(r, size)
	}
	return readSafetensors(r, size) // says what is wrong with its header
}

// Values gives tensor i's values in order, in pieces that are only borrowed.
func (f *File) Values(i int, yield func([]float32) error) error {
	e := f.Entries[i]
	r, err := f.open(i)
	if err != nil {
		return fmt.Errorf("tensor %s: %w", e.Name, err)
	}
	defer r.Close()
	raw := make([]byte, min(4*e.Len(), pieceBytes))
	values := make([]float32, len(raw)/4)
	for left := 4 * e.Len(); left > 0; {
		part := raw[:min(left, len(raw))]
		if _, err := io.ReadFull(r, part); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = refuse("the file ends within its values")
			}
			return fmt.Errorf("tensor %s: %w", e.Name, err)
		}
		for k := range len(part) / 4 {
			values[k] = math.Float32frombits(binary.LittleEndian.Uint32(part[4*k:]))
		}
		if err := yield(values[:len(part)/4]); err != nil {
			return err
		}
		left -= len(part)
	}
	if _, err := io.Copy(io.Discard, r); err != nil { // an archive's checksum is looked at where its member ends
		return fmt.Errorf("tensor %s: %w", e.Name, err)
	}
	return nil
}

// Load is all values of tensor i.
func (f *File) Load(i int) ([]float32, error) {
	var out []float32
	err := f.Values(i, func(v []float32) error { out = append(out, v...); return nil })
	return out, err
}

// Close closes the file.
func (f *File) Close() error {
	if f.closer == nil {
		return nil
	}
	return f.closer.Close()
}

// Formats are those that Write knows.
var Formats = []string{"safetensors", "pytorch", "npz"}

// Write writes tensors in a format. Only safetensors keeps the metadata.
func Write(w io.Writer, format string, metadata map[string]string, all []Source) error {
	seen := map[string]bool{}
	for _, s := range all {
		if s.Name == "" || seen[s.Name] || volume(s.Shape) < 1 {
			return fmt.Errorf("tensor %q of shape %v cannot be written: it is empty, or there are two", s.Name, s.Shape)
		}
		seen[s.Name] = true
	}
	switch format {
	case "safetensors":
		return writeSafetensors(w, metadata, all)
	case "npz":
		return writeNPZ(w, all)
	case "pytorch":
		return writeTorch(w, all)
	}
	return fmt.Errorf("no format %q; there are %s", format, strings.Join(Formats, ", "))
}

// pieceBytes is how much is converted and moved at once.
const pieceBytes = 1 << 18

// maxValues bounds a tensor: its bytes must be a number.
const maxValues = 1 << 40

// volume is the number of values of a shape; 0 for one that cannot be.
func volume(shape []int) int {
	n := 1
	for _, d := range shape {
		if d < 1 || n > maxValues/d {
			return 0
		}
		n *= d
	}
	return n
}

// writeValues writes a tensor's values.
func writeValues(w io.Writer, s Source) error {
	buf := make([]byte, pieceBytes)
	n := 0
	err := s.Each(func(v []float32) error {
		n += len(v)
		for len(v) > 0 {
			k := min(len(v), len(buf)/4)
			for i, x := range v[:k] {
				binary.LittleEndian.PutUint32(buf[4*i:], math.Float32bits(x))
			}
			if _, err := w.Write(buf[:4*k]); err != nil {
				return err
			}
			v = v[k:]
		}
		return nil
	})
	if err == nil && n != volume(s.Shape) {
		err = fmt.Errorf("it has %d values, its shape %v wants %d", n, s.Shape, volume(s.Shape))
	}
	if err != nil {
		return fmt.Errorf("tensor %s: %w", s.Name, err)
	}
	return nil
}

// section is a part of a file as a reader.
func section(r io.ReaderAt, at, n int64) (io.ReadCloser, error) {
	return io.NopCloser(bufio.NewReaderSize(io.NewSectionReader(r, at, n), pieceBytes)), nil
}
