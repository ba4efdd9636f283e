package dialect

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/inferweir/weir/internal/jsonscan"
)

// maxTensors is the most inputs or outputs of a request that goes together with
// others: jsonscan finds at most 64 members.
const maxTensors = 16

// tensorForm is the batchForm of the open inference protocol (KServe v2): the
// tensors of all calls are put together along their first dimension. They are
// written row by row, flat or nested, so their data are put one after the other.
type tensorForm struct {
	inputs, outputs *jsonscan.Paths
}

func tensorBatch() *batchForm {
	ignore := []string{"/id"}
	for k := range maxTensors {
		ignore = append(ignore, fmt.Sprintf("/inputs/%d/shape/0", k), fmt.Sprintf("/inputs/%d/data", k))
	}
	f := tensorForm{inputs: tensorPaths("/inputs"), outputs: tensorPaths("/outputs")}
	return &batchForm{ignore: mustCompile(ignore...), kind: f.kind, join: f.join, split: f.split}
}

// tensorPaths finds what tensorsOf reads.
func tensorPaths(list string) *jsonscan.Paths {
	pointers := []string{"/id", "/parameters/sequence_id", list}
	for k := range maxTensors {
		at := list + "/" + strconv.Itoa(k)
		pointers = append(pointers, at+"/shape", at+"/shape/0", at+"/data")
	}
	return mustCompile(pointers...)
}

// tensors are those of one request or answer.
type tensors struct {
	id, sequence jsonscan.Value
	list         []tensor
}

type tensor struct {
	rows, data jsonscan.Value // rows is the first number of the shape
	perRow     int            // elements of data
	nested     bool           // data holds a list a row
}

// tensorsOf reads all tensors of a body and checks that each has the given number
// of rows. A tensor that is not written in JSON is an error.
func tensorsOf(paths *jsonscan.Paths, c *Call, body []byte, rows int) (tensors, error) {
	values, err := paths.Find(make([]jsonscan.Value, 0, 3+3*maxTensors), body, c.depth)
	if err != nil {
		return tensors{}, err
	}
	t := tensors{id: values[0], sequence: values[1]}
	n := countList(values[2])
	if n < 1 || n > maxTensors {
		return tensors{}, fmt.Errorf("%d tensors: want 1 to %d", n, maxTensors)
	}
	for k, rest := 0, values[3:]; k < n; k, rest = k+1, rest[3:] {
		this, err := tensorOf(rest[0], rest[1], rest[2], rows)
		if err != nil {
			return tensors{}, fmt.Errorf("tensor %d: %w", k, err)
		}
		t.list = append(t.list, this)
	}
	return t, nil
}

func tensorOf(shape, first, data jsonscan.Value, rows int) (tensor, error) {
	if n, err := first.Int(); err != nil || n != int64(rows) {
		return tensor{}, fmt.Errorf("shape %.40s: want %d in the first place", shape.Raw(), rows)
	}
	if data.Kind() != jsonscan.Array {
		return tensor{}, fmt.Errorf("data: %s: want a list", data.Kind())
	}
	size := int64(1)
	for w := jsonscan.Into(shape.Raw()); ; {
		dimension, ok := w.Next()
		if !ok {
			break
		}
		n, err := strconv.ParseInt(string(dimension), 10, 64)
		if err != nil || n < 0 {
			return tensor{}, fmt.Errorf("shape %.40s: want whole numbers", shape.Raw())
		}
		size = times(size, n)
	}
	t := tensor{rows: first, data: data}
	w := jsonscan.Into(data.Raw())
	element, ok := w.Next()
	t.nested = ok && element[0] == '['
	want := size
	if t.nested {
		want = int64(rows)
	}
	if n := jsonscan.Elements(data.Raw()); int64(n) != want {
		return tensor{}, fmt.Errorf("data: %d elements: want %d, as the shape says", n, want)
	}
	t.perRow = int(want) / rows
	return t, nil
}

// kind says which tensors are nested, and whether there is an id: where there is
// none no answer may have one. Requests of a sequence go alone, in their order,
// and what asks for a binary answer does.
func (f tensorForm) kind(c *Call) (string, bool) {
	if bytes.Contains(c.body, []byte("binary_data")) {
		return "", false
	}
	t, err := tensorsOf(f.inputs, c, c.body, c.Items)
	if err != nil || t.sequence.Kind() != jsonscan.Missing {
		return "", false
	}
	kind := make([]byte, 0, maxTensors+1)
	if t.id.Kind() != jsonscan.Missing {
		kind = append(kind, 'i')
	}
	for _, in := range t.list {
		if in.nested {
			kind = append(kind, 'n')
		} else {
			kind = append(kind, 'f')
		}
	}
	return string(kind), true
}

func (f tensorForm) join(calls []*Call) ([]byte, error) {
	first, err := tensorsOf(f.inputs, calls[0], calls[0].body, calls[0].Items)
	if err != nil {
		return nil, fmt.Errorf("call 1 of %d: %w", len(calls), err)
	}
	data := make([][]byte, len(first.list))
	for i, c := range calls {
		t, err := tensorsOf(f.inputs, c, c.body, c.Items)
		if err == nil && len(t.list) != len(first.list) {
			err = errors.New("other inputs than the first: want calls with one BatchKey")
		}
		if err != nil {
			return nil, fmt.Errorf("call %d of %d: %w", i+1, len(calls), err)
		}
		for k, in := range t.list {
			data[k] = appendList(data[k], in.data.Raw())
		}
	}
	rows := strconv.AppendInt(nil, int64(totalItems(calls)), 10)
	var edits []edit
	for k, in := range first.list {
		edits = append(edits, instead(in.rows, rows), instead(in.data, append(data[k], ']')))
	}
	return applySorted(calls[0].body, edits), nil
}

// appendList appends the inside of a list to one that is still open.
func appendList(open, list []byte) []byte {
	inside := bytes.TrimSpace(list[1 : len(list)-1])
	switch {
	case len(open) == 0:
		open = append(open, '[')
	case len(inside) > 0 && len(open) > 1:
		open = append(open, ',')
	}
	return append(open, inside...)
}

func (f tensorForm) split(answer []byte, calls []*Call) ([][]byte, error) {
	t, err := tensorsOf(f.outputs, calls[0], answer, totalItems(calls))
	if err != nil {
		return nil, fmt.Errorf("the answer to %d joined requests: outputs: %w", len(calls), err)
	}
	edits := make([][]edit, len(calls))
	for i, c := range calls {
		id, err := f.inputs.Find(nil, c.body, c.depth)
		if err != nil {
			return nil, fmt.Errorf("call %d of %d: %w", i+1, len(calls), err)
		}
		if t.id.Kind() != jsonscan.Missing && id[0].Kind() != jsonscan.Missing {
			edits[i] = append(edits[i], instead(t.id, id[0].Raw()))
		}
	}
	for _, out := range t.list {
		w := jsonscan.Into(out.data.Raw())
		for i, c := range calls {
			own := []byte{'['}
			for n := range c.Items * out.perRow {
				if n > 0 {
					own = append(own, ',')
				}
				element, _ := w.Next()
				own = append(own, element...)
			}
			own = append(own, ']')
			edits[i] = append(edits[i], instead(out.rows, strconv.AppendInt(nil, int64(c.Items), 10)), instead(out.data, own))
		}
	}
	all := make([][]byte, 0, len(calls))
	for _, e := range edits {
		all = append(all, applySorted(answer, e))
	}
	return all, nil
}

// applySorted is apply for edits in any order.
func applySorted(body []byte, edits []edit) []byte {
	slices.SortFunc(edits, func(a, b edit) int { return a.at - b.at })
	return apply(body, edits...)
}
