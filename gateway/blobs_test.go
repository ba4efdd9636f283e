package gateway_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// upload is the answer to POST /blobs.
type upload struct {
	Key    string
	Upload struct {
		Method, URL string
		Headers     map[string]string
		Expires     time.Time
	}
	URL       string
	KeptUntil time.Time `json:"kept_until"`
}

func (w *instance) mayUpload(user int, kind string, n int) (u upload) {
	w.t.Helper()
	a := w.as(user, "POST", "/blobs", `{"content_type":"`+kind+`","bytes":`+strconv.Itoa(n)+`,"name":"talk.wav"}`)
	if err := json.Unmarshal([]byte(a.body), &u); err != nil || u.Key == "" || u.Upload.Method != "PUT" {
		w.t.Fatalf("%d %s: %v", a.status, a.body, err)
	}
	return u
}

func (w *instance) puts(u upload, where, body string, header ...string) answer {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), u.Upload.Method, w.url+where, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	for name, value := range u.Upload.Headers {
		r.Header.Set(name, value)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := w.client.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(b), err}
}

func TestAnInputThatIsSentAhead(t *testing.T) {
	yaml := strings.Replace(durable, "callers: {", "callers: {require: true, ", 1)
	var fetched answer
	w := keep(t, yaml, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	u := w.mayUpload(1, "audio/wav", 1000)
	sound := pattern(1000)
	where := path(t, u.Upload.URL)
	if a := w.puts(u, where, sound+"x"); a.status != 413 {
		t.Errorf("too long: %d %s", a.status, a.body)
	}
	if a := w.puts(u, where, sound, "Content-Type", "text/html"); a.status != 415 {
		t.Errorf("another type: %d %s", a.status, a.body)
	}
	if a := w.send("GET", path(t, u.URL), ""); a.status != 404 {
		t.Errorf("before it is there: %d %s", a.status, a.body)
	}
	if a := w.puts(u, where, sound); a.status != 201 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if a := w.puts(u, where, sound); a.status != 409 {
		t.Errorf("once more: %d %s", a.status, a.body)
	}
	if fetched = w.send("GET", path(t, u.URL), ""); fetched.status != 200 || fetched.body != sound || fetched.header.Get("Content-Type") != "audio/wav" || !strings.Contains(fetched.header.Get("Content-Disposition"), "talk.wav") {
		t.Errorf("without a key, with the link: %d %v", fetched.status, fetched.header)
	}
	fresh := w.as(1, "GET", "/blobs/"+u.Key, "")
	if fresh.status != 303 || w.send("GET", fresh.header.Get("Location"), "").body != sound {
		t.Errorf("a fresh link: %d %v", fresh.status, fresh.header)
	}
	if a := w.as(1, "GET", "/blobs/"+u.Key, "", "Accept", "application/json"); w.send("GET", path(t, a.link(t).URL), "").body != sound {
		t.Errorf("a fresh link as JSON: %d %s", a.status, a.body)
	}
	theirs, none := w.as(2, "GET", "/blobs/"+u.Key, ""), w.as(2, "GET", "/blobs/"+u.Key[:len(u.Key)-1]+"a", "")
	if theirs.status != 404 || theirs.body != none.body || none.status != 404 {
		t.Errorf("another's: %d %s; one that is not there: %d %s", theirs.status, theirs.body, none.status, none.body)
	}
	for name, of := range map[string][2]string{
		"a fresh link":           {"GET", "/blobs/" + u.Key},
		"an upload":              {"POST", "/blobs"},
		"a job":                  {"GET", "/jobs/01a20402-cb79-7e94-b728-572df0fd7a36"},
		"a request for the rest": {"GET", "/x"},
	} {
		if a := w.send(of[0], of[1], ""); a.status != 401 {
			t.Errorf("%s without a key: %d %s", name, a.status, a.body)
		}
	}
	if a := w.send("GET", path(t, u.URL), "", "X-Api-Key", "weir_wrong"); a.status != 401 {
		t.Errorf("the link with a key that is not valid: %d", a.status)
	}
}

func TestALinkThatWasChanged(t *testing.T) {
	w := keep(t, durable, http.HandlerFunc(modelServer))
	u, other := w.mayUpload(1, "audio/wav", 10), w.mayUpload(1, "audio/wav", 10)
	for _, u := range []upload{u, other} {
		if a := w.puts(u, path(t, u.Upload.URL), "0123456789"); a.status != 201 {
			t.Fatalf("%d %s", a.status, a.body)
		}
	}
	good := path(t, u.URL)
	at, query, _ := strings.Cut(good, "?")
	changed := func(name, value string) string {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		q.Set(name, value)
		return at + "?" + q.Encode()
	}
	expired := strconv.FormatInt(time.Now().Add(-time.Hour).Unix(), 10)
	q, _ := url.ParseQuery(query)
	signature := q.Get("signature")
	texts := map[string]bool{}
	for name, to := range map[string]string{
		"another expiry":             changed("expires", strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10)),
		"one that has passed":        changed("expires", expired),
		"no expiry":                  changed("expires", ""),
		"another signature":          changed("signature", signature[:len(signature)-2]+"xy"),
		"none":                       changed("signature", ""),
		"a parameter more":           changed("x", "1"),
		"a type":                     changed("type", "text/html"),
		"another key":                path(t, other.URL)[:strings.Index(path(t, other.URL), "?")] + "?" + query,
		"the upload's":               path(t, u.Upload.URL),
		"a parameter twice":          good + "&" + query,
		"dots":                       "/blobs/../" + at[1:] + "?" + query,
		"dots in the key":            "/blobs/x/../" + u.Key + "?" + query,
		"encoded dots":               "/blobs/%2e%2e/" + u.Key + "?" + query,
		"an encoded slash":           "/blobs/" + strings.Replace(u.Key, "/", "%2f", 1) + "?" + query,
		"a zero byte":                at + "%00?" + query,
		"two slashes":                "/blobs//" + u.Key + "?" + query,
		"a backslash":                "/blobs/%5c" + u.Key + "?" + query,
		"capitals":                   "/blobs/" + strings.ToUpper(u.Key) + "?" + query,
		"a file of the system":       "/blobs/../../../../etc/passwd?" + query,
		"a file that is encoded":     "/blobs/..%2f..%2f..%2fetc%2fpasswd?" + query,
		"the folder of open uploads": "/blobs/uploads/?" + query,
	} {
		a := w.send("GET", to, "")
		if a.status != 403 && !(strings.HasPrefix(to, "/blobs/../blobs") && a.status == 404) {
			t.Errorf("%s: %s: %d %s, want 403", name, to, a.status, a.body)
		}
		texts[a.detail()] = true
	}
	if len(texts) != 1 {
		t.Errorf("there are several texts: %v", texts)
	}
	if a := w.puts(u, good, "0123456789"); a.status != 403 {
		t.Errorf("PUT with a link to GET: %d", a.status)
	}
	if a := w.send("DELETE", good, ""); a.status != 405 && a.status != 403 {
		t.Errorf("DELETE: %d", a.status)
	}
	if a := w.send("GET", good, ""); a.status != 200 || a.body != "0123456789" {
		t.Errorf("the link itself: %d %s", a.status, a.body)
	}
}

// hook is what a webhook's receiver got.
type hook struct {
	header http.Header
	body   string
}

func TestAWebhookTellsOfTheEnd(t *testing.T) {
	t.Parallel()
	const secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
	got := make(chan hook, 10)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- hook{r.Header.Clone(), taken(r)}
	}))
	t.Cleanup(receiver.Close)
	host := strings.TrimPrefix(receiver.URL, "http://")
	w := keep(t, durable+"jobs: {webhooks: {secret: "+secret+`, allow: ["`+host+`"]}}`+"\n", http.HandlerFunc(modelServer))
	j := w.handIn(1, "/v1/chat/completions", chat, "X-Webhook-Url", receiver.URL+"/hook")
	h := after(t, "a webhook", got)
	check, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	if err := check.Verify([]byte(h.body), h.header); err != nil {
		t.Errorf("the signature: %v; %v", err, h.header)
	}
	if err := check.Verify([]byte(h.body+" "), h.header); err == nil {
		t.Error("the signature is good for another body")
	}
	var told struct {
		Type string
		Data seen
	}
	if err := json.Unmarshal([]byte(h.body), &told); err != nil || told.Type != "job.completed" || told.Data.ID != j.ID || told.Data.State != "completed" || strings.Contains(h.body, "choices") {
		t.Errorf("%v: %s", err, h.body)
	}
	for _, to := range []string{
		"http://127.0.0.1:1/", "http://10.0.0.1/", "http://[::1]/", "http://169.254.169.254/latest", "http://2130706433/", "http://0x7f.1/", "http://localhost/",
		"ftp://example.com/", "http://u:p@example.com/", "http://example.com/#f", "http://example.com:22/", "example.com", "http://[::ffff:10.0.0.1]/",
	} {
		a := w.as(1, "POST", "/v1/chat/completions", chat, "Prefer", "respond-async", "X-Webhook-Url", to)
		if a.status != 400 && to != "http://localhost/" { // a name may be told of later
			t.Errorf("%s: %d %s", to, a.status, a.body)
		}
	}
	k := w.handIn(1, "/v1/chat/completions", chat, "X-Webhook-Url", receiver.URL+"/hook", "Idempotency-Key", "k")
	if h := after(t, "a second webhook", got); !strings.Contains(h.body, k.ID) {
		t.Errorf("%s", h.body)
	}
	if text := w.admin("GET", "/api/v1/jobs/"+j.ID).body; strings.Contains(text, "/hook") || !strings.Contains(text, "127.0.0.1") {
		t.Errorf("the admin API shows %s", text)
	}
}
