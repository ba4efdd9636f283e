package admin

import (
	"context"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"runtime/pprof"
	"runtime/trace"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	profilePath = "/debug/pprof/"
	// maxProfile is how long a profile over time may take: it slows all requests down.
	maxProfile = 60 * time.Second
	// profileSlack is how long the answer may take beyond that.
	profileSlack = 30 * time.Second
)

// profiles serves the profiles of this process in the form of net/http/pprof, which go
// tool pprof and go tool trace read. It is not that package itself, because that one
// registers on a mux of the whole process and lets a profile run for as long as is asked.
type profiles struct {
	running *atomic.Bool // a profile over time, of which there is one at a time
}

func newProfiles() http.Handler {
	p := profiles{new(atomic.Bool)}
	mux := http.NewServeMux()
	mux.Handle(profilePath+"{$}", methods{http.MethodGet: p.index})
	mux.Handle(profilePath+"cmdline", methods{http.MethodGet: p.cmdline})
	mux.Handle(profilePath+"profile", methods{http.MethodGet: p.cpu})
	mux.Handle(profilePath+"trace", methods{http.MethodGet: p.trace})
	mux.Handle(profilePath+"{name}", methods{http.MethodGet: p.snapshot})
	mux.Handle("/debug/", notFound("want "+profilePath+"."))
	return mux
}

// index lists what there is.
func (p profiles) index(w http.ResponseWriter, _ *http.Request) error {
	all := pprof.Profiles()
	slices.SortFunc(all, func(a, b *pprof.Profile) int { return strings.Compare(a.Name(), b.Name()) })
	var b strings.Builder
	b.WriteString("<!doctype html>\n<html lang=\"en\"><title>Profiles</title>\n<h1>Profiles</h1>\n<ul>\n")
	item := func(href, name, what string) {
		fmt.Fprintf(&b, "<li><a href=\"%s\">%s</a>: %s</li>\n", html.EscapeString(href), html.EscapeString(name), what)
	}
	for _, one := range all {
		item(url.PathEscape(one.Name())+"?debug=1", one.Name(), strconv.Itoa(one.Count()))
	}
	item("goroutine?debug=2", "goroutine, in full", "every stack")
	item("profile?seconds=30", "profile", "CPU, for go tool pprof")
	item("trace?seconds=5", "trace", "what ran when, for go tool trace")
	item("cmdline", "cmdline", "how the process was started")
	b.WriteString("</ul>\n</html>\n")
	answerWith(w, "text/html; charset=utf-8")
	_, err := w.Write([]byte(b.String()))
	return ignored(err)
}

// cmdline is the process's command line, its words apart by NUL.
func (p profiles) cmdline(w http.ResponseWriter, _ *http.Request) error {
	answerWith(w, "text/plain; charset=utf-8")
	_, err := w.Write([]byte(strings.Join(os.Args, "\x00")))
	return ignored(err)
}

// snapshot is a profile of the present: as text with debug=1, of goroutines in full with
// debug=2. With gc=1 there is a collection before, so that heap shows what is alive.
func (p profiles) snapshot(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	of := pprof.Lookup(name)
	if of == nil {
		return problem(http.StatusNotFound, "There is no profile %.40q: want one of those that %s lists.", name, profilePath)
	}
	debug, err := number(r, "debug", 0, 0, 2)
	if err != nil {
		return err
	}
	collect, err := number(r, "gc", 0, 0, 1)
	if err != nil {
		return err
	}
	if collect == 1 && name == "heap" {
		runtime.GC()
	}
	if debug == 0 {
		answerWith(w, "application/octet-stream")
		w.Header()["Content-Disposition"] = []string{`attachment; filename="` + of.Name() + `.pb.gz"`}
	} else {
		answerWith(w, "text/plain; charset=utf-8")
	}
	return ignored(of.WriteTo(w, debug))
}

// cpu is what the process computes for some seconds, 30 unless it is said.
func (p profiles) cpu(w http.ResponseWriter, r *http.Request) error {
	return p.over(w, r, 30, func() (func(), error) {
		return pprof.StopCPUProfile, pprof.StartCPUProfile(w)
	})
}

// trace is what runs when for some seconds, 1 unless it is said.
func (p profiles) trace(w http.ResponseWriter, r *http.Request) error {
	return p.over(w, r, 1, func() (func(), error) { return trace.Stop, trace.Start(w) })
}

// over takes a profile over time, at most one at once.
func (p profiles) over(w http.ResponseWriter, r *http.Request, usual int, start func() (stop func(), err error)) error {
	seconds, err := number(r, "seconds", usual, 1, int(maxProfile/time.Second))
	if err != nil {
		return err
	}
	if r.Method == http.MethodHead {
		answerWith(w, "application/octet-stream")
		return nil
	}
	if !p.running.CompareAndSwap(false, true) {
		return problem(http.StatusConflict, "Another profile over time is being taken: want one at a time, of %v at most.", maxProfile)
	}
	defer p.running.Store(false)
	lasts := time.Duration(seconds) * time.Second
	conn := http.NewResponseController(w)
	// Not every writer has deadlines; the server's has, and the guard's is too short.
	_ = conn.SetReadDeadline(time.Time{})
	_ = conn.SetWriteDeadline(time.Now().Add(lasts + profileSlack))
	answerWith(w, "application/octet-stream")
	stop, err := start()
	if err != nil {
		return problem(http.StatusConflict, "The profile cannot be taken: %v.", err)
	}
	defer stop()
	wait(r.Context(), lasts)
	return nil
}

// wait is over when d has passed, or ctx ends.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// number reads a whole number of the query, within bounds.
func number(r *http.Request, name string, usual, least, most int) (int, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return usual, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > most {
		return 0, problem(http.StatusBadRequest, "%s=%.20q: want a whole number from %d to %d.", name, text, least, most)
	}
	return n, nil
}

func answerWith(w http.ResponseWriter, contentType string) {
	h := w.Header()
	h["Content-Type"] = []string{contentType}
	h["Cache-Control"] = []string{"no-store"}
	h["X-Content-Type-Options"] = []string{"nosniff"}
}

// ignored is nil: the client has left, and there is nobody to tell.
func ignored(error) error { return nil }
