package main

import (
	"context"
	"crypto/sha256"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/builtin"
	"github.com/inferweir/weir/config"
)

// watchEvery is how often the configuration's file is looked at. What it looked like
// twice in a row is taken for what it is to be: editors write in parts, and tools
// exchange links.
const watchEvery = time.Second

// reader reads the configuration's file, again and again.
type reader struct {
	file   file
	models *models

	mu   sync.Mutex
	last digest // of what was read last; guarded by mu
	seen digest // of the last look; of look alone
}

// digest stands for the content of a file.
type digest [sha256.Size]byte

// digestOf reads the file at path. What is longer than any configuration is not read to
// its end: whoever reads it refuses it.
func digestOf(path string) (d digest, err error) {
	f, err := os.Open(path)
	if err != nil {
		return digest{}, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, mostWatched)); err != nil {
		return digest{}, err
	}
	h.Sum(d[:0])
	return d, nil
}

const mostWatched = 64 << 20

// canReload reports whether there is a file that can be read again.
func (r *reader) canReload() bool {
	if r.file == "" {
		return false
	}
	info, err := os.Stat(string(r.file))
	return err == nil && info.Mode().IsRegular() // and no pipe
}

// load reads the file, and looks whether what is beside it can be had.
func (r *reader) load() (*config.Config, error) {
	// Before it is read: what is written meanwhile is found by the next look.
	d, _ := digestOf(string(r.file)) // whose error reading it gives as well
	r.mu.Lock()
	r.last = d
	r.mu.Unlock()
	cfg, err := config.Load(string(r.file))
	if err == nil && usesBuiltin(cfg) {
		_, err = r.models.load()
	}
	return cfg, err
}

// look reports whether there is something new in the file, and has been for two looks.
func (r *reader) look() bool {
	d, err := digestOf(string(r.file))
	if err != nil {
		return false // it is being exchanged
	}
	stable := d == r.seen
	r.seen = d
	r.mu.Lock()
	defer r.mu.Unlock()
	return stable && d != r.last
}

// reload reloads the configuration on every hangup, and when the file changes, until
// ctx ends.
func (s *service) reload(ctx context.Context, hangup <-chan os.Signal) {
	watched := s.reader.canReload()
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			if !watched {
				s.gateway.Logger().Warn("hangup: there is no configuration file to reload, the configuration is unchanged")
				continue
			}
			_ = s.gateway.ReloadFile("a hangup") // which the log tells of
		case <-ticker.C:
			if watched && s.reader.look() {
				_ = s.gateway.ReloadFile("a change of the file")
			}
		}
	}
}

// models are those that ship with Weir. They are loaded when something uses them first.
type models struct {
	load func() (http.Handler, error)
}

func newModels() *models {
	return &models{sync.OnceValues(func() (http.Handler, error) { return builtin.New() })}
}

// ServeHTTP implements http.Handler.
func (m *models) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h, err := m.load()
	if err != nil {
		(&weir.Problem{Detail: "The built-in models cannot be loaded.", Err: err}).ServeHTTP(w, r)
		return
	}
	h.ServeHTTP(w, r)
}
