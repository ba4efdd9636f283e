package gateway

import (
	"io"

	"github.com/inferweir/weir/dialect"
)

// along is what a follower reads of a running answer, where answers from the cache are
// charged: it is read for what it used, as its own would be. What its caller was given
// counts, so that one who leaves early pays for that much.
type along struct {
	exchange *exchange
	answer   *dialect.Answer // nil: nothing has come, or it is not read
	body     io.ReadCloser   // of answer, which reads from unread
	unread   []byte
	err      error  // what comes behind unread; nil: more
	room     []byte // for what answer hands on, which nobody needs
	begun    bool
}

// alongPiece is how much of a running answer is read for its usage at a time.
const alongPiece = 4 << 10

// hear takes what the client gets next.
func (a *along) hear(p []byte) {
	x := a.exchange
	if !a.begun {
		a.begun = true
		if x.call.Endpoint != "" {
			// The head is the leader's, and others read it, too.
			a.answer = x.call.Answer(x.w.status, x.w.Header().Clone())
			a.body, a.room = a.answer.Body(a), make([]byte, alongPiece)
		}
	}
	a.unread = p
	a.pass()
}

// end says why no more comes: io.EOF, or another error for an answer that is not whole.
func (a *along) end(err error) {
	if a.err == nil {
		a.err = err
		a.pass()
	}
}

// pass lets the answer read all that is there.
func (a *along) pass() {
	if a.answer == nil {
		a.unread = nil
		return
	}
	for {
		n, err := a.body.Read(a.room)
		if err != nil || n == 0 && len(a.unread) == 0 {
			return
		}
	}
}

// Read implements io.Reader: what is there, and else nothing, which says that more comes.
func (a *along) Read(p []byte) (int, error) {
	n := copy(p, a.unread)
	if a.unread = a.unread[n:]; len(a.unread) > 0 {
		return n, nil
	}
	a.unread = nil
	return n, a.err
}

// Close implements io.Closer: the answer is the leader's to close.
func (a *along) Close() error { return nil }
