package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/inferweir/weir/auth"
)

const keysPath = "/api/v1/keys"

// keyCommand are the commands for the keys that a database keeps.
type keyCommand struct {
	Create keyCreate `cmd:"" help:"Make a key, and print it this once."`
	List   keyList   `cmd:"" help:"List keys, without the keys themselves."`
	Revoke keyRevoke `cmd:"" help:"Make a key invalid for good."`
	Rotate keyRotate `cmd:"" help:"Make a key in the place of another one, which expires."`
}

// keyFacts is what the admin API says of a key.
type keyFacts struct {
	Key      string    `json:"key"`
	ID       string    `json:"id"`
	Caller   string    `json:"caller"`
	Plan     string    `json:"plan"`
	State    string    `json:"state"`
	Created  time.Time `json:"created"`
	Expires  time.Time `json:"expires"`
	LastUsed time.Time `json:"last_used"`
	Replaces string    `json:"replaces"`
}

type keyCreate struct {
	Caller  string `required:"" placeholder:"NAME" help:"Whom the key names: its requests are those of key:NAME."`
	Plan    string `placeholder:"NAME" help:"The plan of who bears it; without one, the default plan."`
	Expires string `placeholder:"WHEN" help:"When it expires: after a time (90d), on a date (2030-12-31), or never, the default."`
	keyPlace
	JSON bool `name:"json" help:"Print the answer of the admin API, with the key."`
}

// Run makes a key. Only the key goes to the standard output, so that it can be put
// straight where it is needed.
func (c *keyCreate) Run(ctx context.Context, out output) error {
	body := map[string]string{"caller": c.Caller}
	if c.Plan != "" {
		body["plan"] = c.Plan
	}
	if c.Expires != "" {
		body["expires"] = c.Expires
	}
	return c.make(ctx, out, keyRequest{http.MethodPost, keysPath, body}, c.JSON)
}

// make asks for a key and prints it.
func (p *keyPlace) make(ctx context.Context, out output, ask keyRequest, asJSON bool) error {
	answer, err := p.ask(ctx, out, ask)
	if err != nil {
		return err
	}
	var made keyFacts
	if json.Unmarshal(answer, &made) != nil || made.Key == "" {
		return p.strange()
	}
	said := fmt.Sprintf("weir: key %s of %s, plan %s, expires %s: it is shown this once, and kept nowhere\n",
		printable(made.ID), printable(made.Caller), printable(made.Plan), onDate(made.Expires, "never"))
	if made.Replaces != "" {
		said += fmt.Sprintf("weir: it replaces %s, whose time is in weir key list\n", printable(made.Replaces))
	}
	if _, err := io.WriteString(out.stderr, said); err != nil {
		return err
	}
	if asJSON {
		return printJSON(out, answer)
	}
	_, err = fmt.Fprintln(out.stdout, printable(made.Key))
	return err
}

type keyList struct {
	Caller string `placeholder:"NAME" help:"Only those of a caller."`
	keyPlace
	JSON bool `name:"json" help:"Print the answer of the admin API."`
}

// Run prints a table, the newest key first.
func (c *keyList) Run(ctx context.Context, out output) error {
	path := keysPath
	if c.Caller != "" {
		path += "?" + url.Values{"caller": {c.Caller}}.Encode()
	}
	answer, err := c.ask(ctx, out, keyRequest{method: http.MethodGet, path: path})
	if err != nil {
		return err
	}
	var list struct {
		Keys *[]keyFacts `json:"keys"`
		More bool        `json:"more"`
	}
	if json.Unmarshal(answer, &list) != nil || list.Keys == nil {
		return c.strange()
	}
	if c.JSON {
		return printJSON(out, answer)
	}
	var text bytes.Buffer
	table := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tCALLER\tPLAN\tCREATED\tLAST USED\tEXPIRES\tSTATE")
	for _, k := range *list.Keys {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", printable(k.ID), printable(k.Caller), printable(k.Plan),
			onDate(k.Created, "-"), onDate(k.LastUsed, "never"), onDate(k.Expires, "never"), printable(k.State))
	}
	_ = table.Flush() // to memory
	if list.More {
		fmt.Fprintf(out.stderr, "weir: there are more: these are the newest %d; --caller NAME has those of one caller\n", len(*list.Keys))
	}
	_, err = out.stdout.Write(text.Bytes())
	return err
}

// onDate is a time to the minute, in UTC; or never, where it is none.
func onDate(t time.Time, never string) string {
	if t.IsZero() {
		return never
	}
	return t.UTC().Format("2006-01-02 15:04")
}

type keyRevoke struct {
	ID keyID `arg:"" placeholder:"ID" help:"The ID of the key: the 10 characters after weir_."`
	keyPlace
	JSON bool `name:"json" help:"Print the answer of the admin API."`
}

// Run revokes a key. All instances refuse it within 2 seconds.
func (c *keyRevoke) Run(ctx context.Context, out output) error {
	answer, err := c.ask(ctx, out, keyRequest{method: http.MethodDelete, path: keysPath + "/" + string(c.ID)})
	if err != nil {
		return err
	}
	var revoked keyFacts
	if json.Unmarshal(answer, &revoked) != nil || revoked.State != "revoked" {
		return c.strange()
	}
	if c.JSON {
		return printJSON(out, answer)
	}
	_, err = fmt.Fprintf(out.stdout, "revoked %s of %s: no instance takes it 2 seconds from now\n", printable(revoked.ID), printable(revoked.Caller))
	return err
}

type keyRotate struct {
	ID    keyID  `arg:"" placeholder:"ID" help:"The ID of the key to be replaced: the 10 characters after weir_."`
	Grace string `placeholder:"DURATION" help:"How long that key stays valid (default 24h); 0s ends it at once."`
	keyPlace
	JSON bool `name:"json" help:"Print the answer of the admin API, with the key."`
}

// Run makes a key for the same caller and plan.
func (c *keyRotate) Run(ctx context.Context, out output) error {
	body := map[string]string{}
	if c.Grace != "" {
		body["grace"] = c.Grace
	}
	return c.make(ctx, out, keyRequest{http.MethodPost, keysPath + "/" + string(c.ID) + "/rotate", body}, c.JSON)
}

// keyID is the ID of a key. Who has only the key may give that: no more of it than the
// ID leaves the process.
type keyID string

// UnmarshalText takes the ID out of a key, and repeats nothing that is none.
func (k *keyID) UnmarshalText(text []byte) error {
	id := string(text)
	if rest, isKey := strings.CutPrefix(id, auth.KeyPrefix); isKey {
		id, _, _ = strings.Cut(rest, "_")
	}
	if !auth.IsKeyID(id) {
		return errors.New("want the ID of a key: the 10 letters and digits after weir_, as weir key list has them")
	}
	*k = keyID(id)
	return nil
}

func printJSON(out output, answer []byte) error {
	_, err := out.stdout.Write(append(bytes.TrimSpace(answer), '\n'))
	return err
}
