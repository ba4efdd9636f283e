package admin_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/inferweir/weir/auth"
	"github.com/inferweir/weir/database"
	"github.com/inferweir/weir/internal/admin"
)

// keyAdmin is the keys' part of the admin API on a database of its own.
type keyAdmin struct {
	t       *testing.T
	db      *database.DB
	handler http.Handler
	log     strings.Builder
	secrets []string // that nothing but the answers to POST may show
}

func openKeys(t *testing.T, plans ...string) *keyAdmin {
	t.Helper()
	db, err := database.Open(t.Context(), database.Options{URL: "sqlite:" + filepath.Join(t.TempDir(), "weir.db")})
	if err != nil {
		t.Fatal(err)
	}
	a := &keyAdmin{t: t, db: db}
	a.handler = admin.Keys(admin.KeysOptions{
		Keys: db.Keys(), Plans: func() []string { return plans },
		By:  func(*http.Request) string { return "ops" },
		Log: slog.New(slog.NewTextHandler(&a.log, nil)),
	})
	t.Cleanup(func() {
		for _, secret := range a.secrets {
			if strings.Contains(a.log.String(), secret) {
				t.Errorf("the log has a key: %s", &a.log)
			}
		}
		if err := db.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return a
}

func (a *keyAdmin) ask(method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	rec := httptest.NewRecorder()
	a.handler.ServeHTTP(rec, r)
	equal(a.t, rec.Header().Get("Cache-Control"), "no-store")
	return rec
}

// do expects an answer with a status, and returns its body and what of it is not
// known beforehand, by member.
func (a *keyAdmin) do(status int, method, path, body string) (string, map[string]string) {
	a.t.Helper()
	rec := a.ask(method, path, body)
	if rec.Code != status {
		a.t.Fatalf("%s %s %s: %d %s, want %d", method, path, body, rec.Code, rec.Body, status)
	}
	var members map[string]any
	if err := json.Unmarshal(rec.Body.Bytes(), &members); err != nil {
		a.t.Fatal(err)
	}
	texts := map[string]string{}
	for name, v := range members {
		texts[name], _ = v.(string)
	}
	if key := texts["key"]; key != "" {
		a.secrets = append(a.secrets, key[16:59])
	} else {
		for _, secret := range a.secrets {
			if strings.Contains(rec.Body.String(), secret) {
				a.t.Errorf("%s %s shows a key: %s", method, path, rec.Body)
			}
		}
	}
	return moment.ReplaceAllString(rec.Body.String(), "TIME"), texts
}

var moment = regexp.MustCompile(`20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ`)

func TestKeys(t *testing.T) {
	t.Run("makes a key, which is shown once and works", func(t *testing.T) {
		a := openKeys(t, "default", "pro")
		got, made := a.do(201, "POST", "/api/v1/keys", `{"caller": "alice", "plan": "pro", "expires": "90d"}`)
		equal(t, got, `{"key":"`+made["key"]+`","id":"`+made["id"]+`","caller":"alice","plan":"pro","state":"live","created":"TIME","created_by":"ops","expires":"TIME"}`+"\n")
		if id, ok := auth.CheckKey(made["key"]); !ok || id != made["id"] {
			t.Errorf("CheckKey: %q, %t", id, ok)
		}
		got, _ = a.do(200, "GET", "/api/v1/keys", "")
		equal(t, got, `{"keys":[{"id":"`+made["id"]+`","caller":"alice","plan":"pro","state":"live","created":"TIME","created_by":"ops","expires":"TIME"}]}`+"\n")
	})
	t.Run("lists those of one caller, and an empty list as one", func(t *testing.T) {
		a := openKeys(t)
		got, _ := a.do(200, "GET", "/api/v1/keys", "")
		equal(t, got, `{"keys":[]}`+"\n")
		_, _ = a.do(201, "POST", "/api/v1/keys", `{"caller": "a b:c"}`)
		_, other := a.do(201, "POST", "/api/v1/keys", `{"caller": "bob", "expires": "never"}`)
		got, _ = a.do(200, "GET", "/api/v1/keys?caller=bob", "")
		equal(t, got, `{"keys":[{"id":"`+other["id"]+`","caller":"bob","plan":"default","state":"live","created":"TIME","created_by":"ops"}]}`+"\n")
		got, _ = a.do(200, "GET", "/api/v1/keys?caller=a+b:c", "")
		equal(t, strings.Count(got, `"id"`), 1)
	})
	t.Run("revokes once", func(t *testing.T) {
		a := openKeys(t)
		_, made := a.do(201, "POST", "/api/v1/keys", `{"caller": "alice"}`)
		got, _ := a.do(200, "DELETE", "/api/v1/keys/"+made["id"], "")
		equal(t, got, `{"id":"`+made["id"]+`","caller":"alice","plan":"default","state":"revoked","created":"TIME","created_by":"ops","revoked":"TIME","revoked_by":"ops"}`+"\n")
		_, refused := a.do(409, "DELETE", "/api/v1/keys/"+made["id"], "")
		equal(t, refused["detail"], "The key is revoked already.")
		_, refused = a.do(409, "POST", "/api/v1/keys/"+made["id"]+"/rotate", `{}`)
		equal(t, refused["detail"], "The key is revoked already.")
	})
	t.Run("replaces a key once", func(t *testing.T) {
		a := openKeys(t)
		_, made := a.do(201, "POST", "/api/v1/keys", `{"caller": "alice", "plan": ""}`)
		got, next := a.do(201, "POST", "/api/v1/keys/"+made["id"]+"/rotate", `{"grace": "1d12h"}`)
		equal(t, got, `{"key":"`+next["key"]+`","id":"`+next["id"]+`","caller":"alice","plan":"default","state":"live","created":"TIME","created_by":"ops","replaces":"`+made["id"]+`"}`+"\n")
		_, refused := a.do(409, "POST", "/api/v1/keys/"+made["id"]+"/rotate", `{}`)
		equal(t, refused["detail"], "The key is replaced already: replaced_by in the list says by which, and that can be replaced.")
		list, err := a.db.Keys().List(t.Context(), "")
		if err != nil || len(list) != 2 {
			t.Fatal(list, err)
		}
		for _, k := range list {
			if k.ID == made["id"] {
				equal(t, k.Expires.Sub(list[0].Created).Hours(), 36.0)
				equal(t, k.State(k.Created), "replaced")
			}
		}
	})
	t.Run("logs who did what", func(t *testing.T) {
		a := openKeys(t, "pro")
		_, made := a.do(201, "POST", "/api/v1/keys", `{"caller": "alice", "plan": "pro"}`)
		_, next := a.do(201, "POST", "/api/v1/keys/"+made["id"]+"/rotate", `{"grace": "0s"}`)
		_, _ = a.do(200, "DELETE", "/api/v1/keys/"+next["id"], "")
		for i, want := range []string{
			`msg="key created" key=` + made["id"] + ` caller=alice plan=pro expires=never by=ops`,
			`msg="key replaced" key=` + made["id"] + ` by_key=` + next["id"] + ` caller=alice plan=pro grace=0s by=ops`,
			`msg="key revoked" key=` + next["id"] + ` caller=alice by=ops`,
		} {
			if line := strings.Split(a.log.String(), "\n")[i]; !strings.HasSuffix(line, want) {
				t.Errorf("logged %q, want %q", line, want)
			}
		}
	})
}

func TestKeyMistakes(t *testing.T) {
	a := openKeys(t, "default", "pro")
	_, made := a.do(201, "POST", "/api/v1/keys", `{"caller": "alice"}`)
	secret := made["key"]
	f := func(method, path, body string, status int, want string) {
		t.Helper()
		if _, refused := a.do(status, method, path, body); refused["detail"] != want {
			t.Errorf("%s %s %s:\ngot  %s\nwant %s", method, path, body, refused["detail"], want)
		}
	}
	create := func(body, want string) {
		t.Helper()
		f("POST", "/api/v1/keys", body, 400, "Nothing is changed: "+want)
	}
	create(`[]`, `want a JSON object, for example {"caller": "alice", "plan": "pro", "expires": "90d"}`)
	create(`{}`, `caller: is empty: want 1 to 256 bytes of printable UTF-8`)
	create(`{"caller": 7}`, `caller: is no text: want one, for example {"caller": "alice", "plan": "pro", "expires": "90d"}`)
	create(`{"caller": "a", "paln": "pro"}`, `paln: is no member here: want caller, plan, expires, for example {"caller": "alice", "plan": "pro", "expires": "90d"}`)
	create(`{"caller": "key:a"}`, `caller: "key:a": begins with key: as the ID of a caller does: want the name alone, for example "a"`)
	create(`{"caller": "a\u0007"}`, `caller: "a\a": holds a character that is not printable: want 1 to 256 bytes of printable UTF-8`)
	create(`{"caller": "a", "plan": "gold"}`, `plan: "gold": is no plan of the configuration: want default, pro`)
	create(`{"caller": "a", "expires": "soon"}`, `expires: "soon": want a time to live, for example 90d, a date, for example 2030-12-31, or never`)
	create(`{"caller": "a", "expires": "-1h"}`, `expires: "-1h": want a time to live, for example 90d, a date, for example 2030-12-31, or never`)
	for _, past := range []string{"0s", "0d", "2020-02-29", "2020-01-01T00:00:00+02:00"} {
		create(`{"caller": "a", "expires": "`+past+`"}`, `expires: "`+past+`": is in the past: want a time to come, for example 90d`)
	}
	create(`{"caller": "", "plan": "gold"}`, `caller: is empty: want 1 to 256 bytes of printable UTF-8; and 1 more`)
	create(`{"caller": "`+secret+`"}`, `caller: "(redacted)": is a key: want the name of who is to bear it`)
	create(`{"caller": "a", "plan": "`+secret+`"}`, `plan: "(redacted)": is no plan of the configuration: want default, pro`)

	rotate := "/api/v1/keys/" + made["id"] + "/rotate"
	for _, grace := range []string{"", "1", "-1h", "soon", "1h2d", "99999999999d", "d"} {
		f("POST", rotate, `{"grace": "`+grace+`"}`, 400, "Nothing is changed: grace: "+strings.TrimPrefix(`"`+grace+`": `, `"": `)+"want a duration, for example 24h, or 0s for none")
	}
	f("POST", rotate, `{"grace": "366d"}`, 400, `Nothing is changed: grace: "8784h0m0s": want 0s to 365d`)

	const unknown = "There is no key with this ID: want the 10 letters and digits after weir_, as the list has them."
	for _, id := range []string{"0000000000", secret, "x", strings.Repeat("é", 5)} {
		f("DELETE", "/api/v1/keys/"+id, "", 404, unknown)
		f("POST", "/api/v1/keys/"+id+"/rotate", "{}", 404, unknown)
	}
	f("GET", "/api/v1/keys/"+made["id"], "", 405, `"GET" is not a method of this path: want DELETE.`)
	f("PATCH", "/api/v1/keys", "{}", 405, `"PATCH" is not a method of this path: want GET, HEAD, POST.`)
	f("GET", "/api/v1/keys/"+made["id"]+"/x", "", 404, "This is the admin listener: want /api/v1/keys, /api/v1/keys/ID or /api/v1/keys/ID/rotate.")

	list, err := a.db.Keys().List(t.Context(), "")
	if err != nil || len(list) != 1 || list[0].ReplacedBy != "" {
		t.Errorf("after nothing but mistakes: %+v, %v", list, err)
	}
	t.Run("a database that is closed is 503", func(t *testing.T) {
		if err := a.db.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		rec := a.ask("POST", "/api/v1/keys", `{"caller": "a"}`)
		equal(t, [2]any{rec.Code, rec.Header().Get("Retry-After")}, [2]any{503, "1"})
	})
}

func TestKeysOfADatabaseThatIsAway(t *testing.T) {
	a := openKeys(t, "default")
	if err := a.db.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for method, want := range map[string]string{
		"GET":  "The database does not answer now: try again.",
		"POST": "The database does not answer now, so nothing is changed: try again.",
	} {
		got := a.ask(method, "/api/v1/keys", `{"caller": "alice"}`)
		var said struct {
			Detail string `json:"detail"`
		}
		err := json.Unmarshal(got.Body.Bytes(), &said)
		equal(t, [3]any{got.Code, said.Detail, err}, [3]any{503, want, nil})
	}
}

func TestKeysOfAGateway(t *testing.T) {
	t.Run("need a database", func(t *testing.T) {
		o := open(t, twoPlans, "")
		got := o.ask("GET", "/api/v1/keys", "")
		equal(t, got.Code, 409)
		if want := "add database: {url: sqlite:weir.db}"; !strings.Contains(got.Body.String(), want) {
			t.Errorf("%s does not say %s", got.Body, want)
		}
	})
	t.Run("need the token, and are logged without the key", func(t *testing.T) {
		const token = "0123456789abcdef"
		o := open(t, "database: {url: 'sqlite:"+filepath.Join(t.TempDir(), "weir.db")+"'}\n"+twoPlans, token)
		equal(t, o.ask("POST", "/api/v1/keys", `{"caller": "carol"}`).Code, 401)
		got := o.ask("POST", "/api/v1/keys", `{"caller": "carol", "plan": "pro"}`, "Authorization", "Bearer "+token)
		var made struct{ Key, ID string }
		if err := json.Unmarshal(got.Body.Bytes(), &made); err != nil || got.Code != 201 {
			t.Fatal(got.Code, got.Body, err)
		}
		want := map[string]any{
			"level": "INFO", "msg": "key created", "key": made.ID, "caller": "carol", "plan": "pro",
			"expires": "never", "by": "admin API from 127.0.0.1:50000",
		}
		seen := false
		for _, line := range o.logged() {
			seen = seen || reflect.DeepEqual(line, want)
		}
		if !seen || strings.Contains(o.log.String(), made.Key[16:]) {
			t.Errorf("the log is %s\nwant %v", o.log, want)
		}
	})
}
