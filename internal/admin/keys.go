package admin

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/auth"
	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/database"
	"github.com/inferweir/weir/gateway"
)

// defaultGrace is how long a key that is replaced stays valid unless the request says
// otherwise.
const defaultGrace = 24 * time.Hour

const (
	keyExample    = `for example {"caller": "alice", "plan": "pro", "expires": "90d"}`
	rotateExample = `for example {"grace": "24h"}`
)

// KeysOptions are what Keys needs.
type KeysOptions struct {
	// Keys are those of the database; nil where there is none: every request is 409.
	Keys *database.Keys
	// Plans are the names of the plans that a key may have.
	Plans func() []string
	// By says who sent a request, as far as is known. It is kept with the key.
	By func(r *http.Request) string
	// Log is told of every change, without the key.
	Log *slog.Logger
	// Note, if not nil, is told, too, for the operators who watch.
	Note func(gateway.EventSnapshot)
}

// Keys serves /api/v1/keys, /api/v1/keys/{id} and /api/v1/keys/{id}/rotate: it lists,
// makes, revokes and replaces the keys of callers. It asks nobody who they are.
func Keys(o KeysOptions) http.Handler {
	k := keys{o}
	mux := http.NewServeMux()
	mux.Handle("/api/v1/keys", methods{http.MethodGet: k.list, http.MethodPost: k.create})
	mux.Handle("/api/v1/keys/{id}", methods{http.MethodDelete: k.revoke})
	mux.Handle("/api/v1/keys/{id}/rotate", methods{http.MethodPost: k.rotate})
	mux.Handle("/", notFound("want /api/v1/keys, /api/v1/keys/ID or /api/v1/keys/ID/rotate."))
	if o.Keys != nil {
		return mux
	}
	return problem(http.StatusConflict,
		"Keys are made and revoked in a database, and the configuration has none: add database: {url: sqlite:weir.db} to it, or a PostgreSQL, and restart.")
}

type keys struct{ KeysOptions }

// note tells operators of a change.
func (k keys) note(format string, args ...any) {
	if k.Note != nil {
		k.Note(gateway.EventSnapshot{Kind: "key", Text: fmt.Sprintf(format, args...)})
	}
}

// storedKeys are those of the gateway's database, nil without one.
func storedKeys(g *gateway.Gateway) *database.Keys {
	if db := g.Database(); db != nil {
		return db.Keys()
	}
	return nil
}

// remote is who sent a request to the listener.
func remote(r *http.Request) string { return "admin API from " + r.RemoteAddr }

// keyView is a key as the API shows it. Key is there in the answer to who made it.
type keyView struct {
	Key        string    `json:"key,omitempty"`
	ID         string    `json:"id"`
	Caller     string    `json:"caller"`
	Plan       string    `json:"plan"`
	State      string    `json:"state"`
	Created    time.Time `json:"created"`
	CreatedBy  string    `json:"created_by,omitempty"`
	Expires    time.Time `json:"expires,omitzero"`
	LastUsed   time.Time `json:"last_used,omitzero"`
	Revoked    time.Time `json:"revoked,omitzero"`
	RevokedBy  string    `json:"revoked_by,omitempty"`
	ReplacedBy string    `json:"replaced_by,omitempty"`
	Replaces   string    `json:"replaces,omitempty"`
}

func viewOf(k database.Key, now time.Time) keyView {
	whole := func(t time.Time) time.Time { return t.Truncate(time.Second) }
	return keyView{
		ID: k.ID, Caller: k.Caller, Plan: cmp.Or(k.Plan, "default"), State: k.State(now),
		Created: whole(k.Created), CreatedBy: k.CreatedBy, Expires: whole(k.Expires), LastUsed: whole(k.LastUsed),
		Revoked: whole(k.Revoked), RevokedBy: k.RevokedBy, ReplacedBy: k.ReplacedBy,
	}
}

// keyList is the answer to GET. More says that there are older ones that it has not.
type keyList struct {
	Keys []keyView `json:"keys"`
	More bool      `json:"more,omitempty"`
}

func (k keys) list(w http.ResponseWriter, r *http.Request) error {
	all, err := k.Keys.List(r.Context(), r.URL.Query().Get("caller"))
	if errors.Is(err, database.ErrAway) { // nobody asked for a change
		return &weir.Problem{Status: http.StatusServiceUnavailable, RetryAfter: refusalAgain, Err: err,
			Detail: "The database does not answer now: try again."}
	}
	if err != nil {
		return refusal(err)
	}
	now := k.Keys.Now()
	answer := keyList{Keys: make([]keyView, len(all)), More: len(all) == database.MaxListedKeys}
	for i, one := range all {
		answer.Keys[i] = viewOf(one, now)
	}
	write(w, http.StatusOK, answer)
	return nil
}

func (k keys) create(w http.ResponseWriter, r *http.Request) error {
	found, err := texts(w, r, []string{"caller", "plan", "expires"}, keyExample)
	if err != nil {
		return err
	}
	text, made, err := k.add(r, found)
	if err != nil {
		return err
	}
	view := viewOf(made, k.Keys.Now())
	view.Key = text
	write(w, http.StatusCreated, view)
	return nil
}

// add makes the key that found asks for: its caller, plan and expires. text is the key
// itself, which nobody can ask for again.
func (k keys) add(r *http.Request, found map[string]string) (text string, made database.Key, err error) {
	n := database.NewKey{Caller: found["caller"], Plan: found["plan"], By: k.By(r)}
	var mistakes config.Mistakes
	if err := auth.CheckCaller(n.Caller); err != nil {
		mistakes = append(mistakes, keyMistake("caller", n.Caller, err.Error()))
	}
	if plans := k.Plans(); n.Plan != "" && !slices.Contains(plans, n.Plan) {
		mistakes = append(mistakes, keyMistake("plan", n.Plan, noPlan(plans)))
	}
	var want string
	if n.Expires, want = expiry(found["expires"], k.Keys.Now()); want != "" {
		mistakes = append(mistakes, keyMistake("expires", found["expires"], want))
	}
	if len(mistakes) > 0 {
		return "", database.Key{}, mistakes
	}
	if text, made, err = k.Keys.Create(r.Context(), n); err != nil {
		return "", database.Key{}, refusal(err)
	}
	k.Log.Info("key created", "key", made.ID, "caller", made.Caller, "plan", made.Plan, "expires", onDate(made.Expires), "by", n.By)
	k.note("Key %s of %s was created by %s", made.ID, made.Caller, n.By)
	return text, made, nil
}

// onDate is when a key expires, for the log.
func onDate(expires time.Time) string {
	if expires.IsZero() {
		return "never"
	}
	return expires.Format(time.RFC3339)
}

// noPlan names the plans that there are, but not too many.
func noPlan(plans []string) string {
	const most = 20
	switch n := len(plans); {
	case n == 0:
		return "is no plan: the configuration has none, so want none here"
	case n > most:
		plans = append(slices.Clone(plans[:most]), "…")
	}
	return "is no plan of the configuration: want " + strings.Join(plans, ", ")
}

func (k keys) revoke(w http.ResponseWriter, r *http.Request) error {
	revoked, err := k.end(r, r.PathValue("id"))
	if err != nil {
		return err
	}
	write(w, http.StatusOK, viewOf(revoked, k.Keys.Now()))
	return nil
}

// end revokes a key.
func (k keys) end(r *http.Request, id string) (database.Key, error) {
	revoked, err := k.Keys.Revoke(r.Context(), id, k.By(r))
	if err != nil {
		return database.Key{}, refusal(err)
	}
	k.Log.Info("key revoked", "key", revoked.ID, "caller", revoked.Caller, "by", revoked.RevokedBy)
	k.note("Key %s of %s was revoked by %s", revoked.ID, revoked.Caller, revoked.RevokedBy)
	return revoked, nil
}

func (k keys) rotate(w http.ResponseWriter, r *http.Request) error {
	found, err := texts(w, r, []string{"grace"}, rotateExample)
	if err != nil {
		return err
	}
	id := r.PathValue("id")
	text, made, err := k.replace(r, id, found)
	if err != nil {
		return err
	}
	view := viewOf(made, k.Keys.Now())
	view.Key, view.Replaces = text, id
	write(w, http.StatusCreated, view)
	return nil
}

// replace makes a successor of a key, which itself is valid for the grace that found
// asks for. text is the key itself, as with add.
func (k keys) replace(r *http.Request, id string, found map[string]string) (text string, made database.Key, err error) {
	grace := defaultGrace
	if text, given := found["grace"]; given {
		var ok bool
		if grace, ok = span(text); !ok {
			return "", database.Key{}, config.Mistakes{keyMistake("grace", text, "want a duration, for example 24h, or 0s for none")}
		}
	}
	if text, made, err = k.Keys.Rotate(r.Context(), id, grace, k.By(r)); err != nil {
		return "", database.Key{}, refusal(err)
	}
	k.Log.Info("key replaced", "key", id, "by_key", made.ID, "caller", made.Caller, "plan", made.Plan, "grace", grace.String(), "by", made.CreatedBy)
	k.note("Key %s of %s was replaced by %s, made by %s", id, made.Caller, made.ID, made.CreatedBy)
	return text, made, nil
}

// refusalAgain is when to come back to a database that is away.
const refusalAgain = time.Second

// refusal is the answer to an error of the database. None repeats the ID: who takes a
// key for one must not find it in an answer or a log.
func refusal(err error) error {
	if m, ok := errors.AsType[*database.KeyMistake](err); ok {
		return config.Mistakes{keyMistake(m.Field, m.Value, m.Want)}
	}
	switch {
	case errors.Is(err, database.ErrKeyUnknown):
		return problem(http.StatusNotFound, "There is no key with this ID: want the 10 letters and digits after weir_, as the list has them.")
	case errors.Is(err, database.ErrKeyRevoked):
		return problem(http.StatusConflict, "The key is revoked already.")
	case errors.Is(err, database.ErrKeyExpired):
		return problem(http.StatusConflict, "The key has expired: make a new one.")
	case errors.Is(err, database.ErrKeyReplaced):
		return problem(http.StatusConflict, "The key is replaced already: replaced_by in the list says by which, and that can be replaced.")
	case errors.Is(err, database.ErrUnknown):
		return &weir.Problem{Status: http.StatusServiceUnavailable, RetryAfter: refusalAgain, Err: err,
			Detail: "The database went away while the change was written: see in the list whether it was. A key that was made and not shown should be revoked."}
	case errors.Is(err, database.ErrAway):
		return &weir.Problem{Status: http.StatusServiceUnavailable, RetryAfter: refusalAgain, Err: err,
			Detail: "The database does not answer now, so nothing is changed: try again."}
	}
	return err
}

// keyMistake never shows what may be a key.
func keyMistake(field, value, want string) config.Mistake {
	return config.Mistake{Path: field, Value: shown(value), Want: want}
}

// texts reads a body with members that are texts.
func texts(w http.ResponseWriter, r *http.Request, known []string, example string) (map[string]string, error) {
	body, err := read(w, r)
	if err != nil {
		return nil, err
	}
	isKnown := func(name string) bool { return slices.Contains(known, name) }
	members, mistakes := object{isKnown, "is no member here: want " + strings.Join(known, ", ") + ", " + example, example}.read(body)
	found := map[string]string{}
	for _, name := range known {
		raw, there := members[name]
		if !there {
			continue
		}
		var text string
		if raw[0] != '"' || json.Unmarshal(raw, &text) != nil {
			mistakes = append(mistakes, config.Mistake{Path: name, Want: "is no text: want one, " + example})
		}
		found[name] = text
	}
	if len(mistakes) > 0 {
		return nil, mistakes
	}
	return found, nil
}
