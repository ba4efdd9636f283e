package blob

import (
	"fmt"
	"net/http"
	"sync"

	"github.com/inferweir/weir"
)

// How many uploads come in at once: what they have on the disk before it is known whether
// it may stay is bounded by it.
const (
	maxUploads       = 64
	maxCallerUploads = 16
)

// uploading is what comes in at this moment. The zero value is ready.
type uploading struct {
	mu       sync.Mutex
	keys     map[string]bool // at most maxUploads
	byCaller map[string]int  // by their tag
}

// begin takes the only place that a key has. The error says which bound there is no place
// under.
func (u *uploading) begin(key string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.keys[key]:
		return &weir.Problem{Status: http.StatusConflict, RetryAfter: retryAfter, Detail: "The link is being used: a file comes in with it at this moment."}
	case u.byCaller[tagOf(key)] >= maxCallerUploads:
		return &weir.Problem{Status: http.StatusTooManyRequests, RetryAfter: retryAfter,
			Detail: fmt.Sprintf("%d uploads of yours are under way, which is the most there may be. Try again when one has ended.", maxCallerUploads)}
	case len(u.keys) >= maxUploads:
		return &weir.Problem{Status: http.StatusServiceUnavailable, RetryAfter: retryAfter, Detail: "Too many uploads are under way. Try again in 5 seconds."}
	}
	if u.keys == nil {
		u.keys, u.byCaller = map[string]bool{}, map[string]int{}
	}
	u.keys[key] = true
	u.byCaller[tagOf(key)]++
	return nil
}

// end gives the place of a key back.
func (u *uploading) end(key string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.keys, key)
	if u.byCaller[tagOf(key)]--; u.byCaller[tagOf(key)] == 0 {
		delete(u.byCaller, tagOf(key))
	}
}
