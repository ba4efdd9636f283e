package loadtest_test

import (
	"reflect"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/inferweir/weir/internal/loadtest"
)

// What no request could be made of was not sent, and no answer is wrong.
func TestTemplatesThatFailLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{answer: after(10 * ms)}
		r := virtually(t, t.Context(), loadtest.Options{Body: "{{rand seq 2}}", Concurrency: 1, Requests: 5}, s)
		if want := map[string]int64{"template": 2}; r.Sent != 3 || r.OK != 3 || r.Unsent != 2 || len(s.seen) != 3 || !reflect.DeepEqual(r.Errors, want) {
			t.Errorf("sent %d, ok %d, unsent %d of %d that came, errors %v; want 3, 3, 2 of 3 and %v", r.Sent, r.OK, r.Unsent, len(s.seen), r.Errors, want)
		}
		if got := r.ErrorExamples["template"]; !strings.Contains(got, "error calling rand: 3 2: want a smaller number and a larger one") {
			t.Errorf("the example is %q", got)
		}
		if got := strings.Join(r.Warnings, "\n"); strings.Contains(got, "keep up") || r.ErrorShare() != 0.4 {
			t.Errorf("share of errors %v, warnings %q; want 0.4, and that the server is not blamed", r.ErrorShare(), got)
		}
	})
}

func TestATextThatIsTooLong(t *testing.T) {
	_, err := loadtest.New(loadtest.Options{URL: "http://h.test/", Concurrency: 1, Requests: 1, Body: strings.Repeat("{{words 100000}}", 20)})
	if want := "--body: the text is longer than 10485760 bytes: want a shorter one"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}
