package gateway

import (
	"net/http"
	"reflect"
	"testing"
)

func TestTheCookieOfTheDashboardGoesToNoUpstream(t *testing.T) {
	for _, c := range []struct{ in, want []string }{
		{nil, nil},
		{[]string{"a=1; b=2"}, []string{"a=1; b=2"}},
		{[]string{"weir_session=abc"}, nil},
		{[]string{"a=1; weir_session=abc;b=2"}, []string{"a=1; b=2"}},
		{[]string{"weir_session = abc", "weir_session=d; weir_session=e", "c=weir_session"}, []string{"c=weir_session"}},
		{[]string{"weir_sessions=1; x_weir_session=2"}, []string{"weir_sessions=1; x_weir_session=2"}},
	} {
		h := http.Header{}
		if c.in != nil {
			h["Cookie"] = append([]string(nil), c.in...)
		}
		forgetSession(h)
		if !reflect.DeepEqual(h["Cookie"], c.want) {
			t.Errorf("%q: got %q, want %q", c.in, h["Cookie"], c.want)
		}
	}
}
