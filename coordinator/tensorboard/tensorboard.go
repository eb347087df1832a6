// Package tensorboard writes files of events that TensorBoard opens: scalars, images, histograms by step. The formats
// are TensorFlow's: records of tfrecord (length, its masked CRC-32C, bytes, their masked CRC-32C), each an Event of
// tensorflow/core/util/event.proto and framework/summary.proto.
package tensorboard

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// Writer writes events, one after another. The first error stays; Err returns it.
type Writer struct {
	w   io.Writer
	err error
}

// Numbers of fields in event.proto and summary.proto.
const (
	eventTime, eventStep, eventVersion, eventSummary protowire.Number = 1, 2, 3, 5

	summaryValue protowire.Number = 1

	valueTag, valueScalar, valueImage, valueHistogram protowire.Number = 1, 2, 4, 5

	imageHeight, imageWidth, imageColorspace, imageBytes protowire.Number = 1, 2, 3, 4

	histogramMin, histogramMax, histogramNum, histogramSum, histogramSquares protowire.Number = 1, 2, 3, 4, 5
	histogramLimits, histogramCounts                                         protowire.Number = 6, 7
)

// New begins a file of events that happened from this time on.
func New(w io.Writer, at time.Time) *Writer {
	out := &Writer{w: w}
	out.event(at, 0, str(nil, eventVersion, "brain.Event:2"))
	return out
}

// Err is why not everything was written, nil if it was.
func (w *Writer) Err() error { return w.err }

// Scalar writes a number.
func (w *Writer) Scalar(tag string, step uint64, at time.Time, v float64) {
	value := protowire.AppendTag(str(nil, valueTag, tag), valueScalar, protowire.Fixed32Type)
	w.summary(at, step, protowire.AppendFixed32(value, math.Float32bits(float32(v))))
}

// Image writes a picture in colours, of width and height pixels, encoded as PNG.
func (w *Writer) Image(tag string, step uint64, at time.Time, width, height int, png []byte) {
	const colours = 3 // channels
	img := integer(integer(integer(nil, imageHeight, height), imageWidth, width), imageColorspace, colours)
	w.summary(at, step, message(str(nil, valueTag, tag), valueImage, message(img, imageBytes, png)))
}

// buckets is how many a histogram has.
const buckets = 64

// Histogram writes how finite values are spread: counts in buckets of one width from the least to the largest.
func (w *Writer) Histogram(tag string, step uint64, at time.Time, values []float32) {
	if len(values) == 0 {
		return
	}
	lo, hi := float64(slices.Min(values)), float64(slices.Max(values))
	if math.IsNaN(lo) || math.IsNaN(hi) || math.IsInf(hi-lo, 0) {
		w.fail(fmt.Errorf("%s of step %d has values that are not finite", tag, step))
		return
	}
	counts, limits := make([]float64, buckets), make([]float64, buckets)
	width := (hi - lo) / buckets
	for i := range limits {
		limits[i] = lo + width*float64(i+1)
	}
	limits[buckets-1] = hi
	if width == 0 { // limits must ascend
		limits, counts = []float64{math.Nextafter(hi, math.Inf(1))}, counts[:1]
	}
	var sum, squares float64
	for _, v := range values {
		x := float64(v)
		sum, squares = sum+x, squares+x*x
		at := 0
		if width > 0 {
			at = min(int((x-lo)/width), buckets-1)
		}
		counts[at]++
	}
	h := double(double(double(nil, histogramMin, lo), histogramMax, hi), histogramNum, float64(len(values)))
	h = double(double(h, histogramSum, sum), histogramSquares, squares)
	h = message(message(h, histogramLimits, doubles(limits)), histogramCounts, doubles(counts))
	w.summary(at, step, message(str(nil, valueTag, tag), valueHistogram, h))
}

func (w *Writer) summary(at time.Time, step uint64, value []byte) {
	w.event(at, step, message(nil, eventSummary, message(nil, summaryValue, value)))
}

func (w *Writer) event(at time.Time, step uint64, what []byte) {
	e := double(nil, eventTime, float64(at.UnixNano())/1e9)
	e = protowire.AppendVarint(protowire.AppendTag(e, eventStep, protowire.VarintType), step)
	w.record(append(e, what...))
}

// record frames an event.
func (w *Writer) record(data []byte) {
	if w.err != nil {
		return
	}
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(data)))
	out = binary.LittleEndian.AppendUint32(out, masked(out))
	out = append(out, data...)
	out = binary.LittleEndian.AppendUint32(out, masked(data))
	_, err := w.w.Write(out)
	w.fail(err)
}

func (w *Writer) fail(err error) {
	if w.err == nil {
		w.err = err
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// masked is tfrecord's checksum: rotated and moved, so that a checksum of data with checksums in it is still good.
func masked(b []byte) uint32 {
	c := crc32.Checksum(b, castagnoli)
	return (c>>15 | c<<17) + 0xa282ead8
}

func str(b []byte, n protowire.Number, v string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), v)
}

func message(b []byte, n protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
}

func integer(b []byte, n protowire.Number, v int) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), uint64(v))
}

func double(b []byte, n protowire.Number, v float64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(b, n, protowire.Fixed64Type), math.Float64bits(v))
}

// doubles packs numbers.
func doubles(vs []float64) (b []byte) {
	for _, v := range vs {
		b = protowire.AppendFixed64(b, math.Float64bits(v))
	}
	return b
}
