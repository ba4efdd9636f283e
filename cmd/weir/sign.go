package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/inferweir/weir/blob"
	"github.com/inferweir/weir/database"
)

// signingKey is the variable with the key that links are signed with where there is no
// configuration: a server reads it only where its file says ${WEIR_SIGNING_KEY}. A flag
// would show the key to everybody on the machine.
const signingKey = "WEIR_SIGNING_KEY"

type signCommand struct {
	Key    string        `required:"" placeholder:"KEY" help:"The blob, as 2026112218/…/…: the path of its links behind /blobs/."`
	For    time.Duration `placeholder:"DURATION" help:"How long the link is good, at most 168h. Default: blobs.sign_for of the configuration, or 5m."`
	Config file          `short:"c" placeholder:"FILE" help:"The configuration with blobs. Without one they are in a directory, and the signing key is in the variable WEIR_SIGNING_KEY."`
	Method string        `enum:"GET,PUT" default:"GET" help:"What the link is for: GET or PUT (default ${default})."`
	Type   string        `placeholder:"TYPE" help:"The media type that a PUT must send; a GET is answered with it."`
	Bytes  int64         `placeholder:"N" help:"How long the body of a PUT may be; with S3, how long it is."`
	Name   string        `placeholder:"NAME" help:"The file name that browsers suggest."`
	URL    baseURL       `placeholder:"URL" help:"The listen of the Weir that serves the blobs of a directory, as https://weir.example; without it, the link is a path."`
	JSON   bool          `name:"json" help:"Print the link as JSON, with its expiry and what a PUT must send."`
}

// Validate refuses what no link can be made of before anything is opened.
func (c *signCommand) Validate() error {
	switch {
	case c.For < 0:
		return fmt.Errorf("--for %v: want from 1s to 168h", c.For)
	case c.Method == http.MethodPut && (c.Type == "" || c.Bytes < 1):
		return errors.New("a link to PUT needs --type and --bytes: they are what keeps it from taking in anything else")
	case c.Method == http.MethodGet && c.Bytes != 0:
		return errors.New("--bytes is for --method PUT")
	}
	return nil
}

// Run prints a link to standard output.
func (c *signCommand) Run(ctx context.Context, out output) error {
	o, err := c.options(ctx, out)
	if err != nil {
		return err
	}
	link, err := blob.Sign(ctx, o, blob.Grant{Method: c.Method, Key: c.Key, Type: c.Type, Name: c.Name, Bytes: c.Bytes, For: c.For})
	switch {
	case errors.Is(err, blob.ErrNotFound):
		return fmt.Errorf("--key %q: want the key of a blob that has not expired, as 2026112218/…/…", c.Key)
	case err != nil:
		return err
	}
	if link.Local {
		link.URL = string(c.URL) + link.URL
	}
	if !c.JSON {
		_, err = fmt.Fprintln(out.stdout, link.URL)
		return err
	}
	headers := map[string]string{}
	for name, values := range link.Header {
		headers[name] = values[0]
	}
	e := json.NewEncoder(out.stdout)
	e.SetEscapeHTML(false)
	return e.Encode(struct {
		Method  string            `json:"method"`
		URL     string            `json:"url"`
		Headers map[string]string `json:"headers,omitempty"`
		Expires time.Time         `json:"expires"`
	}{c.Method, link.URL, headers, link.Expires})
}

// options say where the blobs are, and what signs. With a configuration that is what the
// server with this configuration signs with, and nothing else: a link that another key
// signed looks good and is refused.
func (c *signCommand) options(ctx context.Context, out output) (blob.Options, error) {
	o := blob.Options{URL: "dir:blobs"}
	if c.Config == "" {
		if o.SigningKey = []byte(os.Getenv(signingKey)); len(o.SigningKey) == 0 {
			return o, errors.New("no signing key: want that of the Weir that serves the blobs in the variable " + signingKey + ", or its configuration with -c FILE")
		}
		return o, nil
	}
	cfg, err := load(c.Config, out)
	if err != nil {
		return o, err
	}
	if cfg.Blobs == nil {
		return o, fmt.Errorf("%s: blobs: is not there: want for example blobs: {url: dir:blobs}", c.Config)
	}
	o.URL, o.SignFor, o.SigningKey = cmp.Or(cfg.Blobs.URL, o.URL), cfg.Blobs.SignFor, []byte(cfg.Blobs.SigningKey)
	if len(o.SigningKey) > 0 || !blob.Signs(o.URL) {
		return o, nil
	}
	if cfg.Database == nil {
		return o, fmt.Errorf("%s: blobs.signing_key: is not there, and neither is a database that keeps one: a running Weir has made one that nobody else knows: want one of at least 32 bytes in the file, for example ${%s}", c.Config, signingKey)
	}
	ctx, cancel := context.WithTimeout(ctx, operatorTimeout)
	defer cancel()
	o.SigningKey, err = database.StoredSecret(ctx, cfg.Database.URL, "blobs")
	switch {
	case errors.Is(err, database.ErrNoSecret):
		return o, fmt.Errorf("%s: database.url: the database keeps no signing key yet: a Weir that serves with this file makes it: start that first, or set blobs.signing_key", c.Config)
	case err != nil:
		// The driver quotes the whole URL, in which options may hold secrets.
		text := quotedURL().ReplaceAllLiteralString(oneLine(err.Error()), cfg.Database.Redacted())
		return o, fmt.Errorf("%s: database.url: %s: want the database of the Weir that serves the blobs, which keeps their signing key", c.Config, strings.TrimPrefix(text, "database: "))
	}
	return o, nil
}
