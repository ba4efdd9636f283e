package telemetry_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/telemetry"
)

var _ weir.Middleware = telemetry.Timing

// mark runs a phase of a length in a synctest bubble.
func mark(r *http.Request, name string, d time.Duration) {
	defer telemetry.Start(r.Context(), name)()
	time.Sleep(d)
}

func TestTimingHeader(t *testing.T) {
	f := func(name string, h http.HandlerFunc, want ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			synctest.Test(t, func(t *testing.T) {
				t.Helper()
				w := httptest.NewRecorder()
				telemetry.Timing(h).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
				if got := w.Result().Header["Server-Timing"]; !slices.Equal(got, want) {
					t.Errorf("Server-Timing = %q, want %q", got, want)
				}
			})
		})
	}
	const ms = time.Millisecond
	f("tells the total of a handler that writes nothing", func(http.ResponseWriter, *http.Request) {
		time.Sleep(30 * ms)
	}, "total;dur=30.0")
	f("tells the time to the first byte, not to the last", func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(5 * ms)
		_, _ = io.WriteString(w, "a")
		time.Sleep(time.Hour)
		_, _ = io.WriteString(w, "b")
	}, "total;dur=5.0")
	f("tells phases in the order of their first start", func(w http.ResponseWriter, r *http.Request) {
		mark(r, "db", 20*ms)
		mark(r, "render", 1500*time.Microsecond)
		w.WriteHeader(http.StatusTeapot)
	}, "total;dur=21.5, db;dur=20.0, render;dur=1.5")
	f("adds up the runs of a phase", func(_ http.ResponseWriter, r *http.Request) {
		for range 1000 {
			mark(r, "db", ms)
		}
	}, "total;dur=1000.0, db;dur=1000.0")
	f("adds up runs that overlap", func(_ http.ResponseWriter, r *http.Request) {
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() { mark(r, "shard", time.Duration(i+1)*10*ms) })
		}
		wg.Wait()
	}, "total;dur=30.0, shard;dur=60.0")
	f("tells a running phase with its time so far", func(w http.ResponseWriter, r *http.Request) {
		defer telemetry.Start(r.Context(), "all")()
		time.Sleep(7 * ms)
		w.WriteHeader(http.StatusOK)
		time.Sleep(time.Hour)
	}, "total;dur=7.0, all;dur=7.0")
	f("counts a phase that is ended twice once", func(_ http.ResponseWriter, r *http.Request) {
		stop := telemetry.Start(r.Context(), "db")
		time.Sleep(2 * ms)
		stop()
		time.Sleep(2 * ms)
		stop()
	}, "total;dur=4.0, db;dur=2.0")
	f("makes names into tokens", func(_ http.ResponseWriter, r *http.Request) {
		mark(r, "", ms)
		mark(r, "a b;dur=9,\r\nX: é", ms)
		mark(r, strings.Repeat("n", 100), ms)
	}, "total;dur=3.0, a-b-dur-9---X----;dur=1.0, "+strings.Repeat("n", 64)+";dur=1.0")
	f("keeps what the handler says, in front", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Add("Server-Timing", "queue;dur=0.0")
		w.Header().Add("Server-Timing", "")
		w.Header().Add("Server-Timing", "miss, cdn;desc=\"a, b\"")
		time.Sleep(ms)
	}, "queue;dur=0.0, miss, cdn;desc=\"a, b\", total;dur=1.0")
	f("nests", telemetry.Timing(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mark(r, "inner", ms)
	})).ServeHTTP, "total;dur=1.0, inner;dur=1.0, total;dur=1.0")
	f("does not write into shared header values", func(w http.ResponseWriter, _ *http.Request) {
		shared := append(make([]string, 0, 8), "a")
		w.Header()["Server-Timing"] = shared
		w.WriteHeader(http.StatusOK)
		if got := shared[:2][1]; got != "" {
			t.Errorf("the shared slice got %q", got)
		}
	}, "a, total;dur=0.0")
	f("records at most 32 names", func(_ http.ResponseWriter, r *http.Request) {
		for i := range 100 {
			telemetry.Start(r.Context(), fmt.Sprintf("p%d", i))()
		}
	}, "total;dur=0.0"+func() (s string) {
		for i := range 32 {
			s += fmt.Sprintf(", p%d;dur=0.0", i)
		}
		return s
	}())
}

func TestTimingConcurrentMarks(t *testing.T) {
	t.Run("takes marks from goroutines while the header goes out", func(t *testing.T) {
		h := telemetry.Timing(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var wg sync.WaitGroup
			defer wg.Wait()
			for i := range 8 {
				wg.Go(func() {
					for range 100 {
						telemetry.Start(r.Context(), fmt.Sprintf("g%d", i))()
					}
				})
			}
			w.WriteHeader(http.StatusOK)
		}))
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
		if got := w.Result().Header.Get("Server-Timing"); !strings.HasPrefix(got, "total;dur=") {
			t.Errorf("Server-Timing = %q, want a total", got)
		}
	})
	t.Run("does nothing without the middleware", func(t *testing.T) {
		stop := telemetry.Start(t.Context(), "db")
		stop()
		stop()
	})
}

// timed is a real server, since only one knows what really goes out.
func timed(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewUnstartedServer(telemetry.Timing(h))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // "superfluous WriteHeader" is expected
	s.Start()
	t.Cleanup(s.Close)
	return s
}

// answer is what a client sees, with every dur replaced by N.
type answer struct {
	Status       int
	ServerTiming []string
	Body         string
}

func send(t *testing.T, ctx context.Context, method, url string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var body []byte
	if res.StatusCode != http.StatusSwitchingProtocols { // then the body is the open connection
		if body, err = io.ReadAll(res.Body); err != nil {
			t.Fatal(err)
		}
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	return answer{res.StatusCode, anyDur(res.Header["Server-Timing"]), string(body)}
}

func anyDur(values []string) []string {
	var out []string
	for _, v := range values {
		out = append(out, regexp.MustCompile(`dur=\d+\.\d+`).ReplaceAllString(v, "dur=N"))
	}
	return out
}

func TestTimingOnAServer(t *testing.T) {
	f := func(name, method string, h http.HandlerFunc, want answer) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			got := send(t, t.Context(), method, timed(t, h).URL)
			if got.Status != want.Status || !slices.Equal(got.ServerTiming, want.ServerTiming) || got.Body != want.Body {
				t.Errorf("answer = %+v, want %+v", got, want)
			}
		})
	}
	total := []string{"total;dur=N"}
	f("answers 200 for a handler that does nothing", "GET", func(http.ResponseWriter, *http.Request) {}, answer{200, total, ""})
	f("answers 200 for a handler that only writes", "GET", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("x"))
	}, answer{200, total, "x"})
	f("keeps the first of two statuses", "GET", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(404)
		w.WriteHeader(500)
	}, answer{404, total, ""})
	f("times the answer to HEAD", "HEAD", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "not sent")
	}, answer{200, total, ""})
	f("lets a status come after an empty copy", "GET", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.Copy(w, strings.NewReader(""))
		w.WriteHeader(404)
	}, answer{404, total, ""})
	f("copies through ReadFrom", "GET", func(w http.ResponseWriter, _ *http.Request) {
		if _, err := w.(io.ReaderFrom).ReadFrom(strings.NewReader("copied")); err != nil {
			t.Error(err)
		}
	}, answer{200, total, "copied"})
	f("flushes for who asks for an http.Flusher", "GET", func(w http.ResponseWriter, _ *http.Request) {
		w.(http.Flusher).Flush()
		_, _ = io.WriteString(w, "after")
	}, answer{200, total, "after"})
	f("reaches the server's writer through a ResponseController", "GET", func(w http.ResponseWriter, _ *http.Request) {
		rc := http.NewResponseController(w)
		if err := errors.Join(rc.SetReadDeadline(time.Now().Add(time.Hour)), rc.EnableFullDuplex(), rc.Flush()); err != nil {
			t.Error(err)
		}
	}, answer{200, total, ""})
	f("lets a handler hijack the connection", "GET", func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 299 Own\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		_ = c.Close()
	}, answer{299, nil, ""})
	f("lets a handler switch protocols", "GET", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "echo")
		w.WriteHeader(http.StatusSwitchingProtocols)
	}, answer{101, total, ""})
}

func TestTimingStreams(t *testing.T) {
	t.Run("a flush reaches the client while the handler still runs", func(t *testing.T) {
		arrived := make(chan struct{})
		s := timed(t, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "first ")
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
			select { // only the client's first byte lets the handler go on
			case <-arrived:
			case <-t.Context().Done():
			}
			_, _ = io.WriteString(w, "last")
		})
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			GotFirstResponseByte: func() { close(arrived) },
		})
		got := send(t, ctx, "GET", s.URL)
		if got.Body != "first last" || !slices.Equal(got.ServerTiming, []string{"total;dur=N"}) {
			t.Errorf("answer = %+v, want the body \"first last\" and a total", got)
		}
	})
	t.Run("an interim answer carries nothing and the final one does", func(t *testing.T) {
		s := timed(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", "</a.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusNotFound)
		})
		var interim []string
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				interim = append(interim, fmt.Sprint(code, h["Link"], h["Server-Timing"]))
				return nil
			},
		})
		got := send(t, ctx, "GET", s.URL)
		if got.Status != 404 || !slices.Equal(got.ServerTiming, []string{"total;dur=N"}) {
			t.Errorf("answer = %+v, want 404 and a total", got)
		}
		if want := []string{"103 [</a.css>; rel=preload] []"}; !slices.Equal(interim, want) {
			t.Errorf("interim answers = %q, want %q", interim, want)
		}
	})
	t.Run("an abort before the header closes the connection without an answer", func(t *testing.T) {
		s := timed(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		if res, err := http.DefaultTransport.RoundTrip(httptest.NewRequest("GET", s.URL, nil)); err == nil {
			_ = res.Body.Close()
			t.Errorf("got status %d, want no answer", res.StatusCode)
		}
	})
	t.Run("an abort in the body reaches the client as a broken body", func(t *testing.T) {
		s := timed(t, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		res, err := http.Get(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(bufio.NewReader(res.Body))
		if string(body) != "half" || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("body = %q, %v, want \"half\" and an unexpected EOF", body, err)
		}
	})
	t.Run("says that a flush is not supported", func(t *testing.T) {
		var err error
		telemetry.Timing(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			err = http.NewResponseController(w).Flush()
		})).ServeHTTP(struct{ http.ResponseWriter }{httptest.NewRecorder()}, httptest.NewRequest("GET", "/", nil))
		if !errors.Is(err, http.ErrNotSupported) {
			t.Errorf("Flush() = %v, want http.ErrNotSupported", err)
		}
	})
}
