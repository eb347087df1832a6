package tensors

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"unicode/utf8"
)

// A safetensors file is a length (uint64), a JSON header of that many bytes, and the values:
//
//	{"__metadata__": {"name": "text", ...}, "conv1.weight": {"dtype": "F32", "shape": [...], "data_offsets": [from, to]}}
//
// Offsets count from the header's end. Tensors leave no hole and do not overlap. Ours are written in the order given,
// the metadata by name, the header filled up with spaces to a multiple of eight bytes.

const (
	metadataKey = "__metadata__"
	maxHeader   = 16 << 20 // bytes; a header of thousands of tensors is some hundred kilobytes
)

type safeEntry struct {
	DType   string   `json:"dtype"`
	Shape   []int    `json:"shape"`
	Offsets [2]int64 `json:"data_offsets"`
}

func writeSafetensors(w io.Writer, metadata map[string]string, all []Source) error {
	var b bytes.Buffer
	b.WriteByte('{')
	if len(metadata) > 0 {
		fmt.Fprintf(&b, "%q:{", metadataKey)
		for i, k := range slices.Sorted(maps.Keys(metadata)) {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := jsonPair(&b, k, metadata[k]); err != nil {
				return err
			}
		}
		b.WriteByte('}')
	}
	var at int64
	for _, s := range all {
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		next := at + 4*int64(volume(s.Shape))
		if err := jsonPair(&b, s.Name, safeEntry{"F32", s.Shape, [2]int64{at, next}}); err != nil {
			return err
		}
		at = next
	}
	b.WriteByte('}')
	for b.Len()%8 != 0 {
		b.WriteByte(' ')
	}
	if b.Len() > maxHeader {
		return fmt.Errorf("a header of %d bytes is longer than %d", b.Len(), maxHeader)
	}
	if _, err := w.Write(binary.LittleEndian.AppendUint64(nil, uint64(b.Len()))); err != nil {
		return err
	}
	if _, err := w.Write(b.Bytes()); err != nil {
		return err
	}
	for _, s := range all {
		if err := writeValues(w, s); err != nil {
			return err
		}
	}
	return nil
}

// jsonPair adds "key":value.
func jsonPair(b *bytes.Buffer, key string, value any) error {
	k, err := json.Marshal(key)
	if err != nil {
		return err
	}
	v, err := json.Marshal(value)
	if err != nil {
		return err
	}
	b.Write(k)
	b.WriteByte(':')
	b.Write(v)
	return nil
}

func readSafetensors(r io.ReaderAt, size int64) (*File, error) {
	head := make([]byte, 8)
	if _, err := r.ReadAt(head, 0); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint64(head)
	if n < 2 || n > maxHeader || int64(n) > size-8 {
		return nil, refuse("as safetensors its header would have %d bytes, the file has %d; it is damaged, cut short, or of "+
			"another format", n, size)
	}
	header := make([]byte, n)
	if _, err := r.ReadAt(header, 8); err != nil {
		return nil, err
	}
	f := &File{Format: "safetensors"}
	offsets, err := f.parseSafetensors(header)
	if err != nil {
		return nil, err
	}
	data := 8 + int64(n)
	if err := f.checkOffsets(offsets, size-data); err != nil {
		return nil, err
	}
	f.open = func(i int) (io.ReadCloser, error) {
		return section(r, data+offsets[i][0], offsets[i][1]-offsets[i][0])
	}
	return f, nil
}

// parseSafetensors reads the header in its order, and refuses a name that comes twice, which a map would hide.
func (f *File) parseSafetensors(header []byte) (offsets [][2]int64, err error) {
	bad := func(err error) error { return refuse("its safetensors header is no JSON of tensors: %v", err) }
	if !utf8.Valid(header) {
		return nil, bad(errors.New("not UTF-8"))
	}
	d := json.NewDecoder(bytes.NewReader(header))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, bad(errors.New("it does not begin with {"))
	}
	seen := map[string]bool{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, bad(err)
		}
		name, _ := t.(string)
		if seen[name] || name == "" {
			return nil, refuse("its header names %q twice, or a tensor without a name", name)
		}
		seen[name] = true
		if name == metadataKey {
			if err := d.Decode(&f.Metadata); err != nil {
				return nil, bad(err)
			}
			continue
		}
		var e safeEntry
		if err := d.Decode(&e); err != nil {
			return nil, bad(fmt.Errorf("%s: %w", name, err))
		}
		if e.DType != "F32" {
			return nil, refuse("tensor %s is of type %q; convert it to float32 (F32) first", name, e.DType)
		}
		if v := volume(e.Shape); v == 0 || e.Offsets[0] < 0 || e.Offsets[1]-e.Offsets[0] != 4*int64(v) {
			return nil, refuse("tensor %s of shape %v cannot lie at bytes %d to %d", name, e.Shape, e.Offsets[0], e.Offsets[1])
		}
		f.Entries = append(f.Entries, Entry{Name: name, Shape: e.Shape})
		offsets = append(offsets, e.Offsets)
	}
	if _, err := d.Token(); err != nil {
		return nil, bad(err)
	}
	if rest := bytes.TrimRight(header[d.InputOffset():], " "); len(rest) > 0 {
		return nil, refuse("its header goes on behind its end")
	}
	if len(f.Entries) == 0 {
		return nil, refuse("there is no tensor in it")
	}
	return offsets, nil
}

// checkOffsets wants tensors that fill the file, without a hole or an overlap.
func (f *File) checkOffsets(offsets [][2]int64, size int64) error {
	order := make([]int, len(offsets))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return int(min(max(offsets[a][0]-offsets[b][0], -1), 1)) })
	at := int64(0)
	for _, i := range order {
		if offsets[i][0] != at {
			return refuse("tensor %s begins at byte %d of the values, the one before ends at %d", f.Entries[i].Name,
				offsets[i][0], at)
		}
		at = offsets[i][1]
	}
	if at != size {
		return refuse("it has %d bytes of values, its header speaks of %d; it is cut short or damaged", size, at)
	}
	return nil
}
