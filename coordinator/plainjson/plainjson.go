// Package plainjson prints messages as JSON that programs and people can read. It is a contract: the messages of
// proto/clusterpb/cluster.proto under the names they have there, in the order they have there. Every field is
// printed, unset ones as zero, "", [] or null. Numbers are numbers, times are RFC 3339 in UTC, digests are hex as
// everywhere else, and a job's spec is its text. protojson would print 64-bit numbers as strings, digests in base64
// and white space that changes from build to build.
package plainjson

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Marshal returns a message as JSON without white space.
func Marshal(m proto.Message) []byte { return Append(nil, m) }

// Append appends it to b.
func Append(b []byte, m proto.Message) []byte { return appendMessage(b, m.ProtoReflect()) }

func appendMessage(b []byte, m protoreflect.Message) []byte {
	if !m.IsValid() { // not set
		return append(b, "null"...)
	}
	if t, ok := m.Interface().(*timestamppb.Timestamp); ok {
		return appendString(b, t.AsTime().UTC().Format(time.RFC3339Nano))
	}
	b = append(b, '{')
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, string(f.Name())), ':')
		if f.HasOptionalKeyword() && !m.Has(f) {
			b = append(b, "null"...)
			continue
		}
		b = appendField(b, f, m.Get(f))
	}
	return append(b, '}')
}

func appendField(b []byte, f protoreflect.FieldDescriptor, v protoreflect.Value) []byte {
	switch {
	case f.IsList():
		b = append(b, '[')
		for i := range v.List().Len() {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendValue(b, f, v.List().Get(i))
		}
		return append(b, ']')
	case f.IsMap():
		return appendMap(b, f, v.Map())
	}
	return appendValue(b, f, v)
}

// appendMap prints a map in order of its keys.
func appendMap(b []byte, f protoreflect.FieldDescriptor, m protoreflect.Map) []byte {
	var keys []string
	values := map[string]protoreflect.Value{}
	for k, v := range m.Range {
		keys = append(keys, k.String())
		values[k.String()] = v
	}
	slices.Sort(keys)
	b = append(b, '{')
	for i, k := range keys {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendString(b, k), ':')
		b = appendValue(b, f.MapValue(), values[k])
	}
	return append(b, '}')
}

func appendValue(b []byte, f protoreflect.FieldDescriptor, v protoreflect.Value) []byte {
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return appendMessage(b, v.Message())
	case protoreflect.StringKind:
		return appendString(b, v.String())
	case protoreflect.BytesKind:
		if f.Name() == "spec" {
			return appendString(b, string(v.Bytes()))
		}
		return appendString(b, hex.EncodeToString(v.Bytes()))
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		if x := v.Float(); math.IsNaN(x) || math.IsInf(x, 0) { // a loss may be; JSON has no such number
			return append(b, "null"...)
		}
		return strconv.AppendFloat(b, v.Float(), 'g', -1, 64)
	}
	return fmt.Append(b, v.Interface()) // whole numbers and truth values
}

// appendString quotes as JSON does.
func appendString(b []byte, s string) []byte {
	q, err := json.Marshal(s)
	if err != nil {
		panic(fmt.Sprintf("quote %q: %v", s, err)) // strings cannot fail
	}
	return append(b, q...)
}
