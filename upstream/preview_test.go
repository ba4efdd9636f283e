package upstream_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"
	"time"

	"github.com/inferweir/weir/upstream"
)

func TestPreviewIsWhatChooseTakes(t *testing.T) {
	for _, balance := range balances() {
		t.Run(balance, func(t *testing.T) {
			random := rand.New(rand.NewPCG(3, 4))
			p := poolOf(t, balance, 1, 2, 3, 1)
			told := 0
			for i := range 2000 {
				targets := random.Perm(4)[:1+random.IntN(4)]
				load := make([]float64, 4)
				for j := range load {
					load[j] = float64(random.IntN(4))
				}
				prefix := upstream.PrefixOf("", fmt.Appendf(nil, "%2000d", i%40))
				first, second := p.Preview(targets, load, prefix), p.Preview(targets, load, prefix)
				got := p.Choose(targets, load, prefix)
				if first != second || first >= 0 && first != got {
					t.Fatalf("of %v with loads %v: previews %d and %d, then it took %d", targets, load, first, second, got)
				}
				if first >= 0 {
					told++
				}
			}
			if told == 0 || balance != "two_choices" && balance != "prefix" && told != 2000 {
				t.Errorf("%d of 2000 were told before", told)
			}
			if got := p.Preview([]int{9, -1}, nil, nil); got != -1 {
				t.Errorf("of no target of its own it says %d, want -1", got)
			}
		})
	}
}

func TestPoolTellsWhatGoesOut(t *testing.T) {
	p, err := upstream.New(upstream.Options{
		Name: "llm", Targets: []upstream.Target{{URL: "http://10.0.0.1:8000/base"}},
		SetHeaders: map[string]string{"authorization": "Bearer secret", "X-Drop": ""},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	in := httptest.NewRequest(http.MethodGet, "http://weir/a", nil)
	in.RemoteAddr = "192.0.2.1:99"
	in.Header = http.Header{"Accept": {"*/*"}, "X-Drop": {"1"}, "Connection": {"X-Hop"}, "X-Hop": {"1"}, "Authorization": {"Bearer own"}}
	want := http.Header{
		"Accept": {"*/*"}, "Authorization": {"Bearer secret"}, "User-Agent": nil,
		"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Host": {"weir"}, "X-Forwarded-Proto": {"http"},
	}
	if got := p.Outgoing(in, 0); !reflect.DeepEqual(got, want) {
		t.Errorf("goes out with %v, want %v", got, want)
	}
	if in.Header.Get("Authorization") != "Bearer own" {
		t.Error("the request itself was changed")
	}
	if p.Outgoing(in, 1) != nil || p.URL(1) != "" || p.URL(0) != "http://10.0.0.1:8000/base" || !p.OpensAtOf(1, time.Now()).IsZero() {
		t.Errorf("targets are %q and %q", p.URL(0), p.URL(1))
	}
}

func TestRepeatable(t *testing.T) {
	for method, want := range map[string][2]bool{
		http.MethodGet: {true, true}, http.MethodPut: {true, true}, "QUERY": {true, true},
		http.MethodPost: {false, true}, http.MethodPatch: {false, true}, http.MethodConnect: {false, false},
	} {
		if got := [2]bool{upstream.Repeatable(method, false), upstream.Repeatable(method, true)}; got != want {
			t.Errorf("%s: %v, want %v", method, got, want)
		}
	}
}
