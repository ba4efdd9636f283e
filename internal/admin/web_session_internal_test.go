package admin

import (
	"encoding/binary"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestEndedSessions(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	asks := func(cookie string) *http.Request {
		r := httptest.NewRequest("GET", "/", nil)
		r.AddCookie(&http.Cookie{Name: sessionCookie, Value: cookie})
		return r
	}
	lives := func(s *sessions, cookie string, at time.Time) bool {
		_, ok := s.expires(asks(cookie), at)
		return ok
	}
	t.Run("are forgotten when they would be over anyway", func(t *testing.T) {
		s := newSessions("token")
		s.end(asks(s.begin(now)), now)
		later := now.Add(sessionFor)
		s.end(asks(s.begin(later)), later)
		if len(s.ended) != 1 {
			t.Errorf("%d are listed, want 1", len(s.ended))
		}
	})
	t.Run("are none of somebody else's making", func(t *testing.T) {
		s := newSessions("token")
		s.end(asks(newSessions("token").begin(now)), now)
		s.end(asks("x"), now)
		if len(s.ended) != 0 {
			t.Errorf("%d are listed, want none", len(s.ended))
		}
	})
	t.Run("are refused while the list makes place for a new key, too", func(t *testing.T) {
		later := now.Add(sessionFor)
		for range 50 {
			s, others := newSessions("token"), [sessionBytes]byte{}
			ended, last := asks(s.begin(later)), asks(s.begin(later))
			s.end(ended, now)
			for i := range uint64(maxEnded - 1) { // others' logouts
				binary.BigEndian.PutUint64(others[:8], uint64(later.Unix()))
				binary.BigEndian.PutUint64(others[8:], i)
				s.ended[others] = struct{}{}
			}
			var wg sync.WaitGroup
			var accepted atomic.Int64
			asking, stop := make(chan struct{}, 4), make(chan struct{})
			for range cap(asking) {
				wg.Go(func() {
					for asking <- struct{}{}; ; {
						if _, ok := s.expires(ended, now); ok {
							accepted.Add(1)
						}
						select {
						case <-stop:
							return
						default:
						}
					}
				})
			}
			for range cap(asking) {
				<-asking
			}
			s.end(last, now)
			close(stop)
			wg.Wait()
			if n := accepted.Load(); n != 0 || len(s.ended) != 0 {
				t.Fatalf("a session that has ended was accepted %d times; %d are listed", n, len(s.ended))
			}
		}
	})
	t.Run("end all others where they are too many, and none comes back", func(t *testing.T) {
		s := newSessions("token")
		first, other := s.begin(now), s.begin(now)
		s.end(asks(first), now)
		for range maxEnded - 1 {
			s.end(asks(s.begin(now)), now)
		}
		if lives(s, first, now) || !lives(s, other, now) {
			t.Errorf("before the list is full the ended one lives: %v, the other: %v", lives(s, first, now), lives(s, other, now))
		}
		s.end(asks(s.begin(now)), now)
		if lives(s, first, now) || lives(s, other, now) || len(s.ended) != 0 {
			t.Errorf("then the ended one lives: %v, the other: %v; %d are listed", lives(s, first, now), lives(s, other, now), len(s.ended))
		}
		if !lives(s, s.begin(now), now) {
			t.Error("nobody can log in any more")
		}
	})
}
