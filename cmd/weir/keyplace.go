package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/database"
	"github.com/inferweir/weir/internal/admin"
)

// maxKeysAnswer is how much of an answer is kept: all that a list has.
const maxKeysAnswer = 32 << 20

// keyPlace is where keys are: a running Weir, or the database of a configuration.
type keyPlace struct {
	Admin  baseURL `placeholder:"URL" xor:"place" help:"The admin.listen of a running Weir (default http://127.0.0.1:8081). Its admin.token is read from the variable WEIR_ADMIN_TOKEN."`
	Config file    `short:"c" placeholder:"FILE" xor:"place" help:"Go straight to the database of this configuration; Weir need not run."`
}

// keyRequest is a request to the admin API. body is nil where there is none.
type keyRequest struct {
	method, path string
	body         map[string]string
}

// ask sends a request to the admin API, or, with a configuration, to the same API in
// this process.
func (p *keyPlace) ask(ctx context.Context, out output, ask keyRequest) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, operatorTimeout)
	defer cancel()
	var body io.Reader = http.NoBody
	if ask.body != nil {
		text, err := json.Marshal(ask.body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(text)
	}
	if p.Admin == "" { // not as the flag's default, which would stand beside --config
		p.Admin = "http://127.0.0.1:8081"
	}
	r, err := http.NewRequestWithContext(ctx, ask.method, string(p.Admin)+ask.path, body)
	if err != nil {
		return nil, err
	}
	if ask.body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if p.Config != "" {
		return p.askHere(r, out)
	}
	return p.Admin.ask(r, asking{most: maxKeysAnswer, away: "with --admin URL, or its configuration, with -c FILE"})
}

// strange says that an answer is none of an admin API. It is not repeated, because it
// may hold a key.
func (p *keyPlace) strange() error {
	return fmt.Errorf("%s: this is not the answer of an admin API: want the admin.listen of a Weir, with --admin URL", p.Admin)
}

// askHere opens the database of the configuration, and answers as a running Weir
// would, which sees the change within 2 seconds.
func (p *keyPlace) askHere(r *http.Request, out output) ([]byte, error) {
	cfg, err := load(p.Config, out)
	if err != nil {
		return nil, err
	}
	if cfg.Database == nil {
		return nil, fmt.Errorf("%s: database: is not there: the keys that this command makes are kept in one: want for example database: {url: sqlite:weir.db}", p.Config)
	}
	fresh, err := p.freshFile(cfg.Database, r)
	if err != nil {
		return nil, err
	}
	db, err := database.Open(r.Context(), database.Options{URL: cfg.Database.URL, Pool: database.Pool{Size: 1}})
	if err != nil {
		return nil, fmt.Errorf("%s: database.url: %w", p.Config, err)
	}
	if fresh != "" {
		fmt.Fprintf(out.stderr, "weir: made the database %s, because there was none: only a Weir that serves with this file takes the keys in it\n", fresh)
	}
	status, answer := keysHere(db, cfg, r)
	return p.answered(out, db.Close(r.Context()), &http.Response{StatusCode: status}, answer)
}

// freshFile is the file that opening the database makes, "" if it is there already. Only
// to make a key one is made: a key that is to be revoked is in no empty database, but in
// another one than the working directory leads to.
func (p *keyPlace) freshFile(d *config.Database, r *http.Request) (string, error) {
	name, isFile := d.SQLite()
	if !isFile {
		return "", nil
	}
	path, err := filepath.Abs(name)
	if err != nil {
		return "", fmt.Errorf("%s: database.url: %q: %w", p.Config, d.URL, err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return "", nil // what else is wrong with it is said when it is opened
	}
	if r.Method == http.MethodPost && r.URL.Path == keysPath {
		return path, nil
	}
	return "", fmt.Errorf("%s: database.url: %q: %s: no such file: want the database of the Weir whose keys these are; a relative path begins in the working directory, as it does for weir serve", p.Config, d.URL, path)
}

// answered is what the API in this process has answered. What is done is done, also where
// the database could not be closed: a key that was made is shown now or never.
func (p *keyPlace) answered(out output, closed error, resp *http.Response, answer []byte) ([]byte, error) {
	if closed != nil {
		fmt.Fprintf(out.stderr, "weir: warning: %s: database: could not be closed: %v\n", p.Config, closed)
	}
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusCreated {
		return answer, nil
	}
	words := inWords(resp, answer)
	if _, detail, found := strings.Cut(words, ": "); found {
		words = detail
	}
	return nil, fmt.Errorf("%s: %s", p.Config, words)
}

func keysHere(db *database.DB, cfg *config.Config, r *http.Request) (status int, answer []byte) {
	api := admin.Keys(admin.KeysOptions{
		Keys:  db.Keys(),
		Plans: func() []string { return slices.Sorted(maps.Keys(cfg.Plans)) },
		By:    func(*http.Request) string { return "weir key by " + whoRuns() },
		Log:   slog.New(slog.DiscardHandler),
	})
	var got captured
	api.ServeHTTP(&got, r)
	return got.status, got.body.Bytes()
}

// whoRuns names the user who runs the command.
func whoRuns() string {
	if u, err := user.Current(); err == nil {
		return printable(u.Username)
	}
	return fmt.Sprint("user ", os.Getuid())
}

// captured is an answer that is not sent anywhere.
type captured struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header returns the fields of the answer.
func (c *captured) Header() http.Header {
	if c.header == nil {
		c.header = http.Header{}
	}
	return c.header
}

// WriteHeader keeps the first status.
func (c *captured) WriteHeader(status int) {
	if c.status == 0 {
		c.status = status
	}
}

// Write keeps the body.
func (c *captured) Write(p []byte) (int, error) {
	c.WriteHeader(http.StatusOK)
	return c.body.Write(p)
}
