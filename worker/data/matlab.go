package data

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// What ILSVRC's development kit says of its synsets lies in meta.mat, a MATLAB file of version 5 (MAT-File Format, The
// MathWorks, chapter 1): a struct array named synsets with the fields ILSVRC2012_ID (or ILSVRC2010_ID), WNID and
// num_children. Only what that takes is read here: little-endian, structs, texts and numbers.

// Types of elements and classes of arrays.
const (
	matInt8, matUint8, matInt16, matUint16, matInt32, matUint32 = 1, 2, 3, 4, 5, 6
	matDouble, matMatrix, matCompressed, matUTF8, matUTF16      = 9, 14, 15, 16, 17

	matStruct, matChar = 2, 4
)

// maxMatlab bounds what a compressed element may come to; the kit's is half a megabyte.
const maxMatlab = 64 << 20

var errMatlab = errors.New("is no MATLAB file (version 5, little-endian) with the kit's synsets")

// isMatlab says whether a file begins as one of version 5 does.
func isMatlab(b []byte) bool {
	return len(b) > 128 && bytes.HasPrefix(b, []byte("MATLAB 5.0")) && string(b[126:128]) == "IM"
}

// matlabSynsets reads the names of the classes in the order of their numbers: those without children, which the kit
// numbers from 1.
func matlabSynsets(b []byte) ([]string, error) {
	if !isMatlab(b) {
		return nil, errMatlab
	}
	for rest := b[128:]; len(rest) > 0; {
		kind, body, after, err := matElement(rest)
		if err != nil {
			return nil, err
		}
		rest = after
		if kind == matCompressed {
			z, err := zlib.NewReader(bytes.NewReader(body))
			if err != nil {
				return nil, fmt.Errorf("%w: %w", errMatlab, err)
			}
			raw, err := io.ReadAll(io.LimitReader(z, maxMatlab))
			if err != nil {
				return nil, fmt.Errorf("%w: %w", errMatlab, err)
			}
			if kind, body, _, err = matElement(raw); err != nil {
				return nil, err
			}
		}
		if kind != matMatrix {
			continue
		}
		m, err := matArray(body)
		if err != nil {
			return nil, err
		}
		if m.class == matStruct && m.name == "synsets" {
			return m.synsets()
		}
	}
	return nil, fmt.Errorf("%w: it has no struct array named synsets", errMatlab)
}

// matElement takes an element off the beginning of b. Small ones have their data in the tag; compressed ones are not
// padded.
func matElement(b []byte) (kind int, body, rest []byte, err error) {
	le := binary.LittleEndian
	if len(b) < 8 {
		return 0, nil, nil, fmt.Errorf("%w: it is cut short", errMatlab)
	}
	if small := le.Uint16(b[2:]); small != 0 {
		if small > 4 {
			return 0, nil, nil, fmt.Errorf("%w: a small element of %d bytes", errMatlab, small)
		}
		return int(le.Uint16(b)), b[4 : 4+small], b[8:], nil
	}
	kind, n := int(le.Uint32(b)), int64(le.Uint32(b[4:]))
	b = b[8:]
	if n > int64(len(b)) {
		return 0, nil, nil, fmt.Errorf("%w: it is cut short", errMatlab)
	}
	end := n
	if kind != matCompressed {
		end = min((n+7)/8*8, int64(len(b)))
	}
	return kind, b[:n], b[end:], nil
}

// matrix is an array of MATLAB.
type matrix struct {
	class  int
	name   string
	count  int
	fields []string
	data   []byte // behind the name, or behind the fields' names
}

// matArray reads the head of an array: flags, dimensions, name, and of a struct the fields' names.
func matArray(b []byte) (m matrix, err error) {
	parts := [3][]byte{}
	for i := range parts {
		if _, parts[i], b, err = matElement(b); err != nil {
			return m, err
		}
	}
	if len(parts[0]) < 4 || len(parts[1])%4 != 0 || len(parts[1]) < 8 {
		return m, fmt.Errorf("%w: an array without class or dimensions", errMatlab)
	}
	m.class, m.name, m.count = int(parts[0][0]), string(parts[2]), 1
	for d := parts[1]; len(d) > 0; d = d[4:] {
		n := int64(binary.LittleEndian.Uint32(d))
		if n > math.MaxInt32 || int64(m.count)*n > maxMatlab {
			return m, fmt.Errorf("%w: an array of more than %d elements", errMatlab, maxMatlab)
		}
		m.count *= int(n)
	}
	if m.class != matStruct {
		m.data = b
		return m, nil
	}
	_, length, b, err := matElement(b)
	if err != nil {
		return m, err
	}
	_, names, b, err := matElement(b)
	if err != nil {
		return m, err
	}
	each := 0
	if len(length) == 4 {
		each = int(binary.LittleEndian.Uint32(length))
	}
	if each == 0 || len(names)%each != 0 {
		return m, fmt.Errorf("%w: a struct whose fields have no names", errMatlab)
	}
	for ; len(names) > 0; names = names[each:] {
		name, _, _ := bytes.Cut(names[:each], []byte{0})
		m.fields = append(m.fields, string(name))
	}
	m.data = b
	return m, nil
}

// text is an array of characters; number is the first number of another.
func (m *matrix) text() (string, error) {
	kind, b, _, err := matElement(m.data)
	if err != nil || m.class != matChar {
		return "", errors.Join(err, errMatlab)
	}
	switch kind {
	case matUTF8, matInt8, matUint8:
		return string(b), nil
	case matUint16, matUTF16:
		out := make([]rune, 0, len(b)/2)
		for ; len(b) >= 2; b = b[2:] {
			out = append(out, rune(binary.LittleEndian.Uint16(b)))
		}
		return string(out), nil
	}
	return "", fmt.Errorf("%w: a text of kind %d", errMatlab, kind)
}

func (m *matrix) number() (float64, error) {
	kind, b, _, err := matElement(m.data)
	if err != nil {
		return 0, err
	}
	le := binary.LittleEndian
	switch {
	case kind == matDouble && len(b) >= 8:
		return math.Float64frombits(le.Uint64(b)), nil
	case kind == matInt8 && len(b) >= 1:
		return float64(int8(b[0])), nil
	case kind == matUint8 && len(b) >= 1:
		return float64(b[0]), nil
	case kind == matInt16 && len(b) >= 2:
		return float64(int16(le.Uint16(b))), nil
	case kind == matUint16 && len(b) >= 2:
		return float64(le.Uint16(b)), nil
	case kind == matInt32 && len(b) >= 4:
		return float64(int32(le.Uint32(b))), nil
	case kind == matUint32 && len(b) >= 4:
		return float64(le.Uint32(b)), nil
	}
	return 0, fmt.Errorf("%w: a number of kind %d", errMatlab, kind)
}

// synsets are the names of those without children, by number.
func (m *matrix) synsets() ([]string, error) {
	by, rest := map[int]string{}, m.data
	for range m.count {
		id, name, children := 0.0, "", 0.0
		for _, field := range m.fields {
			kind, body, after, err := matElement(rest)
			if err != nil {
				return nil, err
			}
			rest = after
			if kind != matMatrix {
				return nil, fmt.Errorf("%w: a field that is no array", errMatlab)
			}
			v, err := matArray(body)
			if err == nil {
				switch field {
				case "ILSVRC2012_ID", "ILSVRC2010_ID":
					id, err = v.number()
				case "num_children":
					children, err = v.number()
				case "WNID":
					name, err = v.text()
				}
			}
			if err != nil {
				return nil, fmt.Errorf("field %s: %w", field, err)
			}
		}
		if children != 0 {
			continue
		}
		at := int(id)
		if float64(at) != id || at < 1 || name == "" || by[at] != "" {
			return nil, fmt.Errorf("%w: synset %q has the number %v", errMatlab, name, id)
		}
		by[at] = name
	}
	names := make([]string, len(by))
	for at, name := range by {
		if at > len(names) {
			return nil, fmt.Errorf("%w: %d synsets without children, and one has the number %d", errMatlab, len(by), at)
		}
		names[at-1] = name
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%w: it has no synset without children", errMatlab)
	}
	return names, nil
}
