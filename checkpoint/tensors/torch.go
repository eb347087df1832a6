package tensors

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strconv"
)

// A PyTorch file is a zip archive: NAME/data.pkl, a pickle of the dictionary in which each tensor is a call of
// torch._utils._rebuild_tensor_v2 on a storage; NAME/data/0, 1 and so on, the storages' bytes; NAME/version; and
// NAME/byteorder. The pickle we write has what torch.load(weights_only=True) allows, and we read no more than that.

const torchName = "model/"

func writeTorch(w io.Writer, all []Source) error {
	z := zip.NewWriter(w)
	for _, m := range []struct {
		name string
		data []byte
	}{{"data.pkl", torchPickle(all)}, {"byteorder", []byte("little")}, {"version", []byte("3\n")}} {
		f, err := add(z, torchName+m.name)
		if err == nil {
			_, err = f.Write(m.data)
		}
		if err != nil {
			return err
		}
	}
	for i, s := range all {
		f, err := add(z, fmt.Sprintf("%sdata/%d", torchName, i))
		if err == nil {
			err = writeValues(f, s)
		}
		if err != nil {
			return err
		}
	}
	return z.Close()
}

// torchPickle is an OrderedDict of tensors, in protocol 2.
func torchPickle(all []Source) []byte {
	var p pickler
	p.WriteString("\x80\x02")                      // PROTO 2
	p.WriteString("ccollections\nOrderedDict\n)R") // GLOBAL, EMPTY_TUPLE, REDUCE
	p.WriteByte('(')                               // MARK
	for i, s := range all {
		p.text(s.Name)
		p.WriteString("ctorch._utils\n_rebuild_tensor_v2\n(")
		p.WriteByte('(') // the storage's persistent id
		p.text("storage")
		p.WriteString("ctorch\nFloatStorage\n")
		p.text(strconv.Itoa(i))
		p.text("cpu")
		p.number(volume(s.Shape))
		p.WriteString("tQ")
		p.number(0)
		p.tuple(s.Shape)
		p.tuple(strides(s.Shape))
		p.WriteString("\x89ccollections\nOrderedDict\n)RtR") // requires_grad False, no hooks; TUPLE, REDUCE
	}
	p.WriteString("u.") // SETITEMS, STOP
	return p.Bytes()
}

// strides are those of a row-major tensor.
func strides(shape []int) []int {
	out := make([]int, len(shape))
	n := 1
	for i := len(shape) - 1; i >= 0; i-- {
		out[i] = n
		n *= shape[i]
	}
	return out
}

type pickler struct{ bytes.Buffer }

func (p *pickler) text(s string) {
	p.Write(binary.LittleEndian.AppendUint32([]byte{'X'}, uint32(len(s))))
	p.WriteString(s)
}

func (p *pickler) number(n int) {
	if n < 1<<31 {
		p.Write(binary.LittleEndian.AppendUint32([]byte{'J'}, uint32(n)))
		return
	}
	p.Write(binary.LittleEndian.AppendUint64([]byte{0x8a, 8}, uint64(n))) // LONG1
}

func (p *pickler) tuple(v []int) {
	p.WriteByte('(')
	for _, n := range v {
		p.number(n)
	}
	p.WriteByte('t')
}

// readTorch reads a PyTorch file whose members' names begin with prefix.
func readTorch(byName map[string]*zip.File, prefix string) (*File, error) {
	if m := byName[prefix+"byteorder"]; m != nil {
		order, err := readMember(m, 16)
		if err != nil {
			return nil, err
		}
		if string(order) != "little" {
			return nil, refuse("its byte order is %q; write it again on a little-endian machine", order)
		}
	}
	raw, err := readMember(byName[prefix+"data.pkl"], maxHeader)
	if err != nil {
		return nil, err
	}
	found, err := unpickleTensors(raw)
	if err != nil {
		return nil, err
	}
	f := &File{Format: "pytorch"}
	var files []*zip.File
	var skips []int64
	for _, t := range found {
		if v := volume(t.shape); v == 0 || !contiguous(t.shape, t.strides) || t.offset < 0 || t.offset > maxValues {
			return nil, refuse("tensor %s of shape %v does not lie in one piece; save it again with .contiguous()", t.name,
				t.shape)
		}
		if t.storage.kind != "FloatStorage" {
			return nil, refuse("tensor %s is a torch.%s; convert it with .float() first", t.name, t.storage.kind)
		}
		m := byName[prefix+"data/"+t.storage.key]
		if m == nil {
			return nil, refuse("the values of tensor %s (%sdata/%s) are not in it", t.name, prefix, t.storage.key)
		}
		if m.Method != zip.Store {
			return nil, refuse("member %s is compressed, which PyTorch never does; save it again with torch.save", m.Name)
		}
		f.Entries = append(f.Entries, Entry{Name: t.name, Shape: t.shape})
		files, skips = append(files, m), append(skips, 4*int64(t.offset))
	}
	if len(files) == 0 {
		return nil, refuse("there is no tensor in it")
	}
	f.open = func(i int) (io.ReadCloser, error) { return member(files[i], skips[i], 4*int64(f.Entries[i].Len())) }
	return f, nil
}

// contiguous says whether a tensor lies row-major; where a side is 1 any stride will do.
func contiguous(shape, got []int) bool {
	if len(shape) != len(got) {
		return false
	}
	for i, want := range strides(shape) {
		if shape[i] != 1 && got[i] != want {
			return false
		}
	}
	return true
}

// readMember is a small member's contents.
func readMember(m *zip.File, limit int64) ([]byte, error) {
	if m.UncompressedSize64 > uint64(limit) {
		return nil, refuse("member %s has %d bytes, more than %d", m.Name, m.UncompressedSize64, limit)
	}
	r, err := m.Open()
	if err != nil {
		return nil, refuse("member %s cannot be read: %v", m.Name, err)
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, refuse("member %s is damaged: %v", m.Name, err)
	}
	return b, nil
}
