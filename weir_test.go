package weir_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir"
)

func TestChain(t *testing.T) {
	var order []string
	named := func(name string) weir.Middleware {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				order = append(order, name)
				next.ServeHTTP(w, r)
			})
		}
	}
	h := weir.Chain(named("a"), named("b"), weir.Chain(), named("c"))(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		order = append(order, "handler")
	}))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	if want := []string{"a", "b", "c", "handler"}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
}

func TestCaller(t *testing.T) {
	if c, ok := weir.CallerFrom(t.Context()); ok {
		t.Errorf("a context without a caller has %+v", c)
	}
	want := weir.Caller{ID: "key:alice", Plan: "pro"}
	if got, ok := weir.CallerFrom(weir.WithCaller(t.Context(), want)); !ok || got != want {
		t.Errorf("got %+v", got)
	}
}

func TestUsage(t *testing.T) {
	got := weir.Usage{Input: 1, Cached: 2, Output: 3}.Add(weir.Usage{Input: 10, Cached: 20, Output: 30})
	if want := (weir.Usage{Input: 11, Cached: 22, Output: 33}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestProblem(t *testing.T) {
	write := func(p *weir.Problem) *http.Response {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, nil)
		return w.Result()
	}
	body := func(p *weir.Problem) string {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, nil)
		return w.Body.String()
	}
	t.Run("writes what the client may know and nothing else", func(t *testing.T) {
		p := &weir.Problem{
			Status: 429, Type: weir.TypeQuotaExceeded, Title: "Quota exceeded", Detail: `5 "requests" are used up.`,
			RetryAfter: 9001 * time.Millisecond, Violated: []string{"a", "b"}, Header: http.Header{"X-Extra": {"1"}}, Err: errors.New("secret cause"),
		}
		want := `{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Quota exceeded","status":429,` +
			`"detail":"5 \"requests\" are used up.","violated-policies":["a","b"],"retry_after":10}` + "\n"
		if got := body(p); got != want {
			t.Errorf("\n got %s\nwant %s", got, want)
		}
		resp := write(p)
		for name, value := range map[string]string{
			"Content-Type": "application/problem+json", "Content-Length": strconv.Itoa(len(want)), "Cache-Control": "no-store",
			"Retry-After": "10", "X-Extra": "1", "X-Should-Retry": "",
		} {
			if got := resp.Header.Get(name); got != value {
				t.Errorf("%s: %q, want %q", name, got, value)
			}
		}
		if !strings.HasSuffix(p.Error(), "secret cause") || !errors.Is(p, p.Err) {
			t.Errorf("the log gets %q", p.Error())
		}
	})
	t.Run("is a plain 500 when nothing is said", func(t *testing.T) {
		if got, want := body(&weir.Problem{}), `{"type":"about:blank","title":"Internal Server Error","status":500}`+"\n"; got != want {
			t.Errorf("\n got %s\nwant %s", got, want)
		}
		if resp := write(&weir.Problem{}); resp.StatusCode != 500 || resp.Header.Get("Retry-After") != "" {
			t.Errorf("%s %v", resp.Status, resp.Header)
		}
	})
	t.Run("tells the wait in every form that clients read", func(t *testing.T) {
		for wait, want := range map[time.Duration][2]string{
			0: {"", ""}, time.Nanosecond: {"1", ""}, time.Second: {"1", ""}, time.Second + 1: {"2", ""},
			time.Minute: {"60", ""}, time.Minute + 1: {"61", "false"}, 24 * time.Hour: {"86400", "false"}, 30 * 24 * time.Hour: {"2592000", "false"}, weir.Never: {"", "false"},
		} {
			for range 50 { // the jitter is random
				h := http.Header{}
				(&weir.Problem{Status: 429, RetryAfter: wait}).SetHeader(h)
				if got := [2]string{h.Get("Retry-After"), h.Get("X-Should-Retry")}; got != want {
					t.Fatalf("%v: %q, want %q", wait, got, want)
				}
				ms, err := strconv.ParseInt(h.Get("Retry-After-Ms"), 10, 64)
				if wait <= 0 {
					if err == nil {
						t.Fatalf("%v: Retry-After-Ms %d", wait, ms)
					}
					continue
				}
				least := int64((wait + time.Millisecond - 1) / time.Millisecond)
				if err != nil || ms < least || ms > least+min(least/10, 60_000)+1 {
					t.Fatalf("%v: Retry-After-Ms %d, %v", wait, ms, err)
				}
			}
		}
	})
	t.Run("is an error that can be found", func(t *testing.T) {
		err := errors.Join(context.Canceled, &weir.Problem{Status: 503})
		if p, ok := errors.AsType[*weir.Problem](err); !ok || p.Status != 503 {
			t.Errorf("got %v", p)
		}
	})
}
