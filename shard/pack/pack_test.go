package pack

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// sample is the header the golden bytes are of.
func sample() *Header {
	h := &Header{Images: 3, Channels: 1, Height: 2, Width: 2, Classes: []string{"cat", "d"}}
	for i := range h.ID {
		h.ID[i] = byte(i)
	}
	return h
}

// golden is the sample as version 1 lays it on disk, written out by hand from the package comment. Files of version 1
// exist: these bytes never change.
const golden = "636f6c7061636b00" + // magic
	"01000000" + "54000000" + // version, header bytes
	"0300000000000000" + "01000000" + "02000000" + "02000000" + "02000000" + // images, C, H, W, classes
	"0300636174" + "010064" + // cat, d
	"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f" + // identity
	"76f2100a" // checksum

func TestEncodeIsGolden(t *testing.T) {
	if diff := cmp.Diff(golden, hex.EncodeToString(sample().Encode())); diff != "" {
		t.Errorf("header bytes (-golden +got):\n%s", diff)
	}
	want, err := hex.DecodeString(golden)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Read(bytes.NewReader(want))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample(), got); diff != "" {
		t.Errorf("header read from the golden bytes (-want +got):\n%s", diff)
	}
}

func TestOffsetsFollowTheHeader(t *testing.T) {
	h := sample()
	got := []int64{h.LabelsAt(), h.MeanAt(), h.PixelsAt(), h.FileBytes()}
	head := int64(len(h.Encode()))
	if diff := cmp.Diff([]int64{head, head + 3*2, head + 3*2 + 4*4, head + 3*2 + 4*4 + 3*4}, got); diff != "" {
		t.Errorf("offsets (-want +got):\n%s", diff)
	}
}

// drawHeader draws any header that Check lets pass.
func drawHeader(t *rapid.T) *Header {
	h := &Header{
		Images:   rapid.IntRange(1, maxImages).Draw(t, "images"),
		Channels: rapid.IntRange(1, 64).Draw(t, "channels"),
		Height:   rapid.IntRange(1, 1024).Draw(t, "height"),
		Width:    rapid.IntRange(1, 1024).Draw(t, "width"),
		Classes:  rapid.SliceOfN(rapid.StringN(1, 40, maxName), 1, 20).Draw(t, "classes"),
	}
	copy(h.ID[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "id"))
	return h
}

func TestReadUndoesEncode(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := drawHeader(t)
		if err := h.Check(); err != nil {
			t.Skip(err) // a name of invalid UTF-8
		}
		encoded := h.Encode()
		if len(encoded) != h.Bytes() {
			t.Fatalf("encoded %d bytes, Bytes says %d", len(encoded), h.Bytes())
		}
		got, err := Read(bytes.NewReader(append(encoded, "labels and pixels"...)))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(h, got); diff != "" {
			t.Fatalf("read back (-want +got):\n%s", diff)
		}
	})
}

// TestEveryDamageIsRefused flips every bit and cuts at every length.
func TestEveryDamageIsRefused(t *testing.T) {
	whole := sample().Encode()
	for bit := range 8 * len(whole) {
		damaged := bytes.Clone(whole)
		damaged[bit/8] ^= 1 << (bit % 8)
		if h, err := Read(bytes.NewReader(damaged)); !errors.Is(err, ErrPack) {
			t.Errorf("bit %d of byte %d flipped: header %v, error %v, want ErrPack", bit%8, bit/8, h, err)
		}
	}
	for n := range whole {
		if h, err := Read(bytes.NewReader(whole[:n])); !errors.Is(err, ErrPack) {
			t.Errorf("cut to %d bytes: header %v, error %v, want ErrPack", n, h, err)
		}
	}
}

// forge rewrites a word of the sample's header and makes the checksum right again.
func forge(at int, v uint32) []byte {
	b := sample().Encode()
	binary.LittleEndian.PutUint32(b[at:], v)
	return binary.LittleEndian.AppendUint32(b[:len(b)-4], crc32.ChecksumIEEE(b[:len(b)-4]))
}

// TestForgedHeadersAreRefused gives headers whose checksum is right and whose structure is not.
func TestForgedHeadersAreRefused(t *testing.T) {
	for name, b := range map[string][]byte{
		"version 0":           forge(8, 0),
		"version 2":           forge(8, 2),
		"header of 16 bytes":  forge(12, 16),
		"header of 4 GB":      forge(12, 1<<32-1),
		"header cut by one":   forge(12, 0x53),
		"2^63 images":         forge(20, 1<<31),
		"one name left over":  forge(36, 1),
		"one name missing":    forge(36, 3),
		"2^32-1 names":        forge(36, 1<<32-1),
		"name beyond the end": forge(40, 0xffff),
	} {
		if h, err := Read(bytes.NewReader(b)); !errors.Is(err, ErrPack) {
			t.Errorf("%s: header %v, error %v, want ErrPack", name, h, err)
		}
	}
}

// TestImpossibleNumbersAreRefused gives whole headers that say something no pack can.
func TestImpossibleNumbersAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(*Header){
		"no images":     func(h *Header) { h.Images = 0 },
		"2^40+1 images": func(h *Header) { h.Images = maxImages + 1 },
		"no channels":   func(h *Header) { h.Channels = 0 },
		"65 channels":   func(h *Header) { h.Channels = 65 },
		"no height":     func(h *Header) { h.Height = 0 },
		"no width":      func(h *Header) { h.Width = 0 },
		"long sides":    func(h *Header) { h.Height, h.Width = 1<<16+1, 1<<16+1 },
		"2 GB an image": func(h *Header) { h.Channels, h.Height, h.Width = 2, 1<<15, 1<<15 },
		"2^63 bytes":    func(h *Header) { h.Images, h.Height, h.Width = maxImages, 1<<12, 1<<12 },
		"no classes":    func(h *Header) { h.Classes = nil },
		"65537 classes": func(h *Header) { h.Classes = slices.Repeat([]string{"x"}, 1<<16+1) },
		"empty name":    func(h *Header) { h.Classes[1] = "" },
		"long name":     func(h *Header) { h.Classes[1] = strings.Repeat("x", maxName+1) },
		"invalid UTF-8": func(h *Header) { h.Classes[1] = "\xff" },
	} {
		h := sample()
		spoil(h)
		if err := h.Check(); !errors.Is(err, ErrPack) {
			t.Errorf("%s: Check: %v, want ErrPack", name, err)
		}
		if h, err := Read(bytes.NewReader(h.Encode())); !errors.Is(err, ErrPack) {
			t.Errorf("%s: Read: header %v, error %v, want ErrPack", name, h, err)
		}
	}
}

// TestIdentityCoversEverything changes one thing at a time.
func TestIdentityCoversEverything(t *testing.T) {
	sum := func(change func(*Header), data string) [32]byte {
		h := sample()
		change(h)
		s := h.NewIdentity()
		s.Write([]byte(data))
		return [32]byte(s.Sum(nil))
	}
	base := sum(func(*Header) {}, "data")
	if again := sum(func(h *Header) { h.ID = [32]byte{} }, "data"); again != base {
		t.Error("the identity depends on the ID field, which holds it")
	}
	seen := map[[32]byte]string{base: "nothing changed"}
	for name, change := range map[string]func(*Header){
		"images":   func(h *Header) { h.Images++ },
		"channels": func(h *Header) { h.Channels++ },
		"height":   func(h *Header) { h.Height = 4; h.Width = 1 },
		"width":    func(h *Header) { h.Height = 1; h.Width = 4 },
		"names":    func(h *Header) { h.Classes = []string{"ca", "td"} },
		"order":    func(h *Header) { h.Classes = []string{"d", "cat"} },
	} {
		got := sum(change, "data")
		if other, ok := seen[got]; ok {
			t.Errorf("changing %s gives the identity of: %s", name, other)
		}
		seen[got] = name
	}
	if sum(func(*Header) {}, "dAta") == base {
		t.Error("changing the data keeps the identity")
	}
}

func TestReadFileNamesFileReasonAndNextStep(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.pack")
	if _, err := ReadFile(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v, want fs.ErrNotExist", err)
	}
	if err := os.WriteFile(path, []byte("PK\x03\x04 not a pack at all, much longer than a header"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := ReadFile(path)
	if !errors.Is(err, ErrPack) {
		t.Fatalf("%v, want ErrPack", err)
	}
	for _, want := range []string{path, "not a pack file", "worker data pack --from SRC --out FILE"} {
		if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("error %q is not one line with %q", err, want)
		}
	}
	if err := os.WriteFile(path, append(sample().Encode(), 1, 2, 3), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample(), got); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(sample().Encode())
	f.Add([]byte(magic))
	f.Add(forge(36, 1<<32-1))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := Read(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, ErrPack) {
				t.Fatalf("error %v does not wrap ErrPack", err)
			}
			return
		}
		if !bytes.HasPrefix(b, h.Encode()) {
			t.Fatalf("read %+v, which encodes to other bytes", h)
		}
		if h.FileBytes() <= h.PixelsAt() {
			t.Fatalf("offsets overflow: pixels at %d, end at %d", h.PixelsAt(), h.FileBytes())
		}
	})
}
