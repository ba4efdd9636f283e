package loadtest

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// maxAdvice is the longest wait that a refusal's advice counts as: quotas of a year
// have nothing longer to say.
const maxAdvice = 366 * 24 * time.Hour

// newAdvice counts waits of up to a year with three digits, in milliseconds; what says
// to come back at once is none.
func newAdvice() *hdrhistogram.Histogram { return hdrhistogram.New(1, maxAdvice.Milliseconds(), 3) }

// retryAdvice is when a refusal that came at a moment says to come back: by
// Retry-After-Ms, which model APIs send because it is more exact, else by Retry-After in
// seconds or as a date (RFC 9110 section 10.2.3). A date is read beside the answer's own,
// so that clocks that differ do no harm. It is false where the refusal does not say.
func retryAdvice(h http.Header, came time.Time) (time.Duration, bool) {
	if ms, err := strconv.ParseFloat(h.Get("Retry-After-Ms"), 64); err == nil && ms >= 0 {
		return time.Duration(math.Min(ms, float64(maxAdvice.Milliseconds())) * float64(time.Millisecond)), true
	}
	said := h.Get("Retry-After")
	if digits := strings.Trim(said, "0123456789") == ""; digits && said != "" {
		seconds, err := strconv.ParseInt(said, 10, 64)
		if err != nil { // more than 64 bits have
			return maxAdvice, true
		}
		return time.Duration(min(seconds, int64(maxAdvice/time.Second))) * time.Second, true
	}
	at, err := http.ParseTime(said)
	if err != nil {
		return 0, false
	}
	from, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		from = came
	}
	return min(max(at.Sub(from), 0), maxAdvice), true
}
