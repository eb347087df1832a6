package proto

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"colonnade/proto/clusterpb"
	"colonnade/proto/commandpb"
	"colonnade/proto/exchangepb"
)

var update = flag.Bool("update", false, "add what is new to testdata; never takes anything out")

// contracts are the files whose descriptors stand in testdata, by the name of that file.
var contracts = map[string]protoreflect.FileDescriptor{
	"cluster.txt":  clusterpb.File_proto_clusterpb_cluster_proto,
	"command.txt":  commandpb.File_proto_commandpb_command_proto,
	"exchange.txt": exchangepb.File_proto_exchangepb_exchange_proto,
	"pack.txt":     exchangepb.File_proto_exchangepb_pack_proto,
}

// TestContracts: what a committed contract says is still there. What is new is asked to be written down with -update,
// so that it is held to from then on.
func TestContracts(t *testing.T) {
	for name, file := range contracts {
		t.Run(name, func(t *testing.T) {
			path, now := filepath.Join("testdata", name), describe(file)
			old := read(t, path)
			lost := missing(old, now)
			for _, l := range lost {
				t.Errorf("%s broke the contract, it no longer has:\n\t%s\nput it back as it was", file.Path(), l)
			}
			if len(lost) > 0 {
				return
			}
			if *update {
				if err := os.WriteFile(path, []byte(strings.Join(now, "\n")+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			for _, l := range missing(now, old) {
				t.Errorf("%s has what testdata/%s does not know:\n\t%s\nif it is right, go test ./proto -update", file.Path(),
					name, l)
			}
		})
	}
}

func read(t *testing.T, path string) []string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil && (!*update || !os.IsNotExist(err)) {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
}

// missing gives the lines of a that are not in b.
func missing(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(l string) bool { return l == "" || slices.Contains(b, l) })
}

// describe writes a file's contract down, a fact a line and each line complete in itself: a line that is gone is a
// promise broken. Fields are in order of their numbers.
func describe(file protoreflect.FileDescriptor) []string {
	out := []string{fmt.Sprintf("syntax %s package %s", file.Syntax(), file.Package())}
	for m := range all(file.Messages()) {
		out = append(out, describeMessage(m)...)
	}
	for e := range all(file.Enums()) {
		out = append(out, describeEnum(e)...)
	}
	for s := range all(file.Services()) {
		for m := range all(s.Methods()) {
			out = append(out, fmt.Sprintf("rpc %s(%s%s) returns (%s%s)", m.FullName(), stream(m.IsStreamingClient()),
				m.Input().FullName(), stream(m.IsStreamingServer()), m.Output().FullName()))
		}
	}
	return out
}

func describeMessage(m protoreflect.MessageDescriptor) []string {
	out := []string{fmt.Sprintf("message %s", m.FullName())}
	fields := slices.SortedFunc(all(m.Fields()), func(a, b protoreflect.FieldDescriptor) int {
		return int(a.Number() - b.Number())
	})
	for _, f := range fields {
		l := fmt.Sprintf("field %s.%s = %d %s", m.FullName(), f.Name(), f.Number(), typeOf(f))
		if o := f.ContainingOneof(); o != nil {
			l += fmt.Sprintf(" in oneof %s", o.Name())
		}
		out = append(out, l)
	}
	for i := range m.ReservedRanges().Len() {
		for r, n := m.ReservedRanges().Get(i), m.ReservedRanges().Get(i)[0]; n < r[1]; n++ {
			out = append(out, fmt.Sprintf("reserved %s %d", m.FullName(), n))
		}
	}
	for i := range m.ReservedNames().Len() {
		out = append(out, fmt.Sprintf("reserved %s %q", m.FullName(), m.ReservedNames().Get(i)))
	}
	for e := range all(m.Enums()) {
		out = append(out, describeEnum(e)...)
	}
	for n := range all(m.Messages()) {
		if !n.IsMapEntry() {
			out = append(out, describeMessage(n)...)
		}
	}
	return out
}

func describeEnum(e protoreflect.EnumDescriptor) []string {
	out := []string{fmt.Sprintf("enum %s", e.FullName())}
	for v := range all(e.Values()) {
		out = append(out, fmt.Sprintf("value %s.%s = %d", e.FullName(), v.Name(), v.Number()))
	}
	return out
}

// typeOf gives cardinality and type: all that decides about a field's bytes besides its number.
func typeOf(f protoreflect.FieldDescriptor) string {
	if f.IsMap() {
		return fmt.Sprintf("map<%s, %s>", typeOf(f.MapKey()), typeOf(f.MapValue()))
	}
	words := []string{f.Cardinality().String()}
	if f.HasPresence() && f.Kind() != protoreflect.MessageKind && f.ContainingOneof() == nil {
		words = append(words, "explicit")
	}
	if f.IsPacked() {
		words = append(words, "packed")
	}
	words = append(words, f.Kind().String())
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		words = append(words, string(f.Message().FullName()))
	case protoreflect.EnumKind:
		words = append(words, string(f.Enum().FullName()))
	}
	return strings.Join(words, " ")
}

func stream(yes bool) string {
	if yes {
		return "stream "
	}
	return ""
}

// all ranges over a descriptor's list.
func all[D any](list interface {
	Len() int
	Get(i int) D
}) func(func(D) bool) {
	return func(yield func(D) bool) {
		for i := range list.Len() {
			if !yield(list.Get(i)) {
				return
			}
		}
	}
}

// TestBrokenContracts shows what is noticed, and that adding is allowed.
func TestBrokenContracts(t *testing.T) {
	type file = descriptorpb.FileDescriptorProto
	message := func(f *file, name string) *descriptorpb.DescriptorProto {
		i := slices.IndexFunc(f.MessageType, func(m *descriptorpb.DescriptorProto) bool { return m.GetName() == name })
		return f.MessageType[i]
	}
	const replica = "field colonnade.command.v1.Cell.replica = 1 optional int32"
	for name, c := range map[string]struct {
		change func(*file)
		lost   string // of the contract; "": the change is allowed
	}{
		"nothing":       {func(*file) {}, ""},
		"a field added": {func(f *file) { addField(message(f, "Cell"), 100) }, ""},
		"a message added": {func(f *file) {
			f.MessageType = append(f.MessageType, &descriptorpb.DescriptorProto{Name: new("New")})
		}, ""},
		"a number reserved": {func(f *file) {
			message(f, "Cell").ReservedRange = append(message(f, "Cell").ReservedRange, reserve(200))
		}, ""},
		"a field removed":    {func(f *file) { m := message(f, "Cell"); m.Field = m.Field[1:] }, replica},
		"a field renumbered": {func(f *file) { message(f, "Cell").Field[0].Number = new(int32(9)) }, replica},
		"a field renamed":    {func(f *file) { message(f, "Cell").Field[0].Name = new("copy") }, replica},
		"another type":       {func(f *file) { message(f, "Cell").Field[0].Type = kind("TYPE_SINT32") }, replica},
		"repeated instead":   {func(f *file) { message(f, "Cell").Field[0].Label = label("LABEL_REPEATED") }, replica},
		"a message renamed": {func(f *file) {
			message(f, "LoseWorker").Name = new("DropWorker")
			rename(f, ".LoseWorker", ".DropWorker")
		}, "message colonnade.command.v1.LoseWorker"},
		"out of the oneof": {func(f *file) { message(f, "Command").Field[3].OneofIndex = nil }, "Command.init_cluster = 10"},
		"unreserved":       {func(f *file) { message(f, "Cell").ReservedRange = nil }, "reserved"},
		"another package": {func(f *file) {
			f.Package = new("colonnade.command.v2")
			rename(f, ".v1.", ".v2.")
		}, "package colonnade.command.v1"},
	} {
		t.Run(name, func(t *testing.T) {
			before := protodesc.ToFileDescriptorProto(contracts["command.txt"])
			cell := message(before, "Cell")
			cell.ReservedRange = append(cell.ReservedRange, reserve(50))
			old := build(t, before)
			c.change(before)
			lost := missing(describe(old), describe(build(t, before)))
			switch text := strings.Join(lost, "\n"); {
			case c.lost == "" && text != "":
				t.Errorf("an allowed change is refused: %s", text)
			case c.lost != "" && !strings.Contains(text, c.lost):
				t.Errorf("noticed %q, want %q", text, c.lost)
			}
		})
	}
}

func build(t *testing.T, f *descriptorpb.FileDescriptorProto) protoreflect.FileDescriptor {
	t.Helper()
	d, err := protodesc.NewFile(f, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func addField(m *descriptorpb.DescriptorProto, number int32) {
	m.Field = append(m.Field, &descriptorpb.FieldDescriptorProto{Name: new("added"), Number: &number,
		Type: kind("TYPE_INT64"), Label: label("LABEL_OPTIONAL")})
}

func reserve(n int32) *descriptorpb.DescriptorProto_ReservedRange {
	return &descriptorpb.DescriptorProto_ReservedRange{Start: new(n), End: new(n + 1)}
}

func kind(name string) *descriptorpb.FieldDescriptorProto_Type {
	return descriptorpb.FieldDescriptorProto_Type(descriptorpb.FieldDescriptorProto_Type_value[name]).Enum()
}

func label(name string) *descriptorpb.FieldDescriptorProto_Label {
	return descriptorpb.FieldDescriptorProto_Label(descriptorpb.FieldDescriptorProto_Label_value[name]).Enum()
}

// rename lets the types of all fields follow a change of name.
func rename(f *descriptorpb.FileDescriptorProto, from, to string) {
	for _, m := range f.MessageType {
		for _, field := range m.Field {
			if field.TypeName != nil {
				*field.TypeName = strings.Replace(*field.TypeName, from, to, 1)
			}
		}
	}
}
