package gateway_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/database"
	"github.com/inferweir/weir/storetest"
)

func TestKeysOfTheDatabase(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	yaml := at(t, strings.ReplaceAll(durable, "DIR", dir)+"plans: {default: {policies: [{name: few, quota: 5, window: 1h}]}, pro: {policies: [{name: many, quota: 500, window: 1h}]}}\n", http.HandlerFunc(modelServer))
	w := launch(t, yaml)
	keys := w.gateway.Database().Keys()
	text, made, err := keys.Create(t.Context(), database.NewKey{Caller: "zoe", Plan: "pro", By: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(w *instance, key string) answer {
		return w.send("POST", "/v1/chat/completions", chat, "X-Api-Key", key)
	}
	if a := ask(w, text); a.status != 200 || left(a, "many") != "499" || left(a, "few") != "" {
		t.Errorf("%d %v %s", a.status, a.header["Ratelimit"], a.body)
	}
	if a := w.send("POST", "/v1/chat/completions", chat, "Authorization", "Bearer "+text); a.status != 200 {
		t.Errorf("as a bearer: %d %s", a.status, a.body)
	}
	if a := w.as(1, "POST", "/v1/chat/completions", chat); a.status != 200 || left(a, "few") != "4" {
		t.Errorf("a key of the configuration: %d %v", a.status, a.header["Ratelimit"])
	}
	wrong := text[:len(text)-1] + "0"
	if strings.HasSuffix(text, "0") {
		wrong = text[:len(text)-1] + "1"
	}
	if a := ask(w, wrong); a.status != 401 || !strings.Contains(a.body, "mistyped") {
		t.Errorf("one that is mistyped: %d %s", a.status, a.body)
	}
	var soon string
	within(t, time.Second, func(int) func() {
		if soon, _, err = keys.Create(t.Context(), database.NewKey{Caller: "soon", Expires: time.Now().Add(time.Second), By: "test"}); err != nil {
			t.Fatal(err)
		}
		a := ask(w, soon)
		return func() {
			if a.status != 200 {
				t.Errorf("one that expires soon: %d", a.status)
			}
		}
	})
	storetest.Eventually(t, eventually, "it has expired", func() bool { return ask(w, soon).status == 401 })
	next, _, err := keys.Rotate(t.Context(), made.ID, time.Hour, "test")
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]string{"the old": text, "the new": next} {
		if a := ask(w, key); a.status != 200 || left(a, "many") == "" {
			t.Errorf("%s one: %d %s", name, a.status, a.body)
		}
	}
	j := w.send("POST", "/v1/chat/completions", chat, "X-Api-Key", text, "Prefer", "respond-async").job(t)
	if a := w.send("GET", "/jobs/"+j.ID, "", "X-Api-Key", next); a.status != 200 {
		t.Errorf("the caller's job by another key: %d %s", a.status, a.body)
	}
	if _, err := keys.Revoke(t.Context(), made.ID, "test"); err != nil {
		t.Fatal(err)
	}
	if a := ask(w, text); a.status != 401 || a.header.Get("Retry-After") != "" {
		t.Errorf("a revoked one: %d %s", a.status, a.body)
	}
	w.stop()
	again := launch(t, yaml)
	if a := ask(again, text); a.status != 401 {
		t.Errorf("a revoked one after a start: %d", a.status)
	}
	if a := ask(again, next); a.status != 200 {
		t.Errorf("a good one after a start: %d", a.status)
	}
	list, err := again.gateway.Database().Keys().List(t.Context(), "zoe")
	if err != nil || len(list) != 2 {
		t.Errorf("%d keys of zoe, %v", len(list), err)
	}
	again.stop()
	stored := everyFile(t, dir) + w.log.String() + again.log.String()
	for _, key := range []string{text, next, soon} {
		if strings.Contains(stored, key) || strings.Contains(stored, strings.Split(key, "_")[2]) {
			t.Errorf("a key is stored or logged")
		}
	}
}
