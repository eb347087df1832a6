package tensors

import (
	"strings"
)

// build runs the instructions that make something of what lies on the stack.
func (u *unpickler) build(op byte) error {
	switch op {
	case 'Q': // BINPERSID
		return u.storage()
	case 'R': // REDUCE
		return u.reduce()
	case 's', 'u': // SETITEM, SETITEMS
		return u.set(op)
	case 'b', 'a', '0': // BUILD (attributes of a dictionary, such as _metadata), APPEND, POP: of no use to us
		_, err := u.pop()
		return err
	}
	_, err := u.popMark() // APPENDS
	return err
}

// storage makes a storage of ("storage", type, key, device, values).
func (u *unpickler) storage() error {
	v, err := u.pop()
	if err != nil {
		return err
	}
	id, ok := v.([]any)
	if !ok || len(id) != 5 || id[0] != "storage" {
		return errPickle
	}
	kind, ok1 := id[1].(global)
	key, ok2 := id[2].(string)
	if !ok1 || !ok2 {
		return errPickle
	}
	return u.push(torchStorage{kind: strings.TrimPrefix(string(kind), "torch "), key: key})
}

// reduce makes an empty dictionary or a tensor.
func (u *unpickler) reduce() error {
	a, err := u.pop()
	if err != nil {
		return err
	}
	f, err := u.pop()
	if err != nil {
		return err
	}
	args, ok := a.([]any)
	if !ok {
		return errPickle
	}
	switch f {
	case global("collections OrderedDict"):
		return u.push(&dict{values: map[string]any{}})
	case global("torch._utils _rebuild_parameter"):
		if len(args) > 0 {
			if t, ok := args[0].(torchTensor); ok {
				return u.push(t)
			}
		}
	case global("torch._utils _rebuild_tensor_v2"):
		if len(args) < 4 {
			return errPickle
		}
		t := torchTensor{}
		var ok1, ok2, ok3, ok4 bool
		t.storage, ok1 = args[0].(torchStorage)
		t.offset, ok2 = args[1].(int)
		t.shape, ok3 = integers(args[2])
		t.strides, ok4 = integers(args[3])
		if ok1 && ok2 && ok3 && ok4 {
			return u.push(t)
		}
	}
	return errPickle
}

func integers(v any) (out []int, ok bool) {
	items, ok := v.([]any)
	if !ok {
		return nil, false
	}
	for _, x := range items {
		n, ok := x.(int)
		if !ok {
			return nil, false
		}
		out = append(out, n)
	}
	return out, true
}

// set fills a dictionary.
func (u *unpickler) set(op byte) error {
	var items []any
	if op == 'u' {
		var err error
		if items, err = u.popMark(); err != nil {
			return err
		}
	} else {
		if len(u.stack) < 3 {
			return errPickle
		}
		items = append(items, u.stack[len(u.stack)-2:]...)
		u.stack = u.stack[:len(u.stack)-2]
	}
	if len(u.stack) == 0 || len(items)%2 != 0 {
		return errPickle
	}
	d, ok := u.stack[len(u.stack)-1].(*dict)
	if !ok {
		return errPickle
	}
	for i := 0; i < len(items); i += 2 {
		k, ok := items[i].(string)
		if !ok {
			return errPickle
		}
		if _, there := d.values[k]; !there {
			d.keys = append(d.keys, k)
		}
		d.values[k] = items[i+1]
	}
	return nil
}
