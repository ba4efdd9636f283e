package storetest

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/inferweir/weir/cache"
)

// Cache tests a cache.Store, and its Sweep if it is a cache.Sweeper. open makes an
// empty store with room for at least 32 MiB; what it needs to close, it registers
// with t.Cleanup. A store that has a method Stats like that of cache.MemoryStore
// bounds its own bytes, and then has room for less than 64 MiB. Times are compared
// to the microsecond.
func Cache(t *testing.T, open func(t *testing.T) cache.Store) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, s cache.Store)
	}{
		{"gives back what was put, and nothing else", getPut},
		{"gives back every byte of bodies and header fields", getPutBytes},
		{"gives back an entry of 8 MiB", getPutLarge},
		{"gives back the newest entry of a key", putAgain},
		{"gives a stale entry until it is of no use", staleUntil},
		{"does not take an entry of no use in place of one", putUseless},
		{"deletes one entry", deleteOne},
		{"refuses an entry larger than itself and keeps the others", putTooLarge},
		{"does not take a cancelled context for a missing entry", cancelledCache},
		{"sweeps out what is gone", sweep},
		{"serves many readers and writers at once", concurrentCache},
		{"never mixes entries that are put, deleted and got at once", concurrentDeletes},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
	t.Run("never gives an expired, deleted or another entry", func(t *testing.T) { cacheModel(t, open) })
}

func cacheKey(s string) cache.Key {
	k := cache.NewKeyHash()
	k.Add(s)
	return k.Sum()
}

// entry is a plain one that is fresh for ttl and of use as long.
func entry(body string, made time.Time, ttl time.Duration) *cache.Entry {
	return &cache.Entry{
		Status:  200,
		Header:  http.Header{"Content-Type": {"text/plain"}, "X-Many": {"a", "b"}},
		Body:    []byte(body),
		ETag:    `"` + strconv.Itoa(len(body)) + `"`,
		Made:    made,
		Expires: made.Add(ttl),
		Until:   made.Add(ttl),
		Took:    20 * time.Millisecond,
	}
}

// streamEntry has something in every field.
func streamEntry(now time.Time) *cache.Entry {
	return &cache.Entry{
		Meta:    cache.Meta{Owner: "key:älice\x00", Labels: []string{"tag:llama", "path:/v1/chat/completions", ""}, Epoch: 1<<63 + 7},
		Status:  299,
		Header:  http.Header{"Content-Type": {"text/event-stream"}, "X-Empty": {""}, "x-as-it-came": {"1", "", "3"}},
		Body:    []byte("data: a\n\ndata: [DONE]\n\n"),
		ETag:    `"stream"`,
		Made:    now.Add(-3*time.Second + 1234567*time.Nanosecond),
		Expires: now.Add(time.Minute + 987654*time.Microsecond),
		Until:   now.Add(time.Hour + time.Microsecond),
		Took:    1234567891 * time.Nanosecond,
		Frames:  []cache.Frame{{End: 9, At: 0}, {End: 9, At: time.Millisecond}, {End: 23, At: 2*time.Second + 1}},
	}
}

func getEntry(t rapid.TB, s cache.Store, key string, now time.Time) *cache.Entry {
	t.Helper()
	e, err := s.Get(context.Background(), cacheKey(key), now)
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	return e
}

func putEntry(t rapid.TB, s cache.Store, key string, e *cache.Entry, now time.Time) {
	t.Helper()
	if err := s.Put(context.Background(), cacheKey(key), e, now); err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

// wantEntry fails unless got is want, but for what stores may lose of a time, and
// for whether what is empty is nil.
func wantEntry(t rapid.TB, what string, got, want *cache.Entry) {
	t.Helper()
	if got == nil || want == nil {
		if got != want {
			t.Errorf("%s: got %+v, want %+v", what, got, want)
		}
		return
	}
	if g, w := plain(got), plain(want); !reflect.DeepEqual(g, w) {
		t.Errorf("%s\n got %.2000s\nwant %.2000s", what, fmt.Sprintf("%+v", g), fmt.Sprintf("%+v", w))
	}
}

// plain is e as far as a store must keep it.
func plain(e *cache.Entry) cache.Entry {
	p := *e
	for _, at := range []*time.Time{&p.Made, &p.Expires, &p.Until} {
		*at = at.UTC().Truncate(time.Microsecond)
	}
	p.Header = http.Header{}
	for name, values := range e.Header {
		p.Header[name] = append([]string{}, values...)
	}
	p.Body = append([]byte{}, e.Body...)
	p.Labels = append([]string{}, e.Labels...)
	p.Vary = append([]string{}, e.Vary...)
	p.Frames = append([]cache.Frame{}, e.Frames...)
	return p
}

func getPut(t *testing.T, s cache.Store) {
	now := time.Now()
	wantEntry(t, "in an empty store", getEntry(t, s, "plain", now), nil)
	vary := &cache.Entry{
		Body: []byte("a part of keys"), Vary: []string{"Accept", "Accept-Language"},
		Made: now, Expires: now.Add(time.Minute), Until: now.Add(time.Minute),
	}
	entries := map[string]*cache.Entry{
		"plain": entry("an answer", now, time.Minute), "empty": entry("", now, time.Minute), "stream": streamEntry(now), "vary": vary,
	}
	for key, e := range entries {
		putEntry(t, s, key, e, now)
	}
	entries["another"] = nil
	for key, want := range entries {
		wantEntry(t, key, getEntry(t, s, key, now), want)
	}
}

func getPutBytes(t *testing.T, s cache.Store) {
	now := time.Now()
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	binary := entry(strings.Repeat(string(every), 40), now, time.Minute)
	binary.Header = http.Header{"X-Every": {string(every)}, string(every): {"name"}, "X-None": {}, "": {""}}
	many := entry("many", now, time.Minute)
	for i := range 300 {
		name := "X-Field-" + strconv.Itoa(i)
		for j := range i % 20 {
			many.Header[name] = append(many.Header[name], strings.Repeat("v", j))
		}
		many.Header["X-Many"] = append(many.Header["X-Many"], strconv.Itoa(i))
		many.Labels = append(many.Labels, "tag:"+strconv.Itoa(i))
	}
	events := entry(strings.Repeat("e", 5000), now, time.Minute)
	for i := range 5000 {
		events.Frames = append(events.Frames, cache.Frame{End: i + 1, At: time.Duration(i) * time.Millisecond})
	}
	for key, e := range map[string]*cache.Entry{"binary": binary, "many": many, "events": events} {
		putEntry(t, s, key, e, now)
		wantEntry(t, key, getEntry(t, s, key, now), e)
	}
}

func getPutLarge(t *testing.T, s cache.Store) {
	now := time.Now()
	large := entry("", now, time.Minute)
	large.Body = bytes.Repeat([]byte("0123456789abcde\n"), 8<<20/16)
	putEntry(t, s, "large", large, now)
	got := getEntry(t, s, "large", now)
	if got == nil || !bytes.Equal(got.Body, large.Body) {
		t.Errorf("an entry of %d bytes did not come back", len(large.Body))
	}
}

func putAgain(t *testing.T, s cache.Store) {
	now := time.Now()
	for _, body := range []string{"first", "second", strings.Repeat("third and longest ", 1000), "4"} {
		e := entry(body, now, time.Minute)
		putEntry(t, s, "a", e, now)
		wantEntry(t, "the newest", getEntry(t, s, "a", now), e)
	}
}

func staleUntil(t *testing.T, s cache.Store) {
	now := time.Now().Truncate(time.Second)
	e := entry("a", now, time.Minute)
	e.Until = now.Add(3 * time.Minute)
	putEntry(t, s, "a", e, now)
	for _, after := range []time.Duration{time.Minute - time.Millisecond, time.Minute, 3*time.Minute - time.Millisecond} {
		wantEntry(t, fmt.Sprintf("after %v", after), getEntry(t, s, "a", now.Add(after)), e)
	}
	for _, after := range []time.Duration{3 * time.Minute, time.Hour} {
		wantEntry(t, fmt.Sprintf("after %v", after), getEntry(t, s, "a", now.Add(after)), nil)
	}
}

// Whether a store refuses what is of no use or takes it and forgets it, what the
// key had before is not given for the newest.
func putUseless(t *testing.T, s cache.Store) {
	now := time.Now()
	if err := s.Put(context.Background(), cacheKey("a"), entry("useless", now.Add(-time.Hour), time.Minute), now); err == nil {
		wantEntry(t, "after a useless one", getEntry(t, s, "a", now), nil)
	}
	e := entry("a", now, time.Minute)
	putEntry(t, s, "a", e, now)
	wantEntry(t, "after a useful one", getEntry(t, s, "a", now), e)
}

func deleteOne(t *testing.T, s cache.Store) {
	ctx, now := context.Background(), time.Now()
	a, b := entry("a", now, time.Minute), entry("b", now, time.Minute)
	putEntry(t, s, "a", a, now)
	putEntry(t, s, "b", b, now)
	for _, key := range []string{"a", "a", "never put"} {
		if err := s.Delete(ctx, cacheKey(key)); err != nil {
			t.Errorf("delete %s: %v", key, err)
		}
	}
	wantEntry(t, "the deleted", getEntry(t, s, "a", now), nil)
	wantEntry(t, "the other", getEntry(t, s, "b", now), b)
	putEntry(t, s, "a", a, now)
	wantEntry(t, "put again", getEntry(t, s, "a", now), a)
}

// A store in another process may bound its bytes there, and cannot know.
func putTooLarge(t *testing.T, s cache.Store) {
	now := time.Now()
	kept := map[string]*cache.Entry{}
	for i := range 20 {
		key := strconv.Itoa(i)
		kept[key] = entry(strings.Repeat(key, 1000), now, time.Minute)
		putEntry(t, s, key, kept[key], now)
	}
	if _, bounded := s.(interface{ Stats() cache.Stats }); bounded {
		huge := entry("", now, time.Minute)
		huge.Body = make([]byte, 64<<20)
		for _, key := range []string{"huge", "7"} {
			if err := s.Put(context.Background(), cacheKey(key), huge, now); err == nil {
				t.Errorf("%s: took an entry larger than itself", key)
			}
		}
		wantEntry(t, "the refused", getEntry(t, s, "huge", now), nil)
	}
	for key, want := range kept {
		wantEntry(t, key, getEntry(t, s, key, now), want)
	}
}

func cancelledCache(t *testing.T, s cache.Store) {
	now := time.Now()
	a := entry("a", now, time.Minute)
	putEntry(t, s, "a", a, now)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if got, err := s.Get(ctx, cacheKey("a"), now); err == nil {
		wantEntry(t, "with a cancelled context", got, a)
	}
	b := entry("b", now, time.Minute)
	if err := s.Put(ctx, cacheKey("b"), b, now); err == nil {
		wantEntry(t, "put with a cancelled context", getEntry(t, s, "b", now), b)
	}
	if err := s.Delete(ctx, cacheKey("a")); err == nil {
		wantEntry(t, "deleted with a cancelled context", getEntry(t, s, "a", now), nil)
	}
	c := entry("c", now, time.Minute)
	putEntry(t, s, "c", c, now)
	wantEntry(t, "afterwards", getEntry(t, s, "c", now), c)
}

func sweep(t *testing.T, s cache.Store) {
	sweeper, ok := s.(cache.Sweeper)
	if !ok {
		return // such a store forgets in its own time
	}
	now := time.Now()
	metas := map[string]cache.Meta{}
	for i := range 50 {
		key := strconv.Itoa(i)
		e := entry(key, now, time.Minute)
		e.Meta = cache.Meta{Owner: "key:" + strconv.Itoa(i%5), Labels: []string{"tag:" + strconv.Itoa(i%3), "key:" + key}, Epoch: uint64(i)}
		metas["key:"+key] = e.Meta
		putEntry(t, s, key, e, now)
	}
	gone := func(m *cache.Meta) bool {
		if want := metas[m.Labels[1]]; !reflect.DeepEqual(*m, want) {
			t.Errorf("asked for %+v, want %+v", *m, want)
		}
		return m.Owner == "key:1" && m.Epoch < 40
	}
	const swept = 8 // 1, 6, ... 36
	if n, err := sweeper.Sweep(context.Background(), gone); n < swept || err != nil {
		t.Errorf("swept %d entries of %d: %v", n, swept, err)
	}
	for i := range 50 {
		if got := getEntry(t, s, strconv.Itoa(i), now); (got == nil) != (i%5 == 1 && i < 40) {
			t.Errorf("entry %d: %+v", i, got)
		}
	}
	if n, err := sweeper.Sweep(context.Background(), gone); n != 0 || err != nil {
		t.Errorf("swept %d entries again: %v", n, err)
	}
}
