package loadtest_test

import (
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/internal/loadtest"
)

// frame is a part of a stream, and how long after the one before it comes.
type frame struct {
	after time.Duration
	text  string
}

// chunk is a piece of OpenAI's chat completions.
func chunk(after time.Duration, content string) frame {
	return frame{after, fmt.Sprintf("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":%q}}]}\n\n", content)}
}

// role is the first event of a chat completion, which has no text.
func role(after time.Duration) frame {
	return frame{after, "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n"}
}

const doneFrame = "data: [DONE]\n\n"

// streamBody gives its frames when they are due.
type streamBody struct {
	frames []frame
	rest   string
}

func (s *streamBody) Read(p []byte) (int, error) {
	if s.rest == "" {
		if len(s.frames) == 0 {
			return 0, io.EOF
		}
		time.Sleep(s.frames[0].after)
		s.rest, s.frames = s.frames[0].text, s.frames[1:]
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// streaming answers each request with the same stream, its beginning 50 ms later.
func streaming(frames ...frame) *server {
	return &server{answer: func(_ int, r *http.Request) (*http.Response, error) {
		if err := waitFor(r, 50*ms); err != nil {
			return nil, err
		}
		resp := reply(http.StatusOK, "", "Content-Type", "text/event-stream; charset=utf-8")
		resp.Body = io.NopCloser(&streamBody{frames: frames})
		return resp, nil
	}}
}

func TestStreams(t *testing.T) {
	options := loadtest.Options{Stages: rate(10, time.Second), Stream: true, Body: `{"stream": true}`}
	t.Run("measures the first token, the gaps and the speed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := streaming(role(0), chunk(150*ms, "a"), chunk(20*ms, "b"), chunk(20*ms, "c"), chunk(60*ms, "d"), frame{0, doneFrame})
			r := virtually(t, t.Context(), options, s)
			if r.OK != 10 || r.TTFTMS.P50 != 200.063 && !near(time.Duration(r.TTFTMS.P50*1e6), 200*ms) || r.TTFTMS.Max < 199 || r.TTFTMS.Max > 201 {
				t.Errorf("ok %d, to the first token %+v, want 10 and 200 ms", r.OK, r.TTFTMS)
			}
			if q := r.ITLMS; q.P50 < 19.9 || q.P50 > 20.1 || q.P90 < 59 || q.P90 > 61 {
				t.Errorf("between tokens %+v, want a median of 20 ms and a third of 60 ms", q)
			}
			// Three tokens in 100 ms after the first; 40 until the last answer is there, which
			// takes 0.2 s longer than the sending.
			if r.Tokens != 40 || r.TokensFrom != "pieces" || r.TokensPerS < 33.3 || r.TokensPerS > 33.4 || r.StreamSpeeds.P50 < 29.9 || r.StreamSpeeds.P50 > 30.1 {
				t.Errorf("%d tokens by %s, %g/s, one stream %+v; want 40 by pieces, 33.3/s, 30/s", r.Tokens, r.TokensFrom, r.TokensPerS, r.StreamSpeeds)
			}
			if r.LatencyMS.P50 < 299 || r.LatencyMS.P50 > 301 {
				t.Errorf("latency %+v, want 300 ms", r.LatencyMS)
			}
		})
	})
	t.Run("believes the server's own count of tokens", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := streaming(chunk(0, "ab"), chunk(100*ms, "cd"),
				frame{0, "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":11}}\n\n"}, frame{0, doneFrame})
			r := virtually(t, t.Context(), options, s)
			if r.Tokens != 110 || r.TokensFrom != "usage" || r.StreamSpeeds.P50 < 99 || r.StreamSpeeds.P50 > 101 {
				t.Errorf("%d tokens by %s, one stream %+v; want 110 by usage and ten in 100 ms", r.Tokens, r.TokensFrom, r.StreamSpeeds)
			}
		})
	})
	t.Run("reads Anthropic's messages and OpenAI's responses", func(t *testing.T) {
		for _, frames := range [][]frame{
			{{0, "event: message_start\ndata: {\"type\":\"message_start\"}\n\n"}, {0, "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"a\"}}\n\n"},
				{0, "event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":5}}\n\n"}, {0, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"}},
			{{0, "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"a\"}\n\n"},
				{0, "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"output_tokens\":5}}}\n\n"}},
		} {
			synctest.Test(t, func(t *testing.T) {
				r := virtually(t, t.Context(), options, streaming(frames...))
				if r.OK != 10 || r.Tokens != 50 || r.TTFTMS.P50 < 49 || r.TTFTMS.P50 > 51 {
					t.Errorf("ok %d, %d tokens, to the first %+v, errors %v; want 10, 50 and 50 ms", r.OK, r.Tokens, r.TTFTMS, r.ErrorExamples)
				}
			})
		}
	})
	for _, c := range []struct {
		name    string
		server  *server
		want    map[string]int64
		example string
	}{
		{"a stream that ends without its last event is cut", streaming(chunk(0, "a")), map[string]int64{"cut": 10}, "the stream ended without its last event"},
		{"a stream that is slower than the timeout is one", &server{answer: func(_ int, r *http.Request) (*http.Response, error) {
			resp := reply(http.StatusOK, "", "Content-Type", "text/event-stream")
			resp.Body = io.NopCloser(io.MultiReader(strings.NewReader(chunk(0, "a").text), waiting{r}))
			return resp, nil
		}}, map[string]int64{"timeout": 10}, "context deadline exceeded"},
		{"an error in a stream is no answer", streaming(chunk(0, "a"), frame{0, "data: {\"error\":{\"message\":\"out of memory\"}}\n\n"}, frame{0, doneFrame}), map[string]int64{"body": 10}, "out of memory"},
		{"an answer that is no stream is not what was asked for", &server{answer: func(int, *http.Request) (*http.Response, error) {
			return reply(http.StatusOK, "{}", "Content-Type", "application/json"), nil
		}}, map[string]int64{"body": 10}, `an answer of the type "application/json" is no event stream`},
		{"a refusal is a refusal", &server{answer: func(int, *http.Request) (*http.Response, error) {
			return reply(http.StatusTooManyRequests, "{}", "Content-Type", "application/json"), nil
		}}, map[string]int64{"429": 10}, "429 Too Many Requests"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := options
				o.Timeout = 3 * time.Second
				r := virtually(t, t.Context(), o, c.server)
				if !reflect.DeepEqual(r.Errors, c.want) || r.OK != 0 {
					t.Errorf("errors = %v, want %v", r.Errors, c.want)
				}
				for _, example := range r.ErrorExamples {
					if !strings.Contains(example, c.example) {
						t.Errorf("example %q, want %q in it", example, c.example)
					}
				}
			})
		})
	}
	t.Run("goodput is of streams that are inside all objectives", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			fast := streaming(chunk(0, "a"), chunk(20*ms, "b"), frame{0, doneFrame}).answer
			slow := streaming(chunk(0, "a"), chunk(200*ms, "b"), frame{0, doneFrame}).answer
			s := &server{answer: func(n int, r *http.Request) (*http.Response, error) {
				if n%2 == 0 {
					return slow(n, r)
				}
				return fast(n, r)
			}}
			o := options
			o.Objectives = []loadtest.Objective{objective(t, "ttft<100ms"), objective(t, "itl_p50<100ms")}
			r := virtually(t, t.Context(), o, s)
			if r.Goodput != 5 || !r.SLO[0].Met || !r.SLO[1].Met {
				t.Errorf("goodput %g/s, %+v; want 5/s, and both met", r.Goodput, r.SLO)
			}
		})
	})
}

// waiting is a body that does not come.
type waiting struct{ r *http.Request }

func (w waiting) Read([]byte) (int, error) {
	<-w.r.Context().Done()
	return 0, w.r.Context().Err()
}

// FuzzStream checks that no server can bring a load down, and that a stream without
// an end is never taken for a whole one.
func FuzzStream(f *testing.F) {
	f.Add([]byte(role(0).text + chunk(0, "a").text + doneFrame))
	f.Add([]byte("event: message_stop\ndata: {\"type\":\"message_stop\",\"usage\":{\"output_tokens\":-5}}\n\n"))
	f.Add([]byte("data: {\"choices\":[{\"delta\":{\"content\":null}}],\"error\":null}\r\rdata: 1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		pieces, tokens, err := loadtest.ReadStream(text)
		if pieces < 0 || tokens < 0 {
			t.Errorf("%d pieces, %d tokens", pieces, tokens)
		}
		if whole := strings.Contains(string(text), "[DONE]") || strings.Contains(string(text), "message_stop") || strings.Contains(string(text), "response."); err == nil && !whole && !strings.Contains(string(text), `\u`) {
			t.Errorf("%q is a whole stream", text)
		}
	})
}
