package admission

import "container/heap"

// poolWaiter is one piece of work that waits.
type poolWaiter struct {
	// decided gets nil for a worker, or why there is none: once, unless it was removed
	// before. It has room for that, so that who decides never waits.
	decided      chan error
	line         *poolLine // nil: not in the queue
	older, newer *poolWaiter
}

// poolLine is what one caller has waiting, in the order of its coming.
type poolLine struct {
	caller         string
	oldest, newest *poolWaiter
	length         int
	at             int       // in poolQueue.longest
	before, after  *poolLine // in turn
}

// poolQueue is what waits for a worker: callers in turn, each one's oldest first. What
// a step of it takes grows with the logarithm of the number of callers, no more: it
// is used most where there is too much of everything.
type poolQueue struct {
	most, waiting int
	callers       map[string]*poolLine // those that have something waiting
	turn          *poolLine            // whose turn it is, in a ring; nil: nobody's
	longest       poolLines
}

func newPoolQueue(most int) poolQueue {
	return poolQueue{most: most, callers: map[string]*poolLine{}}
}

// add puts a caller's next piece of work into the queue. If there is no room, lost
// has gone for it: the newest of the caller who has the most, which may be the new
// one itself.
func (q *poolQueue) add(caller string) (w, lost *poolWaiter) {
	w = &poolWaiter{decided: make(chan error, 1)}
	l := q.callers[caller]
	if q.waiting >= q.most {
		own := 1
		if l != nil {
			own += l.length
		}
		if len(q.longest) == 0 || own >= q.longest[0].length {
			return w, w
		}
		lost = q.longest[0].newest
		q.remove(lost)
	}
	if l == nil {
		l = &poolLine{caller: caller}
		q.callers[caller] = l
		q.enqueue(l)
	}
	w.line, w.older = l, l.newest
	if l.newest != nil {
		l.newest.newer = w
	} else {
		l.oldest = w
	}
	l.newest = w
	q.grow(l, 1)
	return w, lost
}

// next removes the piece of work that is to begin now. It is nil if none waits.
func (q *poolQueue) next() *poolWaiter {
	if q.turn == nil {
		return nil
	}
	w := q.turn.oldest
	q.turn = q.turn.after
	q.remove(w)
	return w
}

// remove takes w out of the queue, and reports whether it was there.
func (q *poolQueue) remove(w *poolWaiter) bool {
	l := w.line
	if l == nil {
		return false
	}
	if w.older != nil {
		w.older.newer = w.newer
	} else {
		l.oldest = w.newer
	}
	if w.newer != nil {
		w.newer.older = w.older
	} else {
		l.newest = w.older
	}
	w.line, w.older, w.newer = nil, nil, nil
	q.grow(l, -1)
	if l.length == 0 {
		q.dequeue(l)
		delete(q.callers, l.caller)
	}
	return true
}

// grow changes the length of a line.
func (q *poolQueue) grow(l *poolLine, by int) {
	q.waiting += by
	l.length += by
	heap.Fix(&q.longest, l.at)
}

// enqueue gives a caller the last turn.
func (q *poolQueue) enqueue(l *poolLine) {
	heap.Push(&q.longest, l)
	if q.turn == nil {
		l.before, l.after, q.turn = l, l, l
		return
	}
	l.before, l.after = q.turn.before, q.turn
	l.before.after, l.after.before = l, l
}

func (q *poolQueue) dequeue(l *poolLine) {
	heap.Remove(&q.longest, l.at)
	switch {
	case l.after == l:
		q.turn = nil
	case q.turn == l:
		q.turn = l.after
	}
	l.before.after, l.after.before = l.after, l.before
}

// poolLines is a heap of lines, the longest first.
type poolLines []*poolLine

func (h poolLines) Len() int           { return len(h) }
func (h poolLines) Less(i, j int) bool { return h[i].length > h[j].length }
func (h poolLines) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}

// Push is for package heap.
func (h *poolLines) Push(x any) {
	l := x.(*poolLine)
	l.at = len(*h)
	*h = append(*h, l)
}

// Pop is for package heap.
func (h *poolLines) Pop() any {
	all := *h
	l := all[len(all)-1]
	all[len(all)-1] = nil
	*h = all[:len(all)-1]
	return l
}
