package ratelimit_test

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/ratelimit"
)

func TestTransportSendsBodiesAgainOnlyWhereItCan(t *testing.T) {
	refusal := func() *http.Response { return answer(429, "Retry-After: 1") }
	send := func(t *testing.T, r *http.Request) (*script, int) {
		s := newScript(refusal())
		return s, status(t, transport(t, ratelimit.TransportOptions{Base: s}), r)
	}
	post := func(t *testing.T, b io.Reader) *http.Request {
		r, err := http.NewRequest("POST", "http://api.test/v1", b)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	t.Run("sends a body again that GetBody gives", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, got := send(t, post(t, strings.NewReader("question")))
			if want := []string{"question", "question"}; got != 200 || !reflect.DeepEqual(s.bodies, want) {
				t.Errorf("status %d, bodies %q, want %q", got, s.bodies, want)
			}
		})
	})
	t.Run("sends no body again", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			if s, got := send(t, post(t, http.NoBody)); got != 200 || len(s.sent) != 2 {
				t.Errorf("status %d, sent %v", got, s.sent)
			}
		})
	})
	t.Run("returns the refusal where the body is used up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := &body{Reader: strings.NewReader("question")}
			s, got := send(t, post(t, b))
			if got != 429 || len(s.sent) != 1 || b.closed.Load() != 1 {
				t.Errorf("status %d, sent %v, closed %d times", got, s.sent, b.closed.Load())
			}
		})
	})
	t.Run("returns the refusal where GetBody fails", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := post(t, strings.NewReader("question"))
			r.GetBody = func() (io.ReadCloser, error) { return nil, errors.New("gone") }
			if s, got := send(t, r); got != 429 || len(s.sent) != 1 {
				t.Errorf("status %d, sent %v", got, s.sent)
			}
		})
	})
	t.Run("does not change the request", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := post(t, strings.NewReader("question"))
			r.Header.Set("X-A", "b")
			was, header, b := *r, r.Header.Clone(), r.Body
			r2 := r
			_, got := send(t, r2)
			if got != 200 || r.Body != b || r.URL != was.URL || !reflect.DeepEqual(r.Header, header) || r.ContentLength != was.ContentLength || r.Context() != was.Context() {
				t.Errorf("status %d, request %+v, was %+v", got, r, &was)
			}
		})
	})
}

func TestTransportClosesEveryBody(t *testing.T) {
	post := func(ctx context.Context) (*http.Request, *body) {
		b := &body{Reader: strings.NewReader("question")}
		r, err := http.NewRequestWithContext(ctx, "POST", "http://api.test/v1", b)
		if err != nil {
			t.Fatal(err)
		}
		return r, b
	}
	t.Run("of a request that was not sent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			tr := transport(t, ratelimit.TransportOptions{Base: newScript(answer(429, "Retry-After: 3600"))})
			_ = status(t, tr, get(t))
			r, b := post(t.Context())
			if _, err := tr.RoundTrip(r); err == nil || b.closed.Load() != 1 {
				t.Errorf("%v, closed %d times", err, b.closed.Load())
			}
		})
	})
	t.Run("of a request whose cost is above the burst", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			tr := transport(t, ratelimit.TransportOptions{
				Base: newScript(), Policies: []ratelimit.Policy{policy(t, "5/minute")}, Cost: func(*http.Request) int64 { return 6 },
			})
			r, b := post(t.Context())
			if _, err := tr.RoundTrip(r); err == nil || b.closed.Load() != 1 {
				t.Errorf("%v, closed %d times", err, b.closed.Load())
			}
		})
	})
	t.Run("of a request that was cancelled before it was sent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			s := newScript()
			r, b := post(ctx)
			_, err := transport(t, ratelimit.TransportOptions{Base: s}).RoundTrip(r)
			if !errors.Is(err, context.Canceled) || b.closed.Load() != 1 || len(s.sent) != 0 {
				t.Errorf("%v, closed %d times, sent %v", err, b.closed.Load(), s.sent)
			}
		})
	})
	t.Run("of a second body that was not sent", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			r, first := post(ctx)
			second := &body{Reader: strings.NewReader("question")}
			r.GetBody = func() (io.ReadCloser, error) { return second, nil }
			_, err := transport(t, ratelimit.TransportOptions{Base: newScript(answer(429, "Retry-After: 5"))}).RoundTrip(r)
			if !errors.Is(err, context.DeadlineExceeded) || first.closed.Load() != 1 || second.closed.Load() != 1 {
				t.Errorf("%v, closed %d and %d times", err, first.closed.Load(), second.closed.Load())
			}
		})
	})
}

// unended is the body of a refusal that begins and never ends.
func unended() io.ReadCloser {
	r, w := io.Pipe()
	go func() { _, _ = io.WriteString(w, "{") }() // until it is read
	return r
}

func TestTransportDoesNotWaitForARefusalToEnd(t *testing.T) {
	const ms = time.Millisecond
	send := func(t *testing.T, o ratelimit.TransportOptions, refusals ...*http.Response) (*script, *http.Response, error) {
		s := newScript(refusals...)
		for _, r := range refusals {
			r.Body = unended()
		}
		o.Base = s
		// Without the bound it waits for this deadline.
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		for _, r := range refusals {
			context.AfterFunc(ctx, func() { _ = r.Body.Close() }) // as http.Transport does
		}
		resp, err := transport(t, o).RoundTrip(get(t).WithContext(ctx))
		return s, resp, err
	}
	t.Run("sends again at the time that it was told", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, resp, err := send(t, ratelimit.TransportOptions{}, answer(429, "Retry-After-Ms: 30"), answer(503, "Retry-After: 2"))
			if want := []time.Duration{0, 30 * ms, 2030 * ms}; err != nil || resp.StatusCode != 200 || !reflect.DeepEqual(s.sent, want) {
				t.Errorf("%v, sent at %v, want %v", err, s.sent, want)
			}
		})
	})
	t.Run("reads for 100 milliseconds before it waits by its own guess", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, resp, err := send(t, ratelimit.TransportOptions{}, answer(429, "X-Should-Retry: true"))
			if want := []time.Duration{0, 600 * ms}; err != nil || resp.StatusCode != 200 || !reflect.DeepEqual(s.sent, want) {
				t.Errorf("%v, sent at %v, want %v", err, s.sent, want)
			}
		})
	})
	t.Run("returns a last refusal as it is", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s, resp, err := send(t, ratelimit.TransportOptions{Attempts: 1}, answer(429, "Retry-After: 2"))
			if err != nil || resp.StatusCode != 429 || time.Since(s.start) != 0 {
				t.Errorf("%v after %v", err, time.Since(s.start))
			}
		})
	})
	t.Run("says that it was not sent again where there is no refusal to return", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			o := ratelimit.TransportOptions{MaxWait: 3 * time.Second, Policies: []ratelimit.Policy{policy(t, "1/minute")}}
			s, _, err := send(t, o, answer(429, "Retry-After: 2"))
			if p, ok := errors.AsType[*weir.Problem](err); !ok || p.Status != 429 || time.Since(s.start) != 100*ms {
				t.Errorf("%v after %v", err, time.Since(s.start))
			}
		})
	})
}

// The same with the bodies of http.Transport, which are closed while they are read.
func TestTransportEndsRefusalsOfANetwork(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		for _, compressed := range []bool{false, true} {
			t.Run(fmt.Sprintf("HTTP/2 %t, compressed %t", http2, compressed), func(t *testing.T) {
				server := unendedServer(http2, compressed)
				defer server.Close()
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				r, err := http.NewRequestWithContext(ctx, "GET", server.URL, nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := transport(t, ratelimit.TransportOptions{Base: server.Client().Transport}).RoundTrip(r)
				if err != nil {
					t.Fatal(err)
				}
				text, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err != nil || resp.StatusCode != 200 || string(text) != "done" || (resp.ProtoMajor == 2) != http2 {
					t.Errorf("%s %d %q, %v", resp.Proto, resp.StatusCode, text, err)
				}
			})
		}
	}
}

// unendedServer refuses the first request, with a body that does not end as long
// as the client listens.
func unendedServer(http2, compressed bool) *httptest.Server {
	var requests atomic.Int64
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) > 1 {
			_, _ = io.WriteString(w, "done")
			return
		}
		w.Header().Set("Retry-After-Ms", "20")
		if compressed {
			w.Header().Set("Content-Encoding", "gzip")
		}
		w.WriteHeader(429)
		if compressed {
			z := gzip.NewWriter(w)
			_, _ = io.WriteString(z, "{")
			_ = z.Flush()
		} else {
			_, _ = io.WriteString(w, "{")
		}
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	s.EnableHTTP2 = http2
	s.StartTLS()
	return s
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name   string
		header http.Header
		want   time.Duration
	}{
		{"is exact in milliseconds", http.Header{"Retry-After-Ms": {"1500"}, "Retry-After": {"9"}}, 1500 * time.Millisecond},
		{"takes fractions of seconds", http.Header{"Retry-After": {"2.5"}}, 2500 * time.Millisecond},
		{"reads a date by the server's own", http.Header{"Retry-After": {"Sun, 22 Nov 2026 08:00:30 GMT"}, "Date": {"Sun, 22 Nov 2026 08:00:00 GMT"}}, 30 * time.Second},
		{"is over in part for a stored answer", http.Header{"Retry-After": {"30"}, "Age": {"10"}}, 20 * time.Second},
		{"is at most a day", http.Header{"Retry-After": {"99999999999"}}, 24 * time.Hour},
		{"ignores what is no time", http.Header{"Retry-After": {"soon"}}, 0},
		{"says nothing where nothing is said", http.Header{}, 0},
	} {
		if got := ratelimit.RetryAfter(c.header, now); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
