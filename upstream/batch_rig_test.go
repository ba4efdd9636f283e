package upstream_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/inferweir/weir/upstream"
)

// desk gives out places as a queue does: those with one key share one, up to size
// items.
type desk struct {
	mu     sync.Mutex
	size   int
	limit  int // places at once, 0: any number
	ids    uint64
	taken  int
	open   map[string]*table
	line   []*chair
	chairs []*chair
}

type table struct {
	id             uint64
	key            string
	items, members int
}

// chair is a member's share of a place: its upstream.Place and its upstream.Seat.
type chair struct {
	desk   *desk
	table  *table
	key    string
	items  int
	target int
	ready  chan struct{}
	ends   []upstream.Event
}

func newDesk(size int) *desk { return &desk{size: size, open: map[string]*table{}} }

// sit hands in a request. It has its place when ready is closed.
func (d *desk) sit(key string, items int) *chair {
	c := &chair{desk: d, key: key, items: items, ready: make(chan struct{})}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.chairs = append(d.chairs, c)
	d.line = append(d.line, c)
	d.serve()
	return c
}

func (d *desk) serve() {
	for len(d.line) > 0 {
		c := d.line[0]
		g := d.open[c.key]
		if g == nil || g.items+c.items > d.size {
			if d.limit > 0 && d.taken >= d.limit {
				return
			}
			d.ids++
			d.taken++
			g = &table{id: d.ids, key: c.key}
			d.open[c.key] = g
		}
		g.items += c.items
		g.members++
		if c.table = g; g.items >= d.size {
			d.seal(g)
		}
		d.line = d.line[1:]
		close(c.ready)
	}
}

func (d *desk) seal(g *table) {
	if d.open[g.key] == g {
		delete(d.open, g.key)
	}
}

func (c *chair) Shared() uint64 { return c.table.id }
func (c *chair) Target() int    { return c.target }

func (c *chair) Sharing() (items int, sealed bool) {
	c.desk.mu.Lock()
	defer c.desk.mu.Unlock()
	return c.table.items, c.desk.open[c.table.key] != c.table
}

func (c *chair) Seal() {
	c.desk.mu.Lock()
	defer c.desk.mu.Unlock()
	c.desk.seal(c.table)
}

func (c *chair) End(e upstream.Event) {
	d := c.desk
	d.mu.Lock()
	defer d.mu.Unlock()
	if c.ends = append(c.ends, e); len(c.ends) > 1 {
		return
	}
	g := c.table
	g.items -= c.items
	if g.members--; g.members == 0 {
		d.seal(g)
		d.taken--
		d.serve()
	}
}

// forget leaves the seats that have ended out of results.
func (d *desk) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.chairs = slices.DeleteFunc(d.chairs, func(c *chair) bool { return len(c.ends) == 1 })
}

// inUse is how many places are taken.
func (d *desk) inUse() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.taken
}

// resize is for BatchOptions.Resize.
func (d *desk) resize(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.size = n
}

// results are those of all seats that were ever given, in their order.
func (d *desk) results() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []string
	for _, c := range d.chairs {
		one := []string{}
		for _, e := range c.ends {
			one = append(one, fmt.Sprintf("%s %d", e.Result, e.Status))
		}
		all = append(all, strings.Join(one, "+"))
	}
	return all
}

// lists is a Codec of lists of texts.
type lists struct{}

func (lists) Join(members [][]string) ([]byte, error) {
	all := slices.Concat(members...)
	if slices.Contains(all, "unjoinable") {
		return nil, errors.New("an item cannot be joined")
	}
	if slices.Contains(all, "panic in join") {
		panic("join")
	}
	return json.Marshal(map[string]any{"instances": all})
}

func (lists) Split(answer []byte, members [][]string) (answers [][]byte, err error) {
	var whole struct{ Predictions []string }
	if err := json.Unmarshal(answer, &whole); err != nil {
		return nil, err
	}
	if slices.ContainsFunc(whole.Predictions, func(p string) bool { return p == "panic in split of b" && len(whole.Predictions) > 1 }) {
		panic("split")
	}
	if want := len(slices.Concat(members...)); len(whole.Predictions) != want {
		return nil, fmt.Errorf("%d predictions: want %d", len(whole.Predictions), want)
	}
	if len(members) > 1 && slices.Contains(whole.Predictions, "miscounted") {
		return nil, nil
	}
	for _, m := range members {
		part, err := json.Marshal(map[string]any{"predictions": whole.Predictions[:len(m)]})
		if err != nil {
			return nil, err
		}
		answers, whole.Predictions = append(answers, part), whole.Predictions[len(m):]
	}
	return answers, nil
}

func body(items ...string) string {
	b, _ := json.Marshal(map[string]any{"instances": items})
	return string(b)
}

// model is a server that predicts x of x, and refuses what is bad.
type model struct {
	mu       sync.Mutex
	calls    []string // "a b" for a call with a and b
	at       []time.Duration
	requests []*http.Request // as they came
	running  int
	most     int // calls at once
	began    time.Time

	took  func(items int) time.Duration
	serve func(w http.ResponseWriter, r *http.Request, items []string) bool // true: it did
}

func (m *model) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var asked struct{ Instances []string }
	b, _ := io.ReadAll(r.Body)
	if err := json.Unmarshal(b, &asked); err != nil {
		http.Error(w, err.Error(), http.StatusTeapot)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(b))
	m.mu.Lock()
	m.calls = append(m.calls, strings.Join(asked.Instances, " "))
	m.at = append(m.at, time.Since(m.began))
	m.requests = append(m.requests, r)
	m.running++
	m.most = max(m.most, m.running)
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.running--
	}()
	if m.took != nil {
		select {
		case <-time.After(m.took(len(asked.Instances))):
		case <-r.Context().Done():
			return
		}
	}
	if m.serve != nil && m.serve(w, r, asked.Instances) {
		return
	}
	if slices.Contains(asked.Instances, "bad") {
		w.Header().Set("X-Reason", "bad")
		w.WriteHeader(http.StatusUnprocessableEntity)
		_, _ = io.WriteString(w, `{"error":"bad"}`)
		return
	}
	answer, _ := json.Marshal(map[string]any{"predictions": asked.Instances})
	_, _ = w.Write(answer)
}

func (m *model) asked() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.calls)
}

func (m *model) times() []time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.at)
}

// busiest is how many calls there were at once.
func (m *model) busiest() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.most
}

// idle reports whether no call runs.
func (m *model) idle() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.running == 0
}

// rig is a Batcher with a desk before and a model behind it.
type rig struct {
	*testing.T
	desk    *desk
	model   *model
	pool    *upstream.Pool
	batcher *upstream.Batcher[[]string]
	made    []upstream.BatchEvent
}

// virtual runs f in a bubble with a rig whose model is in this process.
func virtual(t *testing.T, name string, o upstream.BatchOptions, f func(*rig)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { f(newRig(t, o, upstream.Options{})) })
	})
}

func newRig(t *testing.T, o upstream.BatchOptions, p upstream.Options) *rig {
	x := &rig{T: t, model: &model{began: time.Now()}}
	if len(p.Targets) == 0 {
		p.Targets = []upstream.Target{{URL: "model", Transport: upstream.Handler(x.model)}}
	}
	p.Name = "m"
	var err error
	if x.pool, err = upstream.New(p); err != nil {
		t.Fatal(err)
	}
	size := o.MaxItems
	if size == 0 {
		size = upstream.DefaultBatchItems
	}
	x.desk = newDesk(size)
	o.Pool = x.pool
	if o.Goal > 0 && o.Resize == nil {
		o.Resize = x.desk.resize
	}
	if o.Observe == nil {
		var mu sync.Mutex
		o.Observe = func(e upstream.BatchEvent) {
			mu.Lock()
			defer mu.Unlock()
			x.made = append(x.made, e)
		}
	}
	x.batcher = upstream.NewBatcher(o, lists{})
	t.Cleanup(func() {
		x.batcher.Close()
		x.pool.Close()
		if s := x.batcher.Stats(); s.Places != 0 {
			t.Errorf("%d places are left over", s.Places)
		}
		if n := x.pool.InFlight(); n != 0 {
			t.Errorf("%d exchanges never ended", n)
		}
		for i, c := range x.desk.chairs {
			if len(c.ends) != 1 {
				t.Errorf("seat %d ended %d times: %v", i, len(c.ends), c.ends)
			}
		}
		if x.desk.taken != 0 {
			t.Errorf("%d places were never given back", x.desk.taken)
		}
	})
	return x
}

// got is what one member was told.
type got struct {
	status int
	body   string
	header http.Header
	err    error
	resp   *http.Response
}

func (g got) String() string {
	if g.err != nil {
		return g.err.Error()
	}
	return fmt.Sprintf("%d %s", g.status, g.body)
}

// asks is a request that is sent when it has its place.
type asks struct {
	key    string
	items  []string
	header http.Header
	seats  upstream.Seats
	seat   *chair
	body   string
}

func (x *rig) member(a *asks) upstream.Member[[]string] {
	if a.key == "" {
		a.key = "k"
	}
	if a.seat == nil {
		a.seat = x.desk.sit(a.key, len(a.items))
	}
	if a.body == "" {
		a.body = body(a.items...)
	}
	r, err := http.NewRequest(http.MethodPost, "http://weir/v1/models/m:predict?a=1", strings.NewReader(a.body))
	if err != nil {
		x.Fatal(err)
	}
	for name, values := range a.header {
		r.Header[name] = values
	}
	return upstream.Member[[]string]{
		Place: a.seat, Key: a.key, Items: len(a.items), Content: a.items, Request: r,
		Call: upstream.Call{Seat: a.seat, Seats: a.seats},
	}
}

// send sends a once it has its place; the channel has what came of it.
func (x *rig) send(ctx context.Context, a asks) <-chan got {
	m := x.member(&a)
	done := make(chan got, 1)
	go func() {
		<-a.seat.ready
		resp, err := x.batcher.Do(ctx, m)
		done <- gotten(resp, err)
	}()
	return done
}

func gotten(resp *http.Response, err error) got {
	if err != nil {
		return got{err: err}
	}
	b, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	return got{resp.StatusCode, string(b), resp.Header, err, resp}
}

// ask sends one request for each list of items, in their order.
func (x *rig) ask(lists ...[]string) []<-chan got {
	var all []<-chan got
	for _, items := range lists {
		all = append(all, x.send(context.Background(), asks{items: items}))
		synctest.Wait()
	}
	return all
}

func one(items ...string) (all [][]string) {
	for _, item := range items {
		all = append(all, []string{item})
	}
	return all
}

// want waits for all answers and compares them.
func (x *rig) want(all []<-chan got, want ...string) {
	x.Helper()
	for i, c := range all {
		if g := (<-c).String(); g != want[i] {
			x.Errorf("member %d\n got %s\nwant %s", i, g, want[i])
		}
	}
}

func (x *rig) wantCalls(want ...string) {
	x.Helper()
	if got := x.model.asked(); !slices.Equal(got, want) {
		x.Errorf("calls\n got %q\nwant %q", got, want)
	}
}

func (x *rig) wantSeats(want ...string) {
	x.Helper()
	synctest.Wait()
	if got := x.desk.results(); !slices.Equal(got, want) {
		x.Errorf("seats\n got %q\nwant %q", got, want)
	}
}

func predicts(items ...string) string {
	b, _ := json.Marshal(map[string]any{"predictions": items})
	return "200 " + string(b)
}
