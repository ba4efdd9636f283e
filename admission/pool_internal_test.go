package admission

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// plainPoolQueue is a poolQueue that is slow and simple.
type plainPoolQueue struct {
	most  int
	turns []string // callers with something waiting, in turn
	lines map[string][]*poolWaiter
}

func (q *plainPoolQueue) waiting() (n int) {
	for _, l := range q.lines {
		n += len(l)
	}
	return n
}

func (q *plainPoolQueue) add(caller string, w *poolWaiter) {
	if len(q.lines[caller]) == 0 {
		q.turns = append(q.turns, caller)
	}
	q.lines[caller] = append(q.lines[caller], w)
}

func (q *plainPoolQueue) remove(w *poolWaiter) bool {
	for caller, l := range q.lines {
		if i := slices.Index(l, w); i >= 0 {
			q.lines[caller] = slices.Delete(l, i, i+1)
			if len(l) == 1 {
				q.turns = slices.DeleteFunc(q.turns, func(c string) bool { return c == caller })
			}
			return true
		}
	}
	return false
}

func (q *plainPoolQueue) next() *poolWaiter {
	if len(q.turns) == 0 {
		return nil
	}
	caller := q.turns[0]
	q.turns = append(q.turns[1:], caller)
	w := q.lines[caller][0]
	q.remove(w)
	return w
}

// check tells whether the loss of lost, when caller came to a full queue, was right.
func (q *plainPoolQueue) check(caller string, w, lost *poolWaiter) bool {
	longest := 0
	for _, l := range q.lines {
		longest = max(longest, len(l))
	}
	if lost == w {
		return len(q.lines[caller])+1 >= longest
	}
	for c, l := range q.lines {
		if slices.Index(l, lost) == len(l)-1 && len(l) > 0 {
			return len(l) == longest && c != caller && len(q.lines[caller])+1 < longest
		}
	}
	return false
}

func TestPoolQueueIsThePlainOne(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 5))
	lost, dropped, left := 0, 0, 0
	for range 200 {
		most := 1 + random.IntN(30)
		q, plain := newPoolQueue(most), plainPoolQueue{most: most, lines: map[string][]*poolWaiter{}}
		var all []*poolWaiter
		for step := range 200 {
			switch random.IntN(5) {
			case 0, 1, 2:
				caller := string(rune('a' + random.IntN(1+random.IntN(12))))
				full := plain.waiting() == most
				w, gone := q.add(caller)
				if full != (gone != nil) {
					t.Fatalf("step %d: full %t, lost %v", step, full, gone)
				}
				if gone != nil {
					lost++
					if !plain.check(caller, w, gone) {
						t.Fatalf("step %d: the wrong one was lost", step)
					}
				}
				if gone == w {
					dropped++
					continue
				}
				plain.remove(gone)
				plain.add(caller, w)
				all = append(all, w)
			case 3:
				if got, want := q.next(), plain.next(); got != want {
					t.Fatalf("step %d: the wrong one is next", step)
				}
			case 4:
				if len(all) == 0 {
					continue
				}
				w := all[random.IntN(len(all))]
				got, want := q.remove(w), plain.remove(w)
				if got != want {
					t.Fatalf("step %d: removed %t, want %t", step, got, want)
				}
				if got {
					left++
				}
			}
			if q.waiting != plain.waiting() || len(q.callers) != len(plain.turns) || len(q.longest) != len(plain.turns) {
				t.Fatalf("step %d: %d of %d and %d callers wait, want %d of %d", step, q.waiting, len(q.callers), len(q.longest), plain.waiting(), len(plain.turns))
			}
		}
	}
	if lost < 100 || dropped < 100 || left < 100 {
		t.Errorf("%d lost, %d of them new, %d left: the test tries too little", lost, dropped, left)
	}
}
