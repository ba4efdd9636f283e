package gateway

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/blob"
	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/database"
	"github.com/inferweir/weir/job"
)

// data is what outlives the process: the database, the blobs and the jobs. Each is
// nil where the configuration asks for none.
type data struct {
	db    *database.DB
	blobs *blob.Store
	jobs  *job.Jobs

	counts   *dataCounts
	slotless slotless
	waiters  waiters
	// linksLeave says that links to blobs lead to another host.
	linksLeave bool
	draining   context.Context // over when the gateway is about to stop
	drain      context.CancelFunc
	sweeper    *background
	follower   *background
	seeder     *background
	counter    *background
}

const (
	// openTakes is how long the database may take, at the start, for the policies and
	// keys that are in it.
	openTakes = 10 * time.Second
	// logTakes is what is left of the time to close for the log, where the database
	// would need all of it.
	logTakes = 500 * time.Millisecond
)

// openData opens what the configuration asks for. To check it, nothing is opened.
func (g *Gateway) openData(c *config.Config) error {
	g.data = &data{counts: newDataCounts()}
	g.data.draining, g.data.drain = context.WithCancel(context.Background())
	if g.options.Check {
		return nil
	}
	ctx := context.Background() // an upgrade of the tables may take its time
	d := g.data
	if c.Database != nil {
		var err error
		d.db, err = database.Open(ctx, database.Options{
			URL:     c.Database.URL,
			Pool:    database.Pool{Size: c.Database.Pool.Size, Overflow: c.Database.Pool.Overflow, PrePing: c.Database.Pool.PrePing, MaxLifetime: c.Database.Pool.MaxLifetime},
			Serves:  true,
			Log:     g.Logger(),
			Observe: d.counts.database,
		})
		if err != nil {
			return fmt.Errorf("database: %w", err)
		}
		g.counts.database = d.db
	}
	if c.Blobs != nil {
		if err := d.openBlobs(ctx, c, g.Logger()); err != nil {
			return fmt.Errorf("blobs: %w", err)
		}
	}
	if d.db == nil {
		return nil
	}
	o := job.Options{
		Store: d.db.Jobs(), Run: g.runJob, Rooms: g.rooms, Ended: g.jobEnded,
		Attempts: c.Jobs.Attempts, ResultTTL: c.Jobs.ResultTTL, Offload: g.offloadResult,
		Now: d.db.Now, Observe: g.observeJob, Log: g.Logger(),
	}
	if d.blobs != nil {
		o.Blobs = jobBlobs{d.blobs}
	}
	if w := c.Jobs.Webhooks; w != nil {
		o.Webhooks = &job.WebhookOptions{Secret: w.Secret, Allow: w.Allow}
	}
	var err error
	if d.jobs, err = job.New(o); err != nil {
		return fmt.Errorf("jobs: %w", err)
	}
	return nil
}

func (d *data) openBlobs(ctx context.Context, c *config.Config, log *slog.Logger) error {
	o := blob.Options{URL: c.Blobs.URL, SigningKey: []byte(c.Blobs.SigningKey), SignFor: c.Blobs.SignFor, Admit: admitUpload, Log: log}
	switch {
	case len(o.SigningKey) > 0:
	case d.db != nil: // which may be away now
		o.Secret = func(ctx context.Context) ([]byte, error) { return d.db.Secret(ctx, "blobs") }
	default:
		o.SigningKey = make([]byte, 32)
		_, _ = rand.Read(o.SigningKey) // never fails: see crypto/rand
		log.Warn("blobs.signing_key is not set: links to blobs end with this process, and are good at this instance alone")
	}
	_, local := c.Blobs.Dir()
	d.linksLeave = !local
	var err error
	d.blobs, err = blob.Open(ctx, o)
	return err
}

// start begins the work in the background, when requests can be served.
func (g *Gateway) startData() {
	d := g.data
	if d.db != nil {
		ctx, stop := context.WithTimeout(context.Background(), openTakes)
		g.follow(ctx) // before the first request, if the database is there
		g.seed(ctx)
		if d.db.Healthy() {
			if err := d.db.Keys().AwaitLoaded(ctx); err != nil {
				g.Logger().Warn("the keys in the database are not read yet: requests that present one are refused with 503 until they are", "error", err.Error())
			}
		}
		stop()
		d.follower = every(overridesEvery, g.follow)
		d.seeder = every(overridesEvery, g.seed) // which may wait for the ledger
	}
	if d.jobs != nil {
		d.jobs.Start()
		d.counter = every(linesEvery, d.countLines)
	}
	if d.blobs != nil {
		d.sweeper = every(sweepEvery, func(ctx context.Context) {
			removed, err := d.blobs.Sweep(ctx)
			d.counts.sweep(removed, err)
		})
	}
}

// linesEvery is how often the jobs that wait and run are counted.
const linesEvery = 10 * time.Second

// sweepEvery is how often blobs are looked through for those that have expired.
const sweepEvery = 10 * time.Minute

// closeJobs ends what runs for jobs, and gives back their claims.
func (d *data) closeJobs(ctx context.Context) error {
	if d == nil || d.jobs == nil {
		return nil
	}
	return d.jobs.Close(ctx)
}

// close gives back what runs, and writes what is not written yet, as far as ctx allows.
func (d *data) close(ctx context.Context) error {
	if d == nil {
		return nil
	}
	d.drain()
	errs := []error{d.closeJobs(ctx)}
	for _, b := range []*background{d.sweeper, d.follower, d.seeder, d.counter} {
		b.stop()
	}
	if d.blobs != nil {
		errs = append(errs, d.blobs.Close())
	}
	if d.db != nil {
		if end, limited := ctx.Deadline(); limited {
			var stop context.CancelFunc
			ctx, stop = context.WithDeadline(ctx, end.Add(-logTakes))
			defer stop()
		}
		errs = append(errs, d.db.Close(ctx))
	}
	return errors.Join(errs...)
}

// background is a function that is called again and again, until it is stopped.
type background struct {
	cancel context.CancelFunc
	done   chan struct{}
}

func every(d time.Duration, f func(context.Context)) *background {
	ctx, cancel := context.WithCancel(context.Background())
	b := &background{cancel, make(chan struct{})}
	go func() {
		defer close(b.done)
		ticker := time.NewTicker(d)
		defer ticker.Stop()
		for {
			f(ctx)
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return b
}

func (b *background) stop() {
	if b != nil {
		b.cancel()
		<-b.done
	}
}

// jobBlobs keeps the large results of jobs.
type jobBlobs struct{ store *blob.Store }

// Save implements job.Blobs.
func (b jobBlobs) Save(ctx context.Context, m job.BlobMeta, r io.Reader) (string, error) {
	info, err := b.store.Save(ctx, blob.Meta{Caller: m.Caller, Type: m.Type, Until: m.Until}, r)
	return info.Key, err
}

// Open implements job.Blobs.
func (b jobBlobs) Open(ctx context.Context, key string) (io.ReadCloser, error) {
	r, err := b.store.Open(ctx, key)
	if errors.Is(err, blob.ErrNotFound) {
		return nil, job.ErrNotFound
	}
	return r, err
}

// Delete implements job.Blobs.
func (b jobBlobs) Delete(ctx context.Context, key string) error { return b.store.Delete(ctx, key) }

// offloadResult answers with a link to a result that the direct call would have
// answered with one to.
func (g *Gateway) offloadResult(w http.ResponseWriter, r *http.Request, j *job.Job) (bool, error) {
	rt := g.setup.Load().route(j.Route)
	switch {
	case rt == nil || rt.config.OffloadOver == 0 || g.data.blobs == nil:
		return false, nil
	case j.Result.Blob == "" || j.Result.Bytes <= int64(rt.config.OffloadOver) || j.Result.Status != http.StatusOK:
		return false, nil
	case len(j.Result.Header["Content-Encoding"]) > 0 || isStream(j.Result.Header): // as with direct answers
		return false, nil
	}
	info, err := g.data.blobs.Stat(r.Context(), j.Result.Blob)
	if err != nil {
		return false, err
	}
	return true, g.data.blobs.Answer(w, r, info, weir.Caller{ID: j.Caller})
}

// Database is what the configuration names, nil where it names none.
func (g *Gateway) Database() *database.DB { return g.data.db }

// JobsAPI is the part of the admin API that shows jobs. It is nil without them.
func (g *Gateway) JobsAPI() http.Handler {
	if g.data.jobs == nil {
		return nil
	}
	return g.data.jobs.Admin()
}
