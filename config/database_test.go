package config_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/ratelimit"
)

// defaultPool is what database.pool is unless the file says otherwise.
func defaultPool() config.Pool {
	return config.Pool{Size: 10, Overflow: 20, PrePing: true, MaxLifetime: 30 * time.Minute}
}

func TestADatabaseWithoutKeysIsAFile(t *testing.T) {
	want := &config.Database{URL: "sqlite:weir.db", Pool: defaultPool()}
	got := parse(t, "database: {}"+minimal).Database
	equal(t, got, want)
	path, isFile := got.SQLite()
	equal(t, []any{path, isFile}, []any{"weir.db", true})
	// As long as they say what is so anyhow, the keys of a server may stand there.
	equal(t, parse(t, "database: {pool: {size: 10, overflow: 20, pre_ping: true, max_lifetime: 30m}}"+minimal).Database, want)
	equal(t, parse(t, reprinted(t, "database: {}"+minimal)).Database, want)
}

func TestTheURLOfADatabase(t *testing.T) {
	f := func(name, url, redacted string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			text := fmt.Sprintf("database: {url: %q}%s", url, minimal)
			d := parse(t, text).Database
			equal(t, d.URL, url)
			equal(t, d.Redacted(), redacted)
			if again := strings.ReplaceAll(reprinted(t, text), "(redacted)", "x"); parse(t, again).Database.Redacted() != redacted {
				t.Errorf("printed as\n%s", again)
			}
		})
	}
	same := func(name, url string) { t.Helper(); f(name, url, url) }
	same("may be a relative path", "sqlite:data/weir.db")
	same("may be an absolute path", "sqlite:/var/lib/weir/weir.db")
	same("may be a path with an at sign and spaces within", "sqlite:my data/weir@home.db")
	same("may be a host alone", "postgres://localhost")
	same("may have another scheme", "postgresql://weir@h:6432/weir")
	same("may be a socket", "postgres:///weir?host=/var/run/postgresql")
	same("may be an address", "postgres://[2001:db8::1]:5432/weir?sslmode=verify-full&sslrootcert=/etc/ca.pem")
	f("shows no password", "postgres://weir:hunter2@h/weir", "postgres://weir:(redacted)@h/weir")
	f("shows no empty password", "postgres://weir:@h/weir", "postgres://weir:(redacted)@h/weir")
	f("shows no password with an escape", "postgres://weir:hunter2%40x@h", "postgres://weir:(redacted)@h")
	f("shows no password among the options", "postgres://h/weir?password=hunter2&sslmode=disable&sslpassword=hunter2",
		"postgres://h/weir?password=(redacted)&sslmode=disable&sslpassword=(redacted)")
	f("shows no password of a name that is escaped", "postgres://h/weir?p%61ssword=hunter2", "postgres://h/weir?p%61ssword=(redacted)")
	f("may have several hosts", "postgres://weir:hunter2@h1:5432,h2:5433/weir", "postgres://weir:(redacted)@h1:5432,h2:5433/weir")
}

func TestTheURLOfBlobs(t *testing.T) {
	for _, url := range []string{
		"dir:blobs", "dir:/var/lib/weir/blobs", "dir:.", "s3://weir", "s3://weir.blobs-1?region=eu-west-1",
		"s3://weir?endpoint=http%3A%2F%2F127.0.0.1%3A9000&use_path_style=true", "gs://weir_blobs", "azblob://weir",
	} {
		t.Run(url, func(t *testing.T) {
			text := fmt.Sprintf("blobs: {url: %q}%s", url, minimal)
			b := parse(t, text).Blobs
			equal(t, b, &config.Blobs{URL: url, SignFor: 5 * time.Minute})
			equal(t, b.Redacted(), url)
			equal(t, parse(t, reprinted(t, text)).Blobs, b)
			path, isDir := b.Dir()
			equal(t, isDir, strings.HasPrefix(url, "dir:"))
			if isDir {
				equal(t, "dir:"+path, url)
			}
		})
	}
}

func TestARouteThatNeedsBlobsHasThem(t *testing.T) {
	f := func(name, text string, want *config.Blobs) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			equal(t, parse(t, text).Blobs, want)
			equal(t, parse(t, reprinted(t, text)).Blobs, want)
		})
	}
	usual := &config.Blobs{URL: "dir:blobs", SignFor: 5 * time.Minute}
	with := func(keys string) string { return strings.Replace(minimal, "upstream: m", "upstream: m, "+keys, 1) }
	f("where it needs none there are none", minimal, nil)
	f("a database alone needs none", "database: {}"+minimal, nil)
	f("large answers need them", with("offload_over: 64KiB"), usual)
	f("jobs need them", "database: {}"+with("respond_async: allowed"), usual)
	f("jobs alone need them, too", "database: {}"+with("respond_async: always"), usual)
	f("what the file says is kept", "blobs: {sign_for: 1h}"+with("offload_over: 1MiB"), &config.Blobs{URL: "dir:blobs", SignFor: time.Hour})
}

func TestAnswersThatAreOffloadedAreNotCached(t *testing.T) {
	entry := func(keys string) config.Size {
		return parse(t, strings.Replace(minimal, "upstream: m", "upstream: m, "+keys, 1)).Routes[0].Cache.MaxEntry
	}
	equal(t, entry("offload_over: 64KiB, cache: {mode: inference, ttl: 1m}"), 64*kib)
	equal(t, entry("offload_over: 1GiB, cache: {mode: inference, ttl: 1m}"), 8*mib)
	equal(t, entry("offload_over: 1MiB, cache: {mode: http, max_entry: 1MiB}"), mib)
	equal(t, entry("offload_over: 0, cache: {mode: http}"), 8*mib)
}

func TestJobsArePrintedOnlyWithADatabase(t *testing.T) {
	if got := reprinted(t, minimal); strings.Contains(got, "jobs:") {
		t.Errorf("what has no effect is printed:\n%s", got)
	}
	_, got, _ := strings.Cut(reprinted(t, "database: {pool: {size: 3}}\njobs: {attempts: 7}"+minimal), "\ndatabase:\n")
	got, _, _ = strings.Cut(got, "instances:")
	equal(t, got, `  url: sqlite:weir.db
  pool:
    size: 3
jobs:
  result_ttl: 1d
  attempts: 7
`)
}

func TestRoutesBesideWeirsOwnPaths(t *testing.T) {
	for name, text := range map[string]string{
		"below /jobs/ without a database":   strings.Replace(minimal, "/a", "/jobs/*", 1),
		"below /blobs without blobs":        strings.Replace(minimal, "/a", "/blobs/*", 1),
		"at /jobs itself":                   "database: {}" + strings.Replace(minimal, "/a", "/jobs", 1),
		"that takes everything else":        "database: {}\nblobs: {}" + strings.Replace(minimal, "/a", "/*", 1),
		"whose requests another server has": "decide: {}\ndatabase: {}\nblobs: {}\nroutes: [{match: {path: /jobs/*}}, {match: {path: /blobs/*}}]\n",
	} {
		t.Run(name, func(t *testing.T) { parse(t, text) })
	}
}

// budgeted is a file whose plan default has a budget.
const budgeted = `
prices: {"*": {input: 3, output: 15}}
plans: {default: {policies: [5/minute], budget: %s}}
upstreams: {m: {targets: [http://h], dialect: openai}}
routes: [{match: {path: /a}, upstream: m}]
`

func TestBudgets(t *testing.T) {
	f := func(text string, nanos int64, window time.Duration, printed string) {
		t.Helper()
		t.Run(text, func(t *testing.T) {
			t.Helper()
			want := config.Budget{Nanos: nanos, Window: window}
			file := fmt.Sprintf(budgeted, text)
			equal(t, parse(t, file).Plans["default"].Budget, &want)
			equal(t, want.String(), printed)
			equal(t, parse(t, reprinted(t, file)).Plans["default"].Budget, &want)
		})
	}
	const usd = 1_000_000_000
	day := 24 * time.Hour
	f("20 USD/month", 20*usd, ratelimit.Month, "20 USD/month")
	f("0.50 USD per day", usd/2, day, "0.5 USD/day")
	f("20 USD/7d", 20*usd, 7*day, "20 USD/week")
	f("20 USD per 30d", 20*usd, 30*day, "20 USD per 30d")
	f("5 USD/90m", 5*usd, 90*time.Minute, "5 USD per 90m")
	f("1 USD/second", usd, time.Second, "1 USD/second")
	f("60.000 USD/minute", 60*usd, time.Minute, "60 USD/minute")
	f("0.000000001 USD/1ms", 1, time.Millisecond, "0.000000001 USD per 1ms")
	f("900000 USD/year", 900_000*usd, ratelimit.Year, "900000 USD/year")
	f("899999.999999999 USD/366d", 899_999_999_999_999, 366*day, "899999.999999999 USD per 366d")
	f("007.10 USD/hour", 7_100_000_000, time.Hour, "7.1 USD/hour")
	f("10 USD / 1w", 10*usd, 7*day, "10 USD/week")
}

func TestEveryBudgetIsAPolicyThatCanBeCounted(t *testing.T) {
	for _, text := range []string{"900000 USD/year", "1 USD/second", "0.000000001 USD/1ms", "0.000000001 USD/366d", "0.001 USD/1ms"} {
		b := parse(t, fmt.Sprintf(budgeted, text)).Plans["default"].Budget
		p := ratelimit.Policy{Name: "budget", Quota: b.Nanos, Window: b.Window, Unit: "nanousd", Algorithm: ratelimit.FixedWindow}
		if err := p.Validate(); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestEditedPoliciesLeaveRoomForTheBudget(t *testing.T) {
	f := func(name, policies, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			_, err := inPlan(t, fmt.Sprintf(budgeted, "20 USD/month"), "default", quoted(policies))
			equal(t, fmt.Sprint(err), want)
		})
	}
	f("as many as there is room for", named("p", ratelimit.MaxTakes-1), "<nil>")
	f("one too many beside the budget", named("p", ratelimit.MaxTakes), "plans.default.policies: 33 policies together with those of the plan's budget: want at most 32")
	f("its name", "[{name: budget, quota: 1, window: 1s}]", `plans.default.policies[0]: has the name "budget", which is that of the plan's budget: want another name`)
}

func TestPrices(t *testing.T) {
	for text, want := range map[string]float64{"0": 0, "0.0": 0, "3": 3, "0.1": 0.1, "1000000": 1e6, "1000000.000000000": 1e6, "0.000000001": 1e-9, "007": 7} {
		file := "prices: {m: {input: " + text + ", output: 1}}" + minimal
		equal(t, parse(t, file).Prices["m"], config.Price{Input: want, Cached: want, Output: 1})
		equal(t, parse(t, reprinted(t, file)).Prices["m"], config.Price{Input: want, Cached: want, Output: 1})
	}
}

func TestEveryPriceReadsBackAsItself(t *testing.T) {
	// Steps of a prime number of nanos, so that all digits change.
	for n := int64(0); n <= 1e15; n += 9_999_999_999_971 {
		text := fmt.Sprintf("%d.%09d", n/1e9, n%1e9)
		price := parse(t, "prices: {m: {input: "+text+", output: 0}}"+minimal).Prices["m"].Input
		if got := fmt.Sprintf("%.9f", price); got != text {
			t.Fatalf("%s is read as %s", text, got)
		}
	}
}

func TestTheSecretOfWebhooksIsNeverShown(t *testing.T) {
	text := "database: {}\njobs: {webhooks: {secret: \"${WEBHOOK_SECRET}\"}}" + minimal
	equal(t, parse(t, text).Jobs, config.Jobs{
		ResultTTL: 24 * time.Hour, Attempts: 3, Webhooks: &config.Webhooks{Secret: "whsec_aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMg=="},
	})
	printed, err := parse(t, text).YAML()
	if err != nil || strings.Contains(string(printed), "aHVudGVyMg") {
		t.Errorf("%v\n%s", err, printed)
	}
	_, err = config.Parse("weir.yaml", printed, nil)
	mistakes, _ := errors.AsType[config.Mistakes](err)
	if len(mistakes) != 1 || mistakes[0].Path != "jobs.webhooks.secret" {
		t.Errorf("a printed file is served from: %v", err)
	}
}

func TestADatabaseHasKeysOfItsOwn(t *testing.T) {
	for name, text := range map[string]string{
		"so that keys can be required":        "database: {}\ncallers: {require: true}" + minimal,
		"with plans that nobody else has":     "database: {}\nplans: {pro: {policies: [5/minute], weight: 3}}" + minimal,
		"of callers that are in no other key": "database: {}\ncallers: {overrides: [{caller: \"key:alice\", policies: [{name: own, quota: 5, window: 1m}]}]}" + minimal,
	} {
		t.Run(name, func(t *testing.T) { parse(t, text) })
	}
	t.Run("and a key in the file says which policies an override replaces", func(t *testing.T) {
		c := parse(t, `
database: {}
callers: {keys: [{caller: alice, key: weir_a, plan: pro}], overrides: [{caller: "key:alice", policies: [9/minute]}]}
plans: {pro: {policies: [{name: main, quota: 5, window: 1m}]}}`+minimal)
		equal(t, c.Callers.Overrides[0].Policies, []config.Policy{defaultPolicy("main", 9, time.Minute)})
	})
}
