package telemetry_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/inferweir/weir/telemetry"
)

func TestRequestHash(t *testing.T) {
	of := func(method, url, body string, header ...string) uint64 {
		r := httptest.NewRequest(method, url, nil)
		for i := 0; i < len(header); i += 2 {
			r.Header.Add(header[i], header[i+1])
		}
		return telemetry.RequestHash(r, []byte(body), func(field string) bool { return !strings.HasPrefix(field, "Sec-") })
	}
	const url = "http://a.example/x?q=1"
	want := of("POST", url, "body", "Accept", "a", "X-B", "b")
	for name, got := range map[string]uint64{
		"another order":          of("POST", url, "body", "X-B", "b", "Accept", "a"),
		"a field that is unread": of("POST", url, "body", "X-B", "b", "Accept", "a", "Sec-Fetch-Mode", "cors"),
	} {
		if got != want {
			t.Errorf("%s: %x, want %x", name, got, want)
		}
	}
	seen := map[uint64]string{want: "the request"}
	for name, got := range map[string]uint64{
		"the method":         of("GET", url, "body", "Accept", "a", "X-B", "b"),
		"the host":           of("POST", "http://b.example/x?q=1", "body", "Accept", "a", "X-B", "b"),
		"the path":           of("POST", "http://a.example/y?q=1", "body", "Accept", "a", "X-B", "b"),
		"the query":          of("POST", "http://a.example/x?q=2", "body", "Accept", "a", "X-B", "b"),
		"the body":           of("POST", url, "bodies", "Accept", "a", "X-B", "b"),
		"a field":            of("POST", url, "body", "Accept", "c", "X-B", "b"),
		"values changed":     of("POST", url, "body", "Accept", "b", "X-B", "a"),
		"a field less":       of("POST", url, "body", "Accept", "a"),
		"no field":           of("POST", url, "body"),
		"a value more":       of("POST", url, "body", "Accept", "a", "Accept", "a", "X-B", "b"),
		"one value for both": of("POST", url, "body", "Accept", "a", "Accept", "", "X-B", "b"),
	} {
		if other, same := seen[got]; same {
			t.Errorf("%s: as %s", name, other)
		}
		seen[got] = name
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	if n := testing.AllocsPerRun(100, func() { telemetry.RequestHash(r, nil, func(string) bool { return true }) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}
