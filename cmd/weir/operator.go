package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
	"unicode"
)

const (
	// operatorTimeout is how long a command waits for the admin API.
	operatorTimeout = 30 * time.Second
	// maxAnswer is how much of an answer a command keeps.
	maxAnswer = 64 << 10
	// maxReason is how much it quotes of it, in bytes.
	maxReason = 500
	// adminToken is the variable with the token of admin.token. A flag would show
	// it to everybody on the machine.
	adminToken = "WEIR_ADMIN_TOKEN"
)

// baseURL is where a Weir listens, without a slash at its end.
type baseURL string

// UnmarshalText reads http://HOST[:PORT] or https://, with a base path if need be.
func (u *baseURL) UnmarshalText(text []byte) error {
	p, err := url.Parse(string(text))
	if err != nil || p.Scheme != "http" && p.Scheme != "https" || p.Hostname() == "" || p.User != nil || strings.ContainsAny(string(text), "?#") {
		return fmt.Errorf("%.100q: want http://HOST:PORT or https://HOST:PORT, without user and query", text)
	}
	*u = baseURL(strings.TrimRight(string(text), "/"))
	return nil
}

// operator asks the admin API of a running Weir.
type operator struct {
	Admin baseURL `placeholder:"URL" default:"http://127.0.0.1:8081" help:"The admin.listen of a running Weir (default ${default}). Its admin.token is read from the variable WEIR_ADMIN_TOKEN."`
}

// post sends a body of JSON and returns the answer.
func (o *operator) post(ctx context.Context, path string, body any) ([]byte, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, operatorTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, string(o.Admin)+path, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	return o.Admin.ask(r, asking{most: maxAnswer, away: "with --admin URL", missing: "want the admin.listen of a Weir of this version, with --admin URL"})
}

// asking is what the commands ask the admin listener differently.
type asking struct {
	most int64  // bytes of an answer that are kept
	away string // how to say where there is another Weir to ask
	// missing is what to do about a 404 or a 405; "" where the answer itself says it.
	missing string
}

// ask sends r to the admin listener at u with the operator's token, and returns the
// answer, which is 200 or 201. The error says in words what became of it, and what to do.
func (u baseURL) ask(r *http.Request, o asking) ([]byte, error) {
	if token := os.Getenv(adminToken); token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	// Who redirects is no admin listener, and is not to see the token again.
	client := &http.Client{Transport: newTransport(1), CheckRedirect: noRedirect}
	defer client.CloseIdleConnections()
	resp, err := client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %s: want the admin.listen of a running Weir, %s", u, unanswered(err, operatorTimeout), o.away)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, o.most))
	if err != nil {
		return nil, fmt.Errorf("%s: %s", u, unanswered(err, operatorTimeout))
	}
	want := ""
	switch resp.StatusCode {
	case http.StatusOK, http.StatusCreated:
		return answer, nil
	case http.StatusUnauthorized, http.StatusForbidden:
		want = "want its admin.token in the variable " + adminToken
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		want = o.missing
	}
	if want != "" {
		want = ": " + want
	}
	return nil, fmt.Errorf("%s: %s%s", u, inWords(resp, answer), want)
}

// newTransport sends requests as they are written: it asks for no compression.
func newTransport(connections int) *http.Transport {
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, DisableCompression: true, ForceAttemptHTTP2: true,
		MaxConnsPerHost: connections, MaxIdleConnsPerHost: connections, TLSHandshakeTimeout: 10 * time.Second,
	}
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// unanswered says why there is no answer, or not all of it.
func unanswered(err error, timeout time.Duration) string {
	switch {
	case errors.Is(err, context.Canceled):
		return "interrupted"
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer within " + short(timeout)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "the answer was cut off"
	}
	if sent, ok := errors.AsType[*url.Error](err); ok {
		err = sent.Err
	}
	return printable(cause(err).Error())
}

// inWords is an answer that is an error, in words: its status, and what its body
// says in the forms that Weir and model APIs have.
func inWords(resp *http.Response, body []byte) string {
	status := strings.TrimSpace(fmt.Sprint(resp.StatusCode, " ", http.StatusText(resp.StatusCode)))
	var said struct {
		Detail string          `json:"detail"`
		Error  json.RawMessage `json:"error"`
	}
	if json.Unmarshal(body, &said) != nil {
		return status
	}
	text := said.Detail
	var inner struct {
		Message string `json:"message"`
	}
	if text == "" && json.Unmarshal(said.Error, &inner) == nil {
		text = inner.Message
	}
	if text == "" && json.Unmarshal(said.Error, &text) != nil || text == "" {
		return status
	}
	return status + ": " + strings.TrimRight(printable(text), ".")
}

// printable is a text that came over the network, for a terminal.
func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "…"
	}
	return text
}
