package exchange

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/mem"
	"pgregory.net/rapid"
)

var sample = outgoing{
	header: header{kind: kindData, job: jobHash("job"), generation: 0x1112131415161718,
		tag: Tag{Step: 0x2122232425262728, Exchange: 0x31323334}, from: Cell{0x4142, 0x4344}, to: Cell{0x4546, 0x4748},
		total: 0x0000005354555657, chunk: 0x61626364},
	payload: []byte("colonnade"),
}

// goldenFrame is sample on the wire. Its two hashes were computed by the C reference implementation of
// XXH3.
const goldenFrame = "4346524d" + "01" + "02" + "0000" + // magic, version, kind, zero
	"d9cd6a536741cba8" + "1817161514131211" + "2827262524232221" + // job, generation, step
	"34333231" + "00000000" + // exchange, zero
	"4241" + "4443" + "4645" + "4847" + // from replica and column, to replica and column
	"5756555453000000" + "64636261" + "09000000" + // total, chunk, length
	"a5a40e1714635147" + // checksum
	"636f6c6f6e6e616465" // payload

// wire encodes a frame as it goes onto a stream.
func wire(t interface{ Fatal(...any) }, f *outgoing) []byte {
	b, err := codec{}.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Free()
	return b.Materialize()
}

// unwire decodes what came off a stream in pieces of at most `piece` bytes.
func unwire(b []byte, piece int) (incoming, []byte, error) {
	var parts mem.BufferSlice
	for rest := b; len(rest) > 0; {
		n := min(piece, len(rest))
		parts = append(parts, mem.SliceBuffer(rest[:n]))
		rest = rest[n:]
	}
	var f incoming
	if err := (codec{}).Unmarshal(parts, &f); err != nil {
		return incoming{}, nil, err
	}
	defer f.free()
	payload := make([]byte, f.length)
	f.copyPayload(payload)
	return f, payload, nil
}

func TestFrameBytes(t *testing.T) {
	got := hex.EncodeToString(wire(t, &sample))
	if diff := cmp.Diff(goldenFrame, got); diff != "" {
		t.Errorf("the frame on the wire has changed: raise frameVersion (-want +got):\n%s", diff)
	}
}

func TestFrameComesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cell := rapid.Custom(func(t *rapid.T) Cell {
			return Cell{rapid.IntRange(0, 65535).Draw(t, "replica"), rapid.IntRange(0, 65535).Draw(t, "column")}
		})
		f := outgoing{payload: rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "payload"), header: header{
			kind: kind(rapid.IntRange(int(kindHello), int(kindLanded)).Draw(t, "kind")),
			job:  rapid.Uint64().Draw(t, "job"), generation: rapid.Uint64().Draw(t, "generation"),
			tag:  Tag{rapid.Uint64().Draw(t, "step"), rapid.Uint32().Draw(t, "exchange")},
			from: cell.Draw(t, "from"), to: cell.Draw(t, "to"),
			total: rapid.Uint64Range(0, maxMessage).Draw(t, "total"), chunk: rapid.Uint32().Draw(t, "chunk")}}
		got, payload, err := unwire(wire(t, &f), rapid.IntRange(1, 200).Draw(t, "piece"))
		if err != nil {
			t.Fatal(err)
		}
		want := f.header // Marshal works on f itself: length and checksum are set
		if got.header != want || int(got.length) != len(f.payload) || !bytes.Equal(payload, f.payload) {
			t.Fatalf("sent %+v %x, got %+v %x", want, f.payload, got.header, payload)
		}
	})
}

func TestMarshalCopies(t *testing.T) {
	f := sample
	f.payload = []byte("mine")
	b, err := codec{}.Marshal(&f)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Free()
	copy(f.payload, "????")
	if _, payload, err := unwire(b.Materialize(), 100); err != nil || string(payload) != "mine" {
		t.Errorf("after the caller has changed its data: got %q, %v", payload, err)
	}
}

func TestCodecRefusesOtherTypes(t *testing.T) {
	if _, err := (codec{}).Marshal("text"); !errors.Is(err, ErrFrame) {
		t.Errorf("sending: got %v, want %v", err, ErrFrame)
	}
}

// field is a header field's place.
type field struct {
	name   string
	at, n  int
	forged uint64 // a value that is not sample's
}

var fields = []field{
	{"magic", 0, 4, 1}, {"version", 4, 1, 2}, {"kind", 5, 1, uint64(kindBye)}, {"zero", 6, 2, 1}, {"job", 8, 8, 1},
	{"generation", 16, 8, 1}, {"step", 24, 8, 1}, {"exchange", 32, 4, 1}, {"zero too", 36, 4, 1},
	{"from replica", 40, 2, 1}, {"from column", 42, 2, 1}, {"to replica", 44, 2, 1}, {"to column", 46, 2, 1},
	{"total", 48, 8, 1}, {"chunk", 56, 4, 1}, {"length", 60, 4, 1}, {"checksum", 64, 8, 1},
}

func TestFieldsCoverTheHeader(t *testing.T) {
	at := 0
	for _, f := range fields {
		if f.at != at {
			t.Errorf("%s lies at %d, want %d", f.name, f.at, at)
		}
		at += f.n
	}
	if at != headerBytes {
		t.Errorf("fields are %d bytes, want %d", at, headerBytes)
	}
}

func TestForgedFieldIsRefused(t *testing.T) {
	for _, fd := range fields {
		b := wire(t, &sample)
		var v [8]byte
		binary.LittleEndian.PutUint64(v[:], fd.forged)
		copy(b[fd.at:fd.at+fd.n], v[:])
		if _, _, err := unwire(b, 1<<20); !errors.Is(err, ErrFrame) {
			t.Errorf("%s %d: got %v, want %v", fd.name, fd.forged, err, ErrFrame)
		}
	}
}

// refusedThoughSigned are frames with a right checksum that no sender makes.
var refusedThoughSigned = map[string]func(b []byte){
	"magic":             func(b []byte) { b[0]++ },
	"version 0":         func(b []byte) { b[4] = 0 },
	"version 2":         func(b []byte) { b[4] = 2 },
	"kind 0":            func(b []byte) { b[5] = 0 },
	"kind 8":            func(b []byte) { b[5] = 8 },
	"reserved":          func(b []byte) { b[7] = 1 },
	"reserved too":      func(b []byte) { b[39] = 1 },
	"total too large":   func(b []byte) { binary.LittleEndian.PutUint64(b[48:], maxMessage+1) },
	"length too large":  func(b []byte) { binary.LittleEndian.PutUint32(b[60:], ChunkBytes+1) },
	"length not ours":   func(b []byte) { binary.LittleEndian.PutUint32(b[60:], 8) },
	"length beyond end": func(b []byte) { binary.LittleEndian.PutUint32(b[60:], 10) },
}

func TestSignedNonsenseIsRefused(t *testing.T) {
	for name, change := range refusedThoughSigned {
		b := wire(t, &sample)
		change(b)
		sign(b)
		if _, _, err := unwire(b, 1<<20); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: got %v, want %v", name, err, ErrFrame)
		}
	}
}

// sign gives a frame the checksum it should have.
func sign(b []byte) { binary.LittleEndian.PutUint64(b[64:], checksum(b, b[headerBytes:])) }

func TestTooLongFrameIsRefused(t *testing.T) {
	f := sample
	f.payload = make([]byte, ChunkBytes+1)
	if _, _, err := unwire(wire(t, &f), 1<<14); !errors.Is(err, ErrFrame) {
		t.Errorf("got %v, want %v", err, ErrFrame)
	}
	f.payload = f.payload[1:]
	if _, _, err := unwire(wire(t, &f), 1<<14); err != nil {
		t.Errorf("the longest frame: %v", err)
	}
}

// corrupt damages one of the frames in a random way.
func corrupt(r *rand.Rand, frames [][]byte) (how string, b []byte) {
	whole := frames[r.IntN(len(frames))]
	other := frames[r.IntN(len(frames))]
	b = bytes.Clone(whole)
	switch r.IntN(8) {
	case 0:
		b[r.IntN(len(b))] ^= 1 << r.IntN(8)
		return "one bit", b
	case 1:
		for range 2 + r.IntN(7) {
			b[r.IntN(len(b))] ^= 1 << r.IntN(8)
		}
		return "some bits", b
	case 2:
		return "truncated", b[:r.IntN(len(b))]
	case 3:
		for range 1 + r.IntN(64) {
			b = append(b, byte(r.Uint32()))
		}
		return "extended", b
	case 4: // a field of another frame
		f := fields[r.IntN(len(fields))]
		copy(b[f.at:f.at+f.n], other[f.at:])
		return "other frame's " + f.name, b
	case 5: // two fields of one frame
		f, g := fields[r.IntN(len(fields))], fields[r.IntN(len(fields))]
		n := min(f.n, g.n)
		copy(b[f.at:f.at+n], whole[g.at:])
		copy(b[g.at:g.at+n], whole[f.at:])
		return f.name + " and " + g.name + " swapped", b
	case 6:
		cut := r.IntN(min(len(b), len(other)))
		return "spliced", append(b[:cut:cut], other[cut:]...)
	default:
		at := r.IntN(len(b))
		clear(b[at:min(len(b), at+1+r.IntN(16))])
		return "zeroed", b
	}
}

// corpus is one frame of each kind and some of data.
func corpus(t *testing.T, r *rand.Rand) [][]byte {
	var frames [][]byte
	for k := kindHello; k <= kindLanded; k++ {
		for _, n := range []int{0, 1, 100, 5000} {
			payload := make([]byte, n)
			for i := range payload {
				payload[i] = byte(r.Uint32())
			}
			frames = append(frames, wire(t, &outgoing{payload: payload, header: header{kind: k, job: r.Uint64(),
				generation: r.Uint64N(100), tag: Tag{r.Uint64N(1000), r.Uint32N(100)}, from: Cell{r.IntN(4), r.IntN(4)},
				to: Cell{r.IntN(4), r.IntN(4)}, total: uint64(n), chunk: r.Uint32N(3)}}))
		}
	}
	return frames
}

func TestThousandCorruptionsAreRefused(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	frames := corpus(t, r)
	for _, b := range frames {
		if _, _, err := unwire(b, 1<<14); err != nil {
			t.Fatalf("undamaged: %v", err)
		}
	}
	seen := map[string]int{}
	for refused := 0; refused < 1000; {
		how, b := corrupt(r, frames)
		if isOneOf(b, frames) {
			continue // damaged into itself
		}
		_, _, err := unwire(b, 1+r.IntN(20000))
		if !errors.Is(err, ErrFrame) {
			t.Fatalf("%s: got %v, want %v; frame %x", how, err, ErrFrame, b)
		}
		if strings.ContainsAny(err.Error(), "\n\r") || len(err.Error()) > 200 {
			t.Errorf("%s: not one line: %q", how, err)
		}
		seen[strings.Fields(how)[0]]++
		refused++
	}
	if len(seen) < 8 {
		t.Errorf("ways of damage tried: %v", seen)
	}
}

func isOneOf(b []byte, frames [][]byte) bool {
	for _, f := range frames {
		if bytes.Equal(b, f) {
			return true
		}
	}
	return false
}

// FuzzFrame reads whatever comes without a panic, and what it accepts is exactly what a sender would have sent.
func FuzzFrame(f *testing.F) {
	f.Add(wire(f, &sample), 7)
	f.Add([]byte{}, 1)
	for _, change := range refusedThoughSigned {
		b := wire(f, &sample)
		change(b)
		sign(b)
		f.Add(b, 1<<14)
	}
	f.Fuzz(func(t *testing.T, b []byte, piece int) {
		if len(b) >= headerBytes {
			b = bytes.Clone(b)
			sign(b) // or nothing random would ever pass
		}
		got, payload, err := unwire(b, 1+max(0, piece)%(1<<15))
		if err != nil {
			if !errors.Is(err, ErrFrame) {
				t.Fatalf("got %v, want %v", err, ErrFrame)
			}
			return
		}
		if again := wire(t, &outgoing{header: got.header, payload: payload}); !bytes.Equal(again, b) {
			t.Fatalf("accepted %x, a sender would send %x", b, again)
		}
	})
}
