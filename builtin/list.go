package builtin

import (
	"iter"

	"github.com/inferweir/weir/internal/jsonscan"
)

// elements gives the elements of list, an array that jsonscan found, in turn, as
// they are written and with their numbers; of an object, it gives the names and
// values. Nothing is allocated, and what is behind the element at which the
// caller stops is not looked at.
func elements(list []byte) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		w := jsonscan.Into(list)
		for n := 0; ; n++ {
			value, ok := w.Next()
			if !ok || !yield(n, value) {
				return
			}
		}
	}
}

// isEmpty tells whether an array or object that jsonscan found has nothing in it.
func isEmpty(raw []byte) bool {
	w := jsonscan.Into(raw)
	_, something := w.Start()
	return !something
}
