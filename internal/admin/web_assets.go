package admin

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
)

// staticPath is before the names of what pages load.
const staticPath = "/static/"

// assets are the files that pages load. Their addresses have a hash of what is in them,
// so that browsers may keep them for ever, and never show a page of one version with the
// script of another.
type assets struct {
	byURL map[string]asset
	urls  map[string]string // of names
}

type asset struct {
	kind string
	body []byte
}

// newAssets reads the files in the folder dir.
func newAssets(files fs.FS, dir string) (*assets, error) {
	entries, err := fs.ReadDir(files, dir)
	if err != nil {
		return nil, err
	}
	a := &assets{map[string]asset{}, map[string]string{}}
	for _, e := range entries {
		body, err := fs.ReadFile(files, path.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		kind := kindOf(e.Name())
		sum := sha256.Sum256(body)
		ext := path.Ext(e.Name())
		url := staticPath + strings.TrimSuffix(e.Name(), ext) + "." + base64.RawURLEncoding.EncodeToString(sum[:9]) + ext
		a.byURL[url], a.urls[e.Name()] = asset{kind, body}, url
	}
	return a, nil
}

func kindOf(name string) string {
	switch path.Ext(name) {
	case ".css":
		return "text/css; charset=utf-8"
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	}
	return "text/plain; charset=utf-8"
}

// url is where a file is; a template that names one that is not there fails.
func (a *assets) url(name string) (string, error) {
	url, ok := a.urls[name]
	if !ok {
		return "", fmt.Errorf("no file %q in web/static", name)
	}
	return url, nil
}

// ServeHTTP serves the files to everybody: there is nothing secret in them, and the login
// needs them.
func (a *assets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	file, ok := a.byURL[r.URL.Path]
	switch {
	case !ok:
		notFound("there is no such file.").ServeHTTP(w, r)
		return
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		refuse(w, r, methods{http.MethodGet: nil}.notAllowed(r.Method))
		return
	}
	h := w.Header()
	h.Set("Content-Type", file.kind)
	h.Set("Content-Length", strconv.Itoa(len(file.body)))
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	if r.Method == http.MethodGet {
		_, _ = w.Write(file.body) // a browser that has left needs no file
	}
}
