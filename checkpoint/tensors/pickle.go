package tensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
)

// A pickle is a program for a stack machine. We run the part of it that a dictionary of tensors needs. Nothing is
// imported and nothing called: a name that is not on the list below ends it.

// torchTensor is a tensor as a pickle speaks of it.
type torchTensor struct {
	name    string
	storage torchStorage
	offset  int // values into the storage
	shape   []int
	strides []int
}

// torchStorage is a piece of memory: its type and the member that holds it.
type torchStorage struct{ kind, key string }

// global is a name that a pickle refers to.
type global string

// mark divides the stack.
type mark struct{}

// dict is a dictionary in the order in which it was filled.
type dict struct {
	keys   []string
	values map[string]any
}

// allowed says which names a pickle of tensors may use.
func allowed(name string) bool {
	switch name {
	case "collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter":
		return true
	}
	return strings.HasPrefix(name, "torch ") && strings.HasSuffix(name, "Storage")
}

// errPickle is what a pickle that is none comes to.
var errPickle = errors.New("its pickle is damaged, or more than a dictionary of tensors")

// maxStack bounds what a pickle may pile up.
const maxStack = 1 << 20

type unpickler struct {
	in    *bytes.Reader
	stack []any
	memo  map[uint32]any
}

// unpickleTensors runs a pickle and returns the tensors of its dictionary; one that a dictionary holds under
// "state_dict" will do too.
func unpickleTensors(raw []byte) ([]torchTensor, error) {
	u := &unpickler{in: bytes.NewReader(raw), memo: map[uint32]any{}}
	top, err := u.run()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	d, ok := top.(*dict)
	if ok {
		if inner, nested := d.values["state_dict"].(*dict); nested {
			d = inner
		}
	}
	if !ok {
		return nil, refuse("it is no state_dict; save one: torch.save(model.state_dict(), FILE)")
	}
	var out []torchTensor
	for _, k := range d.keys {
		t, ok := d.values[k].(torchTensor)
		if !ok {
			return nil, refuse("%q in it is no tensor; save a state_dict: torch.save(model.state_dict(), FILE)", k)
		}
		t.name = k
		out = append(out, t)
	}
	return out, nil
}

func (u *unpickler) run() (any, error) {
	for {
		op, err := u.in.ReadByte()
		if err != nil {
			return nil, errPickle
		}
		if op == '.' { // STOP
			return u.pop()
		}
		if err := u.do(op); err != nil {
			return nil, err
		}
		if len(u.stack) > maxStack {
			return nil, errPickle
		}
	}
}

func (u *unpickler) push(v any) error {
	u.stack = append(u.stack, v)
	return nil
}

func (u *unpickler) pop() (any, error) {
	if len(u.stack) == 0 {
		return nil, errPickle
	}
	v := u.stack[len(u.stack)-1]
	u.stack = u.stack[:len(u.stack)-1]
	return v, nil
}

// popMark takes everything above the last mark, and the mark.
func (u *unpickler) popMark() ([]any, error) {
	for i := len(u.stack) - 1; i >= 0; i-- {
		if _, ok := u.stack[i].(mark); ok {
			items := append([]any(nil), u.stack[i+1:]...)
			u.stack = u.stack[:i]
			return items, nil
		}
	}
	return nil, errPickle
}

// take reads n bytes.
func (u *unpickler) take(n int64) ([]byte, error) {
	if n < 0 || n > int64(u.in.Len()) {
		return nil, errPickle
	}
	b := make([]byte, n)
	_, err := io.ReadFull(u.in, b)
	return b, err
}

// line reads up to a line's end.
func (u *unpickler) line() (string, error) {
	var b []byte
	for {
		c, err := u.in.ReadByte()
		if err != nil {
			return "", errPickle
		}
		if c == '\n' {
			return string(b), nil
		}
		b = append(b, c)
	}
}

// do runs one instruction.
func (u *unpickler) do(op byte) error {
	switch op {
	case 0x80: // PROTO
		_, err := u.take(1)
		return err
	case 0x95: // FRAME
		_, err := u.take(8)
		return err
	case '(':
		return u.push(mark{})
	case 'N':
		return u.push(nil)
	case 0x88, 0x89: // NEWTRUE, NEWFALSE
		return u.push(op == 0x88)
	case '}': // EMPTY_DICT
		return u.push(&dict{values: map[string]any{}})
	case ')', ']': // EMPTY_TUPLE, EMPTY_LIST
		return u.push([]any{})
	case 'K', 'M', 'J', 0x8a:
		return u.integer(op)
	case 'G': // BINFLOAT
		b, err := u.take(8)
		if err != nil {
			return err
		}
		return u.push(math.Float64frombits(binary.BigEndian.Uint64(b)))
	case 'X', 0x8c, 0x8d, 'U', 'T':
		return u.text(op)
	case 'q', 'r', 'h', 'j', 0x94:
		return u.memorise(op)
	case 't', 0x85, 0x86, 0x87:
		return u.makeTuple(op)
	case 'c', 0x93:
		return u.global(op)
	case 'Q', 'R', 's', 'u', 'b', 'a', 'e', '0':
		return u.build(op)
	}
	return fmt.Errorf("%w (instruction %#x)", errPickle, op)
}

func (u *unpickler) integer(op byte) error {
	n := map[byte]int64{'K': 1, 'M': 2, 'J': 4}[op]
	if op == 0x8a { // LONG1
		b, err := u.take(1)
		if err != nil || b[0] > 8 {
			return errPickle
		}
		n = int64(b[0])
	}
	b, err := u.take(n)
	if err != nil {
		return err
	}
	var v int64
	for i, c := range b {
		v |= int64(c) << (8 * i)
	}
	if signed := op == 'J' || op == 0x8a; signed && n > 0 && n < 8 && b[n-1]&0x80 != 0 {
		v -= 1 << (8 * n)
	}
	return u.push(int(v))
}

func (u *unpickler) text(op byte) error {
	width := map[byte]int64{'X': 4, 'T': 4, 0x8c: 1, 'U': 1, 0x8d: 8}[op]
	b, err := u.take(width)
	if err != nil {
		return err
	}
	var n uint64
	for i, c := range b {
		n |= uint64(c) << (8 * i)
	}
	if n > uint64(u.in.Len()) {
		return errPickle
	}
	if b, err = u.take(int64(n)); err != nil {
		return err
	}
	return u.push(string(b))
}

func (u *unpickler) memorise(op byte) error {
	at := uint32(len(u.memo)) // MEMOIZE
	if op != 0x94 {
		width := int64(1)
		if op == 'r' || op == 'j' {
			width = 4
		}
		b, err := u.take(width)
		if err != nil {
			return err
		}
		at = 0
		for i, c := range b {
			at |= uint32(c) << (8 * i)
		}
	}
	if op == 'h' || op == 'j' { // BINGET
		v, ok := u.memo[at]
		if !ok {
			return errPickle
		}
		return u.push(v)
	}
	if len(u.stack) == 0 || len(u.memo) > maxStack {
		return errPickle
	}
	u.memo[at] = u.stack[len(u.stack)-1]
	return nil
}

func (u *unpickler) makeTuple(op byte) error {
	if op == 't' {
		items, err := u.popMark()
		if err != nil {
			return err
		}
		return u.push(items)
	}
	n := int(op-0x85) + 1
	if len(u.stack) < n {
		return errPickle
	}
	items := append([]any(nil), u.stack[len(u.stack)-n:]...)
	u.stack = u.stack[:len(u.stack)-n]
	return u.push(items)
}

func (u *unpickler) global(op byte) error {
	var module, name string
	var err error
	if op == 'c' {
		if module, err = u.line(); err == nil {
			name, err = u.line()
		}
		if err != nil {
			return err
		}
	} else {
		n, err1 := u.pop()
		m, err2 := u.pop()
		var ok1, ok2 bool
		name, ok1 = n.(string)
		module, ok2 = m.(string)
		if err1 != nil || err2 != nil || !ok1 || !ok2 {
			return errPickle
		}
	}
	if !allowed(module + " " + name) {
		return fmt.Errorf("its pickle wants %.60q, which no state_dict needs; save one: "+
			"torch.save(model.state_dict(), FILE)", module+"."+name)
	}
	return u.push(global(module + " " + name))
}
