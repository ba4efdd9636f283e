package cache

import (
	"strconv"
	"strings"
	"time"
)

// tokensKind begins the label of the tokens that an answer took, as Judgement says.
const tokensKind = "tokens"

// Tokens is how many tokens the model used for the answer, as far as whoever judged it
// knew: 0 where nobody did.
func (e *Entry) Tokens() int64 {
	for _, label := range e.Labels {
		text, ok := strings.CutPrefix(label, tokensKind+":")
		if !ok {
			continue
		}
		if n, err := strconv.ParseInt(text, 10, 64); err == nil && n > 0 {
			return n
		}
	}
	return 0
}

// Saved is what the call for the request's answer cost whoever made it: how long it took
// until its end, and its tokens. Of an answer that was followed while it came that is
// known when Serve has returned; 0 is nothing, or not known.
func (l *Lookup) Saved() (took time.Duration, tokens int64) {
	switch {
	case l == nil:
		return 0, 0
	case l.Entry != nil:
		return l.Entry.Took, l.Entry.Tokens()
	case l.live != nil:
		return l.live.live.costed()
	}
	return 0, 0
}

// Asks says that the request whose head Prepare made goes out now: what was waited since
// then is not a part of what its answer takes.
func (l *Lookup) Asks(now time.Time) {
	if l.Keyed() {
		l.asked = now
		if l.leads {
			l.flight.asked.Store(true)
		}
	}
}

// BrokeOff reports whether Serve gave a running answer to where it broke off, whether or
// not its last bytes say so. Who has left before, or was too slow, has not come to that.
func (l *Lookup) BrokeOff() bool { return l != nil && l.live != nil && l.live.broken }

// Called reports whether the call that the request waited for, with Join, has gone out.
func (l *Lookup) Called() bool { return l != nil && l.flight != nil && l.flight.asked.Load() }
