package tensorboard

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

var began = time.Unix(1_700_000_000, 500_000_000)

// TestMasked compares with what every file that TensorFlow writes begins with: a record of 24 bytes.
func TestMasked(t *testing.T) {
	length := binary.LittleEndian.AppendUint64(nil, 24)
	if got := hex.EncodeToString(binary.LittleEndian.AppendUint32(nil, masked(length))); got != "a37f4b22" {
		t.Errorf("checksum %s", got)
	}
}

// records takes a file apart as tfrecord has it, and wants every checksum to be right.
func records(t *testing.T, b []byte) (out [][]byte) {
	t.Helper()
	for len(b) > 0 {
		n := binary.LittleEndian.Uint64(b)
		if binary.LittleEndian.Uint32(b[8:]) != masked(b[:8]) {
			t.Fatal("checksum of a length")
		}
		data := b[12 : 12+n]
		if binary.LittleEndian.Uint32(b[12+n:]) != masked(data) {
			t.Fatal("checksum of an event")
		}
		out, b = append(out, data), b[16+n:]
	}
	return out
}

// field is the content of a message's only field of a number, without its tag and length.
func field(t *testing.T, b []byte, path ...protowire.Number) []byte {
	t.Helper()
	for _, want := range path {
		var found []byte
		for rest := b; len(rest) > 0; {
			n, kind, size := protowire.ConsumeTag(rest)
			if size < 0 {
				t.Fatal(protowire.ParseError(size))
			}
			length := protowire.ConsumeFieldValue(n, kind, rest[size:])
			if length < 0 {
				t.Fatal(protowire.ParseError(length))
			}
			if n == want {
				found = rest[size : size+length]
				if kind == protowire.BytesType {
					found, _ = protowire.ConsumeBytes(found)
				}
			}
			rest = rest[size+length:]
		}
		if b = found; b == nil {
			t.Fatalf("no field %d of %v", want, path)
		}
	}
	return b
}

func numbers(b []byte) (out []float64) {
	for ; len(b) > 0; b = b[8:] {
		out = append(out, math.Float64frombits(binary.LittleEndian.Uint64(b)))
	}
	return out
}

func TestEvents(t *testing.T) {
	var out bytes.Buffer
	w := New(&out, began)
	w.Scalar("loss", 300, began, 0.5)
	w.Image("kernels", 7, began, 640, 480, []byte("PNG"))
	w.Histogram("conv1/w", 7, began, []float32{-1, 0, 0.5, 3})
	w.Histogram("bias", 7, began, []float32{1, 1})
	w.Histogram("nothing", 7, began, nil)
	if w.Err() != nil {
		t.Fatal(w.Err())
	}
	all := records(t, out.Bytes())
	if len(all) != 5 {
		t.Fatalf("%d events", len(all))
	}
	if got := numbers(field(t, all[0], eventTime))[0]; got != 1_700_000_000.5 {
		t.Errorf("time %v", got)
	}
	for _, c := range []struct {
		event int
		path  []protowire.Number
		want  string
	}{
		{0, []protowire.Number{eventVersion}, hex.EncodeToString([]byte("brain.Event:2"))},
		{1, []protowire.Number{eventStep}, "ac02"},
		{1, []protowire.Number{eventSummary, summaryValue, valueTag}, hex.EncodeToString([]byte("loss"))},
		{1, []protowire.Number{eventSummary, summaryValue, valueScalar}, "0000003f"},
		{2, []protowire.Number{eventSummary, summaryValue, valueImage, imageHeight}, "e003"},
		{2, []protowire.Number{eventSummary, summaryValue, valueImage, imageWidth}, "8005"},
		{2, []protowire.Number{eventSummary, summaryValue, valueImage, imageBytes}, hex.EncodeToString([]byte("PNG"))},
	} {
		if got := hex.EncodeToString(field(t, all[c.event], c.path...)); got != c.want {
			t.Errorf("event %d, %v: %s, want %s", c.event, c.path, got, c.want)
		}
	}
	at := []protowire.Number{eventSummary, summaryValue, valueHistogram}
	counts := numbers(field(t, all[3], append(at, histogramCounts)...))
	limits := numbers(field(t, all[3], append(at, histogramLimits)...))
	if len(counts) != buckets || len(limits) != buckets || limits[buckets-1] != 3 || counts[0] != 1 || counts[16] != 1 ||
		counts[24] != 1 || counts[buckets-1] != 1 {
		t.Errorf("buckets %v up to %v", counts, limits)
	}
	if got := numbers(field(t, all[3], append(at, histogramSquares)...))[0]; got != 10.25 {
		t.Errorf("sum of squares %v", got)
	}
	if got := numbers(field(t, all[4], append(at, histogramCounts)...)); len(got) != 1 || got[0] != 2 {
		t.Errorf("buckets of equal values: %v", got)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestTrouble(t *testing.T) {
	w := New(broken{}, began)
	w.Scalar("loss", 1, began, 1)
	if err := w.Err(); err == nil || err.Error() != "disk full" {
		t.Errorf("a full disk: %v", err)
	}
	for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1))} {
		w = New(&bytes.Buffer{}, began)
		w.Histogram("conv1/w", 3, began, []float32{0, bad})
		if err := w.Err(); err == nil || !strings.Contains(err.Error(), "conv1/w of step 3") {
			t.Errorf("a weight of %v: %v", bad, err)
		}
	}
}
