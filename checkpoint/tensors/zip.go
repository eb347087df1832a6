package tensors

import (
	"archive/zip"
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// npz and PyTorch's files are zip archives: one member for each tensor.

// readZip tells the two apart.
func readZip(r io.ReaderAt, size int64) (*File, error) {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return nil, refuse("its zip archive cannot be read (%v); it is cut short or damaged", err)
	}
	members := map[string]*zip.File{}
	prefix, torch := "", false
	for _, m := range z.File {
		if members[m.Name] != nil {
			return nil, refuse("two of its members are called %s", m.Name)
		}
		members[m.Name] = m
		if p, ok := strings.CutSuffix(m.Name, "data.pkl"); ok && strings.Count(p, "/") == 1 && strings.HasSuffix(p, "/") {
			prefix, torch = p, true
		}
	}
	if torch {
		return readTorch(members, prefix)
	}
	return readNPZ(z.File)
}

// member opens what comes behind the first `skip` bytes of a member that must have `want` bytes behind them.
func member(m *zip.File, skip, want int64) (io.ReadCloser, error) {
	if m.UncompressedSize64 > 1<<62 || int64(m.UncompressedSize64)-skip < want {
		return nil, refuse("member %s has %d bytes, %d are wanted", m.Name, m.UncompressedSize64, skip+want)
	}
	r, err := m.Open()
	if err != nil {
		return nil, refuse("member %s cannot be read: %v", m.Name, err)
	}
	if _, err := io.CopyN(io.Discard, r, skip); err != nil {
		return nil, errors.Join(refuse("member %s ends too early: %v", m.Name, err), r.Close())
	}
	return memberReader{r, m.Name}, nil
}

// memberReader says of which member an error is.
type memberReader struct {
	io.ReadCloser
	name string
}

func (m memberReader) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = refuse("member %s is damaged: %v", m.name, err)
	}
	return n, err
}

// add begins a member that is stored as it is, with nothing in it of when it was written.
func add(z *zip.Writer, name string) (io.Writer, error) {
	return z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
}

const npyMagic = "\x93NUMPY"

// writeNPZ writes NAME.npy for each tensor, version 1.0 of numpy's format.
func writeNPZ(w io.Writer, all []Source) error {
	z := zip.NewWriter(w)
	for _, s := range all {
		m, err := add(z, s.Name+".npy")
		if err != nil {
			return err
		}
		shape := strings.Trim(strings.ReplaceAll(fmt.Sprint(s.Shape), " ", ", "), "[]")
		if len(s.Shape) == 1 {
			shape += ","
		}
		header := fmt.Sprintf("{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }", shape)
		fill := 63 - (10+len(header))%64
		header += strings.Repeat(" ", fill) + "\n"
		head := binary.LittleEndian.AppendUint16([]byte(npyMagic+"\x01\x00"), uint16(len(header)))
		_, err = m.Write(append(head, header...))
		if err != nil {
			return err
		}
		if err := writeValues(m, s); err != nil {
			return err
		}
	}
	return z.Close()
}

var (
	npyDescr = regexp.MustCompile(`'descr': *'([^']*)'`)
	npyOrder = regexp.MustCompile(`'fortran_order': *(True|False)`)
	npyShape = regexp.MustCompile(`'shape': *\(([0-9, ]*)\)`)
)

func readNPZ(members []*zip.File) (*File, error) {
	f := &File{Format: "npz"}
	var files []*zip.File
	var skips []int64
	for _, m := range members {
		name, ok := strings.CutSuffix(m.Name, ".npy")
		if !ok {
			return nil, refuse("its member %s is neither a numpy array nor PyTorch's", m.Name)
		}
		shape, skip, err := readNPY(m)
		if err != nil {
			return nil, err
		}
		if want := skip + 4*int64(volume(shape)); m.UncompressedSize64 != uint64(want) {
			return nil, refuse("member %s has %d bytes, an array of shape %v takes %d", m.Name, m.UncompressedSize64, shape,
				want)
		}
		f.Entries = append(f.Entries, Entry{Name: name, Shape: shape})
		files, skips = append(files, m), append(skips, skip)
	}
	if len(files) == 0 {
		return nil, refuse("its zip archive is empty")
	}
	f.open = func(i int) (io.ReadCloser, error) { return member(files[i], skips[i], 4*int64(f.Entries[i].Len())) }
	return f, nil
}

// readNPY reads an array's header.
func readNPY(m *zip.File) (shape []int, skip int64, err error) {
	r, err := m.Open()
	if err != nil {
		return nil, 0, refuse("member %s cannot be read: %v", m.Name, err)
	}
	defer r.Close()
	b := bufio.NewReader(r)
	head := make([]byte, 10)
	if _, err := io.ReadFull(b, head); err != nil || string(head[:6]) != npyMagic || head[6] < 1 || head[6] > 3 {
		return nil, 0, refuse("member %s is no numpy array", m.Name)
	}
	n, skip := int64(head[8])|int64(head[9])<<8, 10
	if head[6] > 1 { // a length of four bytes
		more := make([]byte, 2)
		if _, err := io.ReadFull(b, more); err != nil {
			return nil, 0, refuse("member %s is no numpy array", m.Name)
		}
		n, skip = n|int64(more[0])<<16|int64(more[1])<<24, 12
	}
	if n > 1<<16 {
		return nil, 0, refuse("member %s has a header of %d bytes", m.Name, n)
	}
	header := make([]byte, n)
	if _, err := io.ReadFull(b, header); err != nil {
		return nil, 0, refuse("member %s ends in its header", m.Name)
	}
	descr, order, dims := npyDescr.FindSubmatch(header), npyOrder.FindSubmatch(header), npyShape.FindSubmatch(header)
	if descr == nil || order == nil || dims == nil {
		return nil, 0, refuse("member %s has a header that numpy does not write", m.Name)
	}
	if string(descr[1]) != "<f4" || string(order[1]) != "False" {
		return nil, 0, refuse("member %s is of type %s, fortran order %s; convert it first: "+
			"numpy.ascontiguousarray(a, dtype='<f4')", m.Name, descr[1], order[1])
	}
	for _, d := range strings.Split(string(dims[1]), ",") {
		if d = strings.TrimSpace(d); d == "" {
			continue
		}
		v, err := strconv.Atoi(d)
		if err != nil {
			return nil, 0, refuse("member %s has a side of %s", m.Name, d)
		}
		shape = append(shape, v)
	}
	if volume(shape) == 0 {
		return nil, 0, refuse("member %s has the shape %v", m.Name, shape)
	}
	return shape, int64(skip) + n, nil
}
