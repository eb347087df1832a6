package fsm

import (
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"colonnade/proto/commandpb"
)

// fill sets every field of a message, and one that this program does not know.
func fill(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case f.IsList() && f.Kind() == protoreflect.MessageKind:
			m.Mutable(f).List().AppendMutable()
		case f.IsList():
			m.Mutable(f).List().Append(some(f))
		case f.Kind() == protoreflect.MessageKind:
			m.Mutable(f)
		default:
			m.Set(f, some(f))
		}
	}
	m.SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 1000, protowire.VarintType), 7))
}

func some(f protoreflect.FieldDescriptor) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString("x")
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte{1})
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(1)
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(1)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(1)
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(1)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(1)
	}
	panic("no value for a field of kind " + f.Kind().String() + ": add one here")
}

// A copy has every field that there is, those too that were added after copyJob was written.
func TestCopiesHaveEveryField(t *testing.T) {
	j := &commandpb.JobRecord{}
	fill(j.ProtoReflect())
	if c := copyJob(j); !proto.Equal(c, j) {
		t.Errorf("a copy of\n%v\nis\n%v", j, c)
	}
	e := &commandpb.EvaluationRecord{}
	fill(e.ProtoReflect())
	if c := copyEvaluation(e); !proto.Equal(c, e) {
		t.Errorf("a copy of\n%v\nis\n%v", e, c)
	}
	r := &commandpb.CheckpointRecord{}
	fill(r.ProtoReflect())
	own := &commandpb.JobRecord{Checkpoints: []*commandpb.CheckpointRecord{r}}
	if c := changing(own, 0); !proto.Equal(c, r) || c == r || own.Checkpoints[0] != c {
		t.Errorf("a copy of\n%v\nis\n%v", r, c)
	}
}

// What a command does to the lists of a copy is not seen in the record.
func TestCopiesAreApart(t *testing.T) {
	j := &commandpb.JobRecord{}
	fill(j.ProtoReflect())
	fill(j.Checkpoints[0].ProtoReflect())
	j.Checkpoints = slices.Grow(j.Checkpoints, 4) // room to append to in place
	want := proto.CloneOf(j)
	c := copyJob(j)
	r := changing(c, 0)
	r.Bad, r.Files[0] = "rot", nil
	for i := range c.ProtoReflect().Descriptor().Fields().Len() {
		f := c.ProtoReflect().Descriptor().Fields().Get(i)
		if f.IsList() {
			list := c.ProtoReflect().Mutable(f).List()
			list.Set(0, list.NewElement())
		}
	}
	if !proto.Equal(j, want) {
		t.Errorf("changing a copy changes\n%v\nto\n%v", want, j)
	}
}
