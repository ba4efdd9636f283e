package dialect

import (
	"errors"
	"fmt"
	"math/bits"
	"strconv"

	"github.com/inferweir/weir/internal/jsonscan"
)

// batchForm is how several requests of an endpoint go upstream as one.
type batchForm struct {
	// ignore are the members that differ between requests that may go together.
	ignore *jsonscan.Paths
	// kind describes the items: only items of one kind go together. ok is false
	// where they are not fit to.
	kind  func(c *Call) (kind string, ok bool)
	join  func(calls []*Call) ([]byte, error)
	split func(answer []byte, calls []*Call) ([][]byte, error)
}

// BatchKey appends to dst what this call has in common with those that may go
// upstream together with it: its path, and all members of its body but the items
// (and, in KServe v2, the id). Calls with equal keys may be given to Join,
// provided that all outside of path and body agrees, too: the query, credentials
// and other fields. ok is false, and the result dst as it was, where a call goes
// alone: the endpoint takes no lists, the call streams, its body was not read or
// has no items, or not all of one kind.
func (c *Call) BatchKey(dst []byte) (key []byte, ok bool) {
	if c.endpoint == nil || c.endpoint.batch == nil || c.Err != nil || c.Stream || c.Items < 1 {
		return dst, false
	}
	b := c.endpoint.batch
	kind, ok := b.kind(c)
	if !ok {
		return dst, false
	}
	// Quoted, no path can look like another one and a part of a body.
	key = strconv.AppendQuote(dst, c.path)
	key = append(key, kind...)
	key, err := jsonscan.AppendCanonical(key, c.body, b.ignore, c.depth)
	if err != nil { // a lone surrogate: no reader knows what it is
		return dst, false
	}
	return key, true
}

// Join makes one body with the items of all calls, in their order. The calls must
// have one BatchKey: what else the body says is taken from the first. The error
// says which call cannot be joined.
func Join(calls []*Call) ([]byte, error) {
	if len(calls) == 0 {
		return nil, errors.New("no calls to join: want at least one")
	}
	first := calls[0]
	for i, c := range calls {
		switch {
		case c.endpoint == nil || c.endpoint.batch == nil || c.Err != nil || c.Stream || c.Items < 1:
			return nil, fmt.Errorf("call %d of %d: %q cannot be joined: want one with a BatchKey", i+1, len(calls), c.Endpoint)
		case c.endpoint != first.endpoint || c.path != first.path:
			return nil, fmt.Errorf("call %d of %d: path %.100q: want that of the first, %.100q", i+1, len(calls), c.path, first.path)
		}
	}
	if len(calls) == 1 {
		return first.body, nil
	}
	return first.endpoint.batch.join(calls)
}

// Split cuts the answer to Join(calls) into one for each call, in their order: the
// items that are its own, and its part of the usage, by its number of items, such
// that the parts add up to the whole. All else is in every answer. c may be any
// of calls. An answer that has not one item for each that was asked is an error:
// then nobody knows whose is whose. Answers with another status than 200 are not
// for Split.
func (c *Call) Split(answer []byte, calls []*Call) ([][]byte, error) {
	if c.endpoint == nil || c.endpoint.batch == nil {
		return nil, fmt.Errorf("answers of %q cannot be split: want an endpoint with a BatchKey", c.Endpoint)
	}
	if len(calls) == 0 {
		return nil, errors.New("no calls to split an answer for: want those that were joined")
	}
	if len(calls) == 1 {
		return [][]byte{answer}, nil
	}
	return c.endpoint.batch.split(answer, calls)
}

// listForm is the batchForm of requests with a list of items and answers with a
// list in the same order.
type listForm struct {
	items    string // pointer to the list; one string may stand instead
	texts    bool   // the items are texts or token ids
	answers  string // pointer to the answers' list
	numbered bool   // each answer has an index
	shared   []string

	paths *jsonscan.Paths // answers, then shared
}

func (f listForm) batch() *batchForm {
	f.paths = mustCompile(append([]string{f.answers}, f.shared...)...)
	return &batchForm{ignore: mustCompile(f.items), kind: f.kind, join: f.join, split: f.split}
}

func embeddingBatch() *batchForm {
	return listForm{items: "/input", texts: true, answers: "/data", numbered: true,
		shared: []string{"/usage/prompt_tokens", "/usage/total_tokens", "/usage/completion_tokens"}}.batch()
}

func ollamaEmbedBatch() *batchForm {
	return listForm{items: "/input", texts: true, answers: "/embeddings", shared: []string{"/prompt_eval_count"}}.batch()
}

func instanceBatch() *batchForm {
	return listForm{items: "/instances", answers: "/predictions"}.batch()
}

// kind looks at every item: one that is not like the others would make the
// server refuse them all.
func (f listForm) kind(c *Call) (string, bool) {
	if !f.texts {
		return "instances", true
	}
	raw := c.items.Raw()
	if raw[0] == '"' {
		return "texts", true
	}
	w := jsonscan.Into(raw)
	first, _ := w.Next()
	for {
		item, ok := w.Next()
		switch {
		case !ok && first[0] == '"':
			return "texts", true
		case !ok:
			return "tokens", true
		case isWord(item[0]) != isWord(first[0]), !isWord(item[0]) && item[0] != first[0]:
			return "", false
		}
	}
}

// isWord tells numbers, true, false and null from what begins with a mark.
func isWord(c byte) bool { return c != '"' && c != '[' && c != '{' }

func (f listForm) join(calls []*Call) ([]byte, error) {
	size := 2
	for _, c := range calls {
		size += len(c.items.Raw()) + 1
	}
	list := make([]byte, 0, size)
	for i, c := range calls {
		if i > 0 {
			list = append(list, ',')
		} else {
			list = append(list, '[')
		}
		raw := c.items.Raw()
		if one := c.items.Kind() != jsonscan.Array || f.texts && isTokens(raw); !one {
			raw = raw[1 : len(raw)-1]
		}
		list = append(list, raw...)
	}
	list = append(list, ']')
	first := calls[0]
	return apply(first.body, edit{at: first.items.Offset(), length: len(first.items.Raw()), text: list}), nil
}

// isTokens reports whether the list raw is one list of token ids, not several
// items.
func isTokens(raw []byte) bool {
	w := jsonscan.Into(raw)
	first, ok := w.Next()
	return ok && isWord(first[0])
}

func (f listForm) split(answer []byte, calls []*Call) ([][]byte, error) {
	values, err := f.paths.Find(nil, answer, 0)
	if err != nil {
		return nil, fmt.Errorf("the answer to %d joined requests: %w", len(calls), err)
	}
	list, shared := values[0], values[1:]
	if list.Kind() != jsonscan.Array {
		return nil, fmt.Errorf("the answer to %d joined requests: %s: %s: want a list", len(calls), f.answers, list.Kind())
	}
	total := totalItems(calls)
	if n := jsonscan.Elements(list.Raw()); n != total {
		return nil, fmt.Errorf("the answer to %d joined requests: %s: %d items: want %d, as many as were asked", len(calls), f.answers, n, total)
	}
	items, err := f.inOrder(list.Raw(), total)
	if err != nil {
		return nil, fmt.Errorf("the answer to %d joined requests: %s: %w", len(calls), f.answers, err)
	}
	all := make([][]byte, 0, len(calls))
	begin := 0
	for _, c := range calls {
		end := begin + c.Items
		edits := []edit{{at: list.Offset(), length: len(list.Raw()), text: f.list(items[begin:end])}}
		for _, v := range shared {
			if n, err := v.Int(); err == nil && n >= 0 {
				edits = append(edits, instead(v, strconv.AppendInt(nil, share(n, begin, end, total), 10)))
			}
		}
		all = append(all, applySorted(answer, edits))
		begin = end
	}
	return all, nil
}

// item is one answer in a list, and where in it its index stands.
type item struct {
	raw   []byte
	index span
}

// inOrder returns the answers in the order of their indices, where they have any:
// the order of the list is a custom, the index is the rule.
func (f listForm) inOrder(list []byte, total int) ([]item, error) {
	items := make([]item, total)
	w := jsonscan.Into(list)
	for i := range total {
		raw, _ := w.Next()
		at := i
		this := item{raw: raw}
		if f.numbered && raw[0] == '{' {
			this.index, _ = member(raw, `"index"`)
		}
		if index := raw[this.index.from:this.index.to]; len(index) > 0 {
			n, err := strconv.Atoi(string(index))
			if err != nil || n < 0 || n >= total {
				return nil, fmt.Errorf("%d: index %.20s: want one of 0 to %d", i, index, total-1)
			}
			at = n
		}
		if items[at].raw != nil {
			return nil, fmt.Errorf("%d: index %d: want one that no other answer has", i, at)
		}
		items[at] = this
	}
	return items, nil
}

// list writes the answers of one call, numbered from 0.
func (f listForm) list(items []item) []byte {
	size := 2
	for _, it := range items {
		size += len(it.raw) + 8
	}
	out := append(make([]byte, 0, size), '[')
	for i, it := range items {
		if i > 0 {
			out = append(out, ',')
		}
		if it.index.to == 0 {
			out = append(out, it.raw...)
			continue
		}
		out = append(out, it.raw[:it.index.from]...)
		out = strconv.AppendInt(out, int64(i), 10)
		out = append(out, it.raw[it.index.to:]...)
	}
	return append(out, ']')
}

func totalItems(calls []*Call) int {
	total := 0
	for _, c := range calls {
		total += c.Items
	}
	return total
}

// share is the part of n that belongs to the items from begin up to end of total.
// The shares of parts that cover all items add up to n.
func share(n int64, begin, end, total int) int64 {
	part := func(items int) int64 {
		high, low := bits.Mul64(uint64(n), uint64(items))
		quotient, _ := bits.Div64(high, low, uint64(total)) // items is at most total
		return int64(quotient)
	}
	return part(end) - part(begin)
}
