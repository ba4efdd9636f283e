package job

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// WebhookOptions say how the ends of jobs are told to the URLs that their callers named.
type WebhookOptions struct {
	// Secret signs what is sent, as in Standard Webhooks: "whsec_" and the base64 of 24
	// to 64 bytes. Whoever gets a webhook checks it with the same secret.
	Secret string
	// Allow names what may be called although it is not on the public internet, or at
	// another port than 80, 443, 8080 and 8443: a host, an address or a network
	// ("10.0.0.0/8"), each with or without a port ("hooks.internal:9000",
	// "[fd00::/8]:9000"). Without a port it is the four usual ones. "*:9000" is
	// another port of any public host. At most 256.
	Allow []string
	// Timeout is for one delivery in all, from the name's look-up to the answer.
	// Default 10s, at most 30s.
	Timeout time.Duration
}

// How webhooks are delivered.
const (
	secretPrefix = "whsec_"
	maxAllow     = 256

	maxDeliveries       = 64 // at once
	maxCallerDeliveries = 8
	maxHostDeliveries   = 4 // also to one address: names are cheap
	// deliveryLease is until when another instance leaves a delivery alone: longer
	// than its Timeout and the tries to write down what came of it.
	deliveryLease = 90 * time.Second
	// postponed is for how long a delivery is put off while its host or address has its
	// share.
	postponed = 20 * time.Second
	// maxHookAnswer is how much of an answer's body is read, to be dropped.
	maxHookAnswer = 64 << 10
)

// WebhookKept is how much longer than others a Store keeps a job that is to be forgotten
// while its webhook is still due: longer than all tries take. One that is due after that has
// nobody who delivers it.
const WebhookKept = 7 * 24 * time.Hour

// webhooks delivers the ends of jobs.
type webhooks struct {
	key    []byte
	guard  *guard
	client *http.Client
	places *places
}

// newWebhooks refuses options that are wrong: the error names them.
func newWebhooks(o WebhookOptions) (*webhooks, error) {
	key, err := webhookKey(o.Secret)
	if err != nil {
		return nil, err
	}
	if o.Timeout < 0 || o.Timeout > 30*time.Second {
		return nil, fmt.Errorf("job: WebhookOptions.Timeout: %v: want at most 30s, or 0 for 10s", o.Timeout)
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	g, err := newGuard(o.Allow)
	if err != nil {
		return nil, err
	}
	return &webhooks{key: key, guard: g, client: hookClient(g, o.Timeout), places: newPlaces()}, nil
}

// webhookKey is the key in a secret. The error does not show the secret.
func webhookKey(secret string) ([]byte, error) {
	text, ok := strings.CutPrefix(secret, secretPrefix)
	key, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(key) < 24 || len(key) > 64 {
		return nil, errors.New("job: WebhookOptions.Secret: want whsec_ and the base64 of 24 to 64 random bytes, for example the output of: echo whsec_$(head -c 32 /dev/urandom | base64)")
	}
	return key, nil
}

// hookClient makes one new connection for each delivery, so that each is checked, and
// follows no redirects.
func hookClient(g *guard, timeout time.Duration) *http.Client {
	return &http.Client{
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:            g.dial,
			DisableKeepAlives:      true,
			DisableCompression:     true,
			TLSHandshakeTimeout:    timeout,
			MaxResponseHeaderBytes: 64 << 10,
		},
	}
}

// CheckWebhook says what is wrong with a URL that a caller wants to be told at: its form,
// or an address in it that is not on the public internet. Names are looked up, and
// their addresses checked, when it is called. The error is for the caller.
func (s *Jobs) CheckWebhook(url string) error {
	if s.hooks == nil {
		return errors.New("webhooks are not set up here: ask for the state of the job instead")
	}
	return s.hooks.guard.checkURL(url)
}

// payload is what a webhook tells.
type payload struct {
	Type      string    `json:"type"` // "job." and the State
	Timestamp time.Time `json:"timestamp"`
	Data      View      `json:"data"`
}

// hookID names an end of j: a job that an operator has retried ends again, and receivers drop
// an id that they know.
func hookID(j *Job) string { return j.ID + "-" + strconv.FormatInt(j.Finished.UnixMicro(), 36) }

// newHookRequest is the request of a delivery. The id is that of each try, the time and the
// signature are of this one.
func (h *webhooks) newHookRequest(ctx context.Context, j *Job, now time.Time) (*http.Request, error) {
	body, err := json.Marshal(payload{Type: "job." + string(j.State), Timestamp: j.Finished.UTC(), Data: j.View(0)})
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, j.Webhook, strings.NewReader(string(body)))
	if err != nil {
		return nil, err
	}
	at := strconv.FormatInt(now.Unix(), 10)
	r.Header = http.Header{
		"Content-Type":      {"application/json"},
		"User-Agent":        {"weir"},
		"Webhook-Id":        {hookID(j)},
		"Webhook-Timestamp": {at},
		"Webhook-Signature": {h.sign(hookID(j), at, body)},
	}
	return r, nil
}

// sign is the webhook-signature of Standard Webhooks 1.0, symmetric.
func (h *webhooks) sign(id, at string, body []byte) string {
	mac := hmac.New(sha256.New, h.key)
	fmt.Fprintf(mac, "%s.%s.%s", id, at, body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// deliver tells j's end once. over is true if it is not to be told again: it was
// taken, or its receiver is gone for good (410).
func (h *webhooks) deliver(ctx context.Context, j *Job, now time.Time) (over bool, err error) {
	if err := h.guard.checkURL(j.Webhook); err != nil {
		return false, err // it was right when it came: the configuration has changed
	}
	r, err := h.newHookRequest(ctx, j, now)
	if err != nil {
		return true, err
	}
	answer, err := h.client.Do(r)
	if err != nil {
		return false, withoutURL(err)
	}
	defer func() { _ = answer.Body.Close() }()
	_, _ = io.CopyN(io.Discard, answer.Body, maxHookAnswer) // the status is known: how the body ends is no matter
	switch {
	case answer.StatusCode >= 200 && answer.StatusCode <= 299:
		return true, nil
	case answer.StatusCode == http.StatusGone:
		return true, fmt.Errorf("the receiver answered %d: it is gone", answer.StatusCode)
	}
	return false, fmt.Errorf("the receiver answered %d: want 2xx", answer.StatusCode)
}

// withoutURL drops the URL from an error of http.Client: it may hold a secret.
func withoutURL(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

// tries are when a delivery is tried, from the end of the job.
func tries() []time.Duration {
	waits := []time.Duration{0, 5 * time.Second, time.Minute, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 6 * time.Hour, 16 * time.Hour}
	for i := range waits[1:] {
		waits[i+1] += waits[i]
	}
	return waits
}

// nextTry is when to try again what was begun at begun and has failed by now: at the
// next of tries, up to a tenth later. It goes by the age of the end and not by attempt,
// which counts also the times when a delivery was put off. ok is false after the last
// try; who could not try in time, because nobody was there to, has 8 tries an hour
// apart.
func nextTry(ended, begun, now time.Time, attempt int) (next time.Time, ok bool) {
	all := tries()
	for i, at := range all {
		if at <= begun.Sub(ended) {
			continue
		}
		wait := at - all[i-1]
		next = ended.Add(at + time.Duration(rand.Int64N(int64(wait/10)+1)))
		if soonest := now.Add(time.Second); next.Before(soonest) {
			next = soonest
		}
		return next, true
	}
	if attempt >= len(all) {
		return time.Time{}, false
	}
	return now.Add(time.Hour), true
}

// hostOf is what maxHostDeliveries counts by.
func hostOf(webhook string) string {
	u, err := url.Parse(webhook)
	if err != nil {
		return ""
	}
	if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
		return addr.Unmap().String()
	}
	return canonicalHost(u.Hostname())
}
