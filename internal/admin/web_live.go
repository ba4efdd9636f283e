package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"time"

	"github.com/inferweir/weir/gateway"
)

// liveFor is how long a stream of regions is: the browser asks for the next one, and is
// asked for its session again.
const liveFor = 10 * time.Minute

// update is one event of the stream: the regions' HTML by name, and the series for the
// charts where the page has some.
type update struct {
	Regions map[string]string `json:"regions"`
	Series  *gateway.Series   `json:"series,omitempty"`
}

const (
	// briefField is in the query of a window that has no connection to keep: it gets one
	// update at a time.
	briefField = "brief"
	// briefBegins tells the browser to come for the next one, in milliseconds.
	briefBegins = "retry: 2000\n\n"
)

// live streams the regions of a page, once a second. Its query is that of the page. Browsers
// keep at most six connections to a server that speaks HTTP/1.1: those windows of one that
// would take them all ask with briefField, for one update.
func (d *dashboard) live(w http.ResponseWriter, r *http.Request, p *page) error {
	if len(p.regions) == 0 {
		return problem(http.StatusNotFound, "This page has nothing that moves.")
	}
	end := time.Now().Add(liveFor)
	if until, ok := d.guard.sessions.expires(r, time.Now()); ok && until.Before(end) {
		end = until
	}
	ctx, stop := context.WithDeadline(r.Context(), end)
	defer stop()
	next := d.guard.whileIn(r, d.updates(r, p))
	if r.URL.Query().Get(briefField) == "" {
		return d.streams.stream(w, r.WithContext(ctx), streamBegins, next)
	}
	sent := false
	return d.streams.stream(w, r.WithContext(ctx), briefBegins, func(within context.Context) (string, []byte, error) {
		if sent {
			return "", nil, io.EOF
		}
		sent = true
		return next(within)
	})
}

// updates returns what waits for the next update: the first one comes at once.
func (d *dashboard) updates(r *http.Request, p *page) func(context.Context) (string, []byte, error) {
	var due time.Time
	return func(within context.Context) (string, []byte, error) {
		timer := time.NewTimer(time.Until(due))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-within.Done():
			return "", nil, within.Err()
		}
		due = time.Now().Add(snapshotEvery)
		data, err := d.update(r.WithContext(within), p)
		if err != nil {
			d.guard.log.Error("the dashboard failed", "path", r.URL.Path, "error", err.Error())
		}
		return "update", data, err
	}
}

// update renders the regions of a page as they are now. Where the page has no data now,
// its figures stay, and the region "health" in the frame says why, unless the page does.
func (d *dashboard) update(r *http.Request, p *page) ([]byte, error) {
	v := d.view(r, p)
	v.Moves = r.URL.Query().Get(downField) == ""
	names := []string{"health"}
	if p.data != nil {
		data, err := p.data(v)
		if err != nil {
			v.Down = failureOf(err)
		}
		v.Data = data
	}
	if v.Down == nil {
		names = append(names, p.regions...)
	}
	u := update{Regions: map[string]string{}}
	for _, name := range names {
		var out bytes.Buffer
		if err := d.templates[p.template].ExecuteTemplate(&out, name, v); err != nil {
			return nil, err
		}
		u.Regions[name] = out.String()
	}
	if p.charts {
		u.Series = &v.Snapshot.Series
	}
	return json.Marshal(u)
}
