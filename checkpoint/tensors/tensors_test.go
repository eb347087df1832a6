package tensors

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// two are tensors to write, one of which gives its values in pieces.
func two() []Source {
	a := []float32{1, -2, 0.5, float32(math.Inf(1)), math.MaxFloat32, 1e-45}
	return []Source{
		{Name: "conv1.weight", Shape: []int{3, 1, 2}, Each: func(yield func([]float32) error) error {
			for i := range a {
				if err := yield(a[i : i+1]); err != nil {
					return err
				}
			}
			return nil
		}},
		Of("conv1.bias", []int{1}, []float32{7}),
	}
}

func written(t testing.TB, format string, metadata map[string]string, all []Source) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, format, metadata, all); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// onnxOf is a model that has the tensors as constants.
func onnxOf(t testing.TB, all []Source) []byte {
	t.Helper()
	var b bytes.Buffer
	g := &Graph{Name: "g", Input: Entry{Name: "x", Shape: []int{0, 2}}, Outputs: []Entry{{Name: "y", Shape: []int{0, 2}}},
		Nodes: []Node{{Op: "LRN", In: []string{"x"}, Out: "y", Values: []Attribute{{"size", 3}, {"beta", 0.75}, {"pads",
			[]int{1}}}}},
		Floats: all, Ints: map[string][]int64{"shape": {-1, 2}}, IntKeys: []string{"shape"}}
	if err := WriteONNX(&b, g); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func inAllFormats(t testing.TB) map[string][]byte {
	out := map[string][]byte{"onnx": onnxOf(t, two())}
	for _, f := range Formats {
		out[f] = written(t, f, nil, two())
	}
	return out
}

func TestRoundTrip(t *testing.T) {
	for format, raw := range inAllFormats(t) {
		f, err := Read(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			t.Errorf("%s: %v", format, err)
			continue
		}
		if f.Format != format {
			t.Errorf("%s is taken for %s", format, f.Format)
		}
		want := []Entry{{"conv1.weight", []int{3, 1, 2}}, {"conv1.bias", []int{1}}}
		if diff := cmp.Diff(want, f.Entries); diff != "" {
			t.Errorf("%s (-want +got):\n%s", format, diff)
		}
		for i, s := range two() {
			var want []float32
			_ = s.Each(func(v []float32) error { want = append(want, v...); return nil })
			got, err := f.Load(i)
			if err != nil {
				t.Errorf("%s: %v", format, err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s, %s (-want +got):\n%s", format, s.Name, diff)
			}
		}
	}
}

// A change of these bytes is a change of every export.
func TestGoldenSafetensors(t *testing.T) {
	header := `{"__metadata__":{"a":"<1>","b":"2"},"w":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}`
	header = strings.ReplaceAll(strings.ReplaceAll(header, "<", "\\u003c"), ">", "\\u003e") // JSON says the same
	header += strings.Repeat(" ", (8-len(header)%8)%8)
	want := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	want = append(want, header...)
	want = append(want, 0, 0, 128, 63, 0, 0, 0, 192) // 1, -2
	got := written(t, "safetensors", map[string]string{"b": "2", "a": "<1>"}, []Source{Of("w", []int{1, 2}, []float32{1,
		-2})})
	if !bytes.Equal(got, want) {
		t.Errorf("bytes\n%q\nwant\n%q", got, want)
	}
}

// TestSameBytes writes everything twice.
func TestSameBytes(t *testing.T) {
	again := inAllFormats(t)
	for format, raw := range inAllFormats(t) {
		if !bytes.Equal(raw, again[format]) {
			t.Errorf("%s: written twice, two files", format)
		}
	}
}

// safe is a safetensors file of a header and values.
func safe(header string, values int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, values)...)
}

func TestRefusals(t *testing.T) {
	one := `{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`
	good := inAllFormats(t)
	for name, c := range map[string]struct {
		raw  []byte
		want string
	}{
		"empty": {nil, "it has only 0 bytes"},
		"absurd header": {append(binary.LittleEndian.AppendUint64(nil, 1<<62), one...),
			"its header would have 4611686018427387904 bytes"},
		"header beyond end": {safe(one, 8)[:20], "the file has 20"},
		"cut values":        {safe(one, 7), "it has 7 bytes of values, its header speaks of 8; it is cut short or damaged"},
		"more values":       {safe(one, 9), "it has 9 bytes of values"},
		"no JSON":           {safe(`{"w":`+strings.Repeat("[", 30), 0), "its safetensors header is no JSON"},
		"not UTF-8":         {safe("{\"\xff\":1}", 0), "not UTF-8"},
		"twice": {safe(`{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},`+
			`"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`,
			8), `names "w" twice`},
		"other type": {safe(`{"w":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}`, 4),
			`tensor w is of type "F16"; convert`},
		"wrong bytes": {safe(`{"w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}`, 8),
			"tensor w of shape [3] cannot lie at"},
		"overflow": {safe(`{"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}`, 0),
			"tensor w of shape"},
		"negative": {safe(`{"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,-4]}}`, 0), "tensor w of shape [-1]"},
		"overlap": {safe(`{"v":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},`+
			`"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`,
			8), "tensor w begins at byte 4 of the values, the one before ends at 8"},
		"hole":          {safe(`{"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 8), "begins at byte 4"},
		"no tensor":     {safe(`{}        `, 0), "no tensor in it"},
		"old PyTorch":   {[]byte("\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."), "PyTorch's format of before 2020"},
		"cut zip":       {good["npz"][:len(good["npz"])-30], "its zip archive cannot be read"},
		"cut onnx":      {good["onnx"][:len(good["onnx"])-30], "as ONNX"},
		"other pickle":  {torchFile("cposix\nsystem\n."), `its pickle wants "posix.system", which no state_dict needs`},
		"no dictionary": {torchFile("\x80\x02]."), "it is no state_dict"},
		"cut pickle":    {torchFile("\x80\x02("), "its pickle is damaged"},
		"no array":      {zipOf("w.npy", "x"), "member w.npy is no numpy array"},
		"doubles": {zipOf("w.npy",
			"\x93NUMPY\x01\x00\x40\x00{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }         "),
			"is of type <f8"},
		"other zip": {zipOf("readme.txt", "x"), "readme.txt is neither a numpy array nor PyTorch's"},
	} {
		f, err := Read(bytes.NewReader(c.raw), int64(len(c.raw)))
		if err == nil {
			t.Errorf("%s: taken for %d tensors of %s", name, len(f.Entries), f.Format)
			continue
		}
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want one line with: %s", name, err, c.want)
		}
	}
}

// bomb is a zip archive whose members hold so many zeros behind their text, packed a thousandfold.
func bomb(t testing.TB, zeros int64, members ...[2]string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, m := range members {
		w, err := z.Create(m[0])
		if err == nil {
			_, err = io.WriteString(w, m[1])
		}
		if err == nil {
			_, err = io.CopyN(w, zeroes{}, zeros)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestBombs opens archives of some ten kilobytes that unpack to 64 MiB: refused by their lists alone, whichever member.
func TestBombs(t *testing.T) {
	const zeros = 64 << 20
	array := "\x93NUMPY\x01\x00\x40\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }         "
	array = array[:10] + fmt.Sprintf("%-64s", strings.TrimRight(array[10:], " "))
	pickle := string(torchPickle(two()[1:]))
	for name, c := range map[string]struct {
		raw  []byte
		want string
	}{
		"array":   {bomb(t, zeros, [2]string{"w.npy", array}), "an array of shape [2] takes 82"},
		"pickle":  {bomb(t, zeros, [2]string{"m/data.pkl", pickle}), "member m/data.pkl has 67"},
		"storage": {bomb(t, 1<<20, [2]string{"m/data.pkl", pickle}, [2]string{"m/data/0", ""}), "is compressed, which"},
		"twice": {bomb(t, 0, [2]string{"m/data.pkl", pickle}, [2]string{"m/data/0", "12"}, [2]string{"m/data/0", "3"}),
			"two of its members are called m/data/0"},
	} {
		f, err := Read(bytes.NewReader(c.raw), int64(len(c.raw)))
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, %v, want one line with: %s", name, f, err, c.want)
		}
	}
}

func zipOf(name, text string) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, _ := add(z, name)
	_, _ = io.WriteString(w, text)
	_ = z.Close()
	return b.Bytes()
}

func torchFile(pickle string) []byte { return zipOf("archive/data.pkl", pickle) }

// TestDamagedValues finds values that a zip's checksum does not fit.
func TestDamagedValues(t *testing.T) {
	for _, format := range []string{"npz", "pytorch"} {
		raw := written(t, format, nil, []Source{Of("w", []int{64}, bytes64())})
		at := bytes.Index(raw, []byte{0, 0, 0x80, 0x3f, 0, 0, 0x80, 0x3f})
		raw[at] ^= 1
		f, err := Read(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			t.Errorf("%s: %v", format, err)
			continue
		}
		if _, err := f.Load(0); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: damaged values are read: %v", format, err)
		}
	}
}

func bytes64() []float32 {
	v := make([]float32, 64)
	for i := range v {
		v[i] = 1
	}
	return v
}

// TestCreate leaves what was there, and nothing else, when a write fails.
func TestCreate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "m.safetensors")
	if err := Create(path, func(w io.Writer) error { _, err := io.WriteString(w, "old"); return err }); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("disk full")
	err := Create(path, func(w io.Writer) error { _, _ = io.WriteString(w, "new"); return broken })
	if !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "old" {
		t.Errorf("the file holds %q, %v", b, err)
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) != 1 {
		t.Errorf("%d files are left, %v", len(all), err)
	}
	for path, want := range map[string]string{dir: "is a directory; name a file", os.DevNull: "is no plain file"} {
		err := Create(path, func(io.Writer) error { t.Errorf("%s is written", path); return nil })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("into %s: %v", path, err)
		}
	}
	if err := Create(filepath.Join(dir, "none", "m"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("into no directory: %v", err)
	}
}

func TestWriteRefuses(t *testing.T) {
	for _, all := range [][]Source{
		{Of("", []int{1}, []float32{1})}, {Of("w", nil, nil), Of("w", []int{1}, []float32{1})},
		{Of("w", []int{2}, []float32{1})}, {Of("w", []int{0}, nil)},
	} {
		for _, format := range Formats {
			if err := Write(io.Discard, format, nil, all); err == nil {
				t.Errorf("%s of %v is written", format, all[0].Shape)
			}
		}
	}
}

// FuzzRead wants an error of one line or tensors whose values can be asked for, never a panic.
func FuzzRead(f *testing.F) {
	for _, raw := range inAllFormats(f) {
		f.Add(raw)
	}
	f.Add(safe(`{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, 8))
	f.Add(torchFile("\x80\x02}X\x01\x00\x00\x00wK\x01s."))
	f.Fuzz(readAnything)
}

func readAnything(t *testing.T, raw []byte) {
	m, err := Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		if strings.ContainsAny(err.Error(), "\n") {
			t.Errorf("an error of more than a line: %q", err)
		}
		return
	}
	for i, e := range m.Entries {
		if e.Len() > len(raw)*2000 { // a zip's members may be packed
			continue
		}
		if _, err := m.Load(i); err != nil && !errors.Is(err, ErrFormat) {
			t.Errorf("tensor %d: %v", i, err)
		}
	}
}

// TestDamage flips and cuts every byte of small files of all formats.
func TestDamage(t *testing.T) {
	for _, raw := range inAllFormats(t) {
		for i := range raw {
			readAnything(t, raw[:i])
			for _, x := range []byte{1, 0x80, 0xff} {
				bad := bytes.Clone(raw)
				bad[i] ^= x
				readAnything(t, bad)
			}
		}
	}
}

// TestMetadata comes back, and what is no text is refused.
func TestMetadata(t *testing.T) {
	want := map[string]string{"network_text": "a\nb: \"c\" \u2028", "k": ""}
	raw := written(t, "safetensors", want, two())
	f, err := Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, f.Metadata); diff != "" {
		t.Error(diff)
	}
	bad := safe(fmt.Sprintf(`{"__metadata__":{"a":1},%s`, `"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`), 8)
	if _, err := Read(bytes.NewReader(bad), int64(len(bad))); !errors.Is(err, ErrFormat) {
		t.Errorf("a number as metadata: %v", err)
	}
	if !json.Valid(raw[8 : 8+binary.LittleEndian.Uint64(raw)]) {
		t.Error("the header is no JSON")
	}
}

// TestCreateAll has the second of two files fail, in writing and in getting its name: neither appears.
func TestCreateAll(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	text := func(s string) func(io.Writer) error {
		return func(w io.Writer) error { _, err := io.WriteString(w, s); return err }
	}
	if err := CreateAll(New{a, text("old a")}, New{b, text("old b")}); err != nil {
		t.Fatal(err)
	}
	for _, broken := range []error{errors.New("broken"), fmt.Errorf("write: %w", syscall.ENOSPC)} {
		err := CreateAll(New{a, text("new a")}, New{b, func(io.Writer) error { return broken }})
		if !errors.Is(err, broken) || !strings.Contains(err.Error(), b) || strings.Contains(err.Error(), "\n") {
			t.Errorf("error %v", err)
		}
		if full := errors.Is(broken, syscall.ENOSPC); strings.Contains(err.Error(), "; free some space there") != full {
			t.Errorf("%v: says what to do about a full disk, or does not", err)
		}
		for path, want := range map[string]string{a: "old a", b: "old b"} {
			if got, err := os.ReadFile(path); err != nil || string(got) != want {
				t.Errorf("%s holds %q, %v", path, got, err)
			}
		}
		if all, err := os.ReadDir(dir); err != nil || len(all) != 2 {
			t.Errorf("%d files are left, %v", len(all), err)
		}
	}
}
