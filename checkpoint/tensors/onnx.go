package tensors

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// Numbers of fields and types in onnx.proto3. A model is nested messages; what has many values in it, the initializers
// of the graph, is written and read as a stream.
const (
	onnxIRVersion = 8  // of the file
	onnxOpset     = 13 // of the operators: all we use are of this version or an earlier one

	modelIR, modelProducer, modelGraph, modelOpset     protowire.Number = 1, 2, 7, 8
	opsetVersion                                       protowire.Number = 2
	graphNode, graphName, graphInitializer             protowire.Number = 1, 2, 5
	graphDoc, graphInput, graphOutput                  protowire.Number = 10, 11, 12
	nodeInput, nodeOutput, nodeName, nodeOp, nodeAttr  protowire.Number = 1, 2, 3, 4, 5
	attrName, attrFloat, attrInt, attrInts, attrType   protowire.Number = 1, 2, 3, 8, 20
	tensorDims, tensorType, tensorFloats               protowire.Number = 1, 2, 4
	tensorInts, tensorName, tensorRaw, tensorLocation  protowire.Number = 7, 8, 9, 14
	infoName, infoType, typeTensor                     protowire.Number = 1, 2, 1
	elemType, elemShape, shapeDim, dimValue, dimSymbol protowire.Number = 1, 2, 1, 1, 2

	onnxFloat, onnxInt64                uint64 = 1, 7 // of elements
	attrIsFloat, attrIsInt, attrAreInts uint64 = 1, 2, 7
)

// Graph is a network as ONNX has it.
type Graph struct {
	Name    string
	Doc     string
	Input   Entry // its first side, the batch, is left open
	Outputs []Entry
	Nodes   []Node
	Floats  []Source           // constants, weights among them
	Ints    map[string][]int64 // constants: shapes; by the order of IntNames
	IntKeys []string
}

// Node is an operator of ONNX with its attributes: float64, int or []int.
type Node struct {
	Op     string
	In     []string
	Out    string
	Values []Attribute
}

// Attribute is one attribute of a Node.
type Attribute struct {
	Name  string
	Value any
}

// message collects a message's fields.
type message []byte

func (m *message) text(n protowire.Number, s string) {
	*m = protowire.AppendString(protowire.AppendTag(*m, n, protowire.BytesType), s)
}

func (m *message) number(n protowire.Number, v uint64) {
	*m = protowire.AppendVarint(protowire.AppendTag(*m, n, protowire.VarintType), v)
}

func (m *message) sub(n protowire.Number, s message) {
	*m = protowire.AppendBytes(protowire.AppendTag(*m, n, protowire.BytesType), s)
}

// WriteONNX writes a graph as a model.
func WriteONNX(w io.Writer, g *Graph) error {
	before, after := message{}, message{}
	for _, n := range g.Nodes {
		m, err := n.encode()
		if err != nil {
			return err
		}
		before.sub(graphNode, m)
	}
	before.text(graphName, g.Name)
	for _, k := range g.IntKeys {
		var t, raw message
		t.number(tensorDims, uint64(len(g.Ints[k])))
		t.number(tensorType, onnxInt64)
		t.text(tensorName, k)
		for _, v := range g.Ints[k] {
			raw = binary.LittleEndian.AppendUint64(raw, uint64(v))
		}
		t.sub(tensorRaw, raw)
		before.sub(graphInitializer, t)
	}
	after.text(graphDoc, g.Doc)
	after.sub(graphInput, valueInfo(g.Input))
	for _, o := range g.Outputs {
		after.sub(graphOutput, valueInfo(o))
	}
	size := len(before) + len(after)
	heads := make([]message, len(g.Floats)) // all of an initializer but its values
	for i, s := range g.Floats {
		var t message
		for _, d := range s.Shape {
			t.number(tensorDims, uint64(d))
		}
		t.number(tensorType, onnxFloat)
		t.text(tensorName, s.Name)
		bytes := 4 * volume(s.Shape)
		t = protowire.AppendVarint(protowire.AppendTag(t, tensorRaw, protowire.BytesType), uint64(bytes))
		heads[i] = protowire.AppendTag(nil, graphInitializer, protowire.BytesType)
		heads[i] = append(protowire.AppendVarint(heads[i], uint64(len(t)+bytes)), t...)
		size += len(heads[i]) + bytes
	}
	if size >= math.MaxInt32 {
		return fmt.Errorf("an ONNX file holds less than 2 GiB, this would have %d bytes; use safetensors", size)
	}
	var model, opset message
	model.number(modelIR, onnxIRVersion)
	model.text(modelProducer, "colonnade")
	opset.number(opsetVersion, onnxOpset)
	model.sub(modelOpset, opset)
	model = protowire.AppendVarint(protowire.AppendTag(model, modelGraph, protowire.BytesType), uint64(size))
	if _, err := w.Write(append(model, before...)); err != nil {
		return err
	}
	for i, s := range g.Floats {
		if _, err := w.Write(heads[i]); err != nil {
			return err
		}
		if err := writeValues(w, s); err != nil {
			return err
		}
	}
	_, err := w.Write(after)
	return err
}

func (n *Node) encode() (m message, err error) {
	for _, s := range n.In {
		m.text(nodeInput, s)
	}
	m.text(nodeOutput, n.Out)
	m.text(nodeName, n.Out)
	m.text(nodeOp, n.Op)
	for _, v := range n.Values {
		var a message
		a.text(attrName, v.Name)
		switch v := v.Value.(type) {
		case float64:
			a = protowire.AppendFixed32(protowire.AppendTag(a, attrFloat, protowire.Fixed32Type), math.Float32bits(float32(v)))
			a.number(attrType, attrIsFloat)
		case int:
			a.number(attrInt, uint64(v))
			a.number(attrType, attrIsInt)
		case []int:
			for _, x := range v {
				a.number(attrInts, uint64(x))
			}
			a.number(attrType, attrAreInts)
		default:
			return nil, fmt.Errorf("attribute of type %T", v)
		}
		m.sub(nodeAttr, a)
	}
	return m, nil
}

// valueInfo describes floats whose first side is the batch.
func valueInfo(e Entry) (m message) {
	var shape message
	for i, d := range e.Shape {
		var dim message
		if i == 0 {
			dim.text(dimSymbol, "batch")
		} else {
			dim.number(dimValue, uint64(d))
		}
		shape.sub(shapeDim, dim)
	}
	var tensor, kind message
	tensor.number(elemType, onnxFloat)
	tensor.sub(elemShape, shape)
	kind.sub(typeTensor, tensor)
	m.text(infoName, e.Name)
	m.sub(infoType, kind)
	return m
}

// errWire is what a file comes to that is no protobuf.
var errWire = errors.New("its protobuf is damaged or cut short")

// field is a field of a message in a file: a number, or bytes that lie at `at`.
type field struct {
	number protowire.Number
	kind   protowire.Type
	value  uint64
	at, n  int64
}

// eachField calls f for the fields of a message that lies at `at` with n bytes. Bytes are not read.
func eachField(r io.ReaderAt, at, n int64, f func(field) error) error {
	end := at + n
	head := make([]byte, 20) // a tag and a number are at most that long
	for at < end {
		k, err := r.ReadAt(head[:min(int64(len(head)), end-at)], at)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		num, kind, used := protowire.ConsumeTag(head[:k])
		if used < 0 {
			return errWire
		}
		v := field{number: num, kind: kind}
		rest, more := head[used:k], 0
		switch kind {
		case protowire.VarintType:
			v.value, more = protowire.ConsumeVarint(rest)
		case protowire.BytesType:
			v.value, more = protowire.ConsumeVarint(rest)
		case protowire.Fixed32Type:
			more = 4
		case protowire.Fixed64Type:
			more = 8
		default:
			return errWire
		}
		if more < 0 || more > len(rest) {
			return errWire
		}
		at += int64(used + more)
		if kind == protowire.BytesType {
			if v.value > uint64(end-at) {
				return errWire
			}
			v.at, v.n = at, int64(v.value)
			at += v.n
		}
		if err := f(v); err != nil {
			return err
		}
	}
	return nil
}

// readONNX reads the initializers of a model's graph; those that are no floats are shapes and the like.
func readONNX(r io.ReaderAt, size int64) (*File, error) {
	f := &File{Format: "onnx"}
	var where []field
	err := eachField(r, 0, size, func(v field) error {
		if v.number != modelGraph || v.kind != protowire.BytesType {
			return nil
		}
		return eachField(r, v.at, v.n, func(v field) error {
			if v.number != graphInitializer || v.kind != protowire.BytesType {
				return nil
			}
			e, raw, err := readInitializer(r, v)
			if err == nil && e.Name != "" {
				f.Entries, where = append(f.Entries, e), append(where, raw)
			}
			return err
		})
	})
	if errors.Is(err, errWire) {
		return nil, refuse("as ONNX: %v", err)
	}
	if err != nil {
		return nil, err
	}
	if len(where) == 0 {
		return nil, refuse("as ONNX it has no tensor in it; it is damaged or of another format")
	}
	seen := map[string]bool{}
	for _, e := range f.Entries {
		if seen[e.Name] {
			return nil, refuse("it has two tensors %s", e.Name)
		}
		seen[e.Name] = true
	}
	f.open = func(i int) (io.ReadCloser, error) { return section(r, where[i].at, where[i].n) }
	return f, nil
}

// readInitializer reads what a tensor is and where its values lie. One of other numbers has no name here.
func readInitializer(r io.ReaderAt, at field) (e Entry, raw field, err error) {
	kind, elsewhere := uint64(0), false
	err = eachField(r, at.at, at.n, func(v field) error {
		switch {
		case v.number == tensorDims && v.kind == protowire.VarintType:
			e.Shape = append(e.Shape, int(min(v.value, maxValues+1)))
		case v.number == tensorDims && v.kind == protowire.BytesType: // packed
			b, err := readAt(r, v, 1<<10)
			for len(b) > 0 && err == nil {
				d, k := protowire.ConsumeVarint(b)
				if k < 0 {
					return errWire
				}
				e.Shape, b = append(e.Shape, int(min(d, maxValues+1))), b[k:]
			}
			return err
		case v.number == tensorType:
			kind = v.value
		case v.number == tensorName && v.kind == protowire.BytesType:
			b, err := readAt(r, v, 1<<12)
			e.Name = string(b)
			return err
		case (v.number == tensorRaw || v.number == tensorFloats) && v.kind == protowire.BytesType:
			raw = v // packed floats lie as raw ones do
		case v.number == tensorLocation && v.value != 0:
			elsewhere = true
		}
		return nil
	})
	if err != nil || kind != onnxFloat {
		return Entry{}, raw, err
	}
	if elsewhere {
		return e, raw, refuse("the values of tensor %s are in another file; write the model into one", e.Name)
	}
	if v := volume(e.Shape); v == 0 || raw.n != 4*int64(v) {
		return e, raw, refuse("tensor %s of shape %v has %d bytes of values", e.Name, e.Shape, raw.n)
	}
	return e, raw, nil
}

// readAt reads a short field's bytes.
func readAt(r io.ReaderAt, v field, limit int64) ([]byte, error) {
	if v.n > limit {
		return nil, errWire
	}
	b := make([]byte, v.n)
	if _, err := r.ReadAt(b, v.at); err != nil && v.n > 0 {
		return nil, errWire
	}
	return b, nil
}
