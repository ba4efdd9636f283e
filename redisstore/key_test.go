package redisstore_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/inferweir/weir/ratelimit"
	"github.com/inferweir/weir/redisstore"
)

func TestKeys(t *testing.T) {
	t.Run("reads well, and begins the hash tag with the caller", func(t *testing.T) {
		p := ratelimit.Policy{Scope: "plan:default", Name: "default", Unit: "requests"}
		const policy = ":b,12:plan:default,7:default,8:requests"
		for key, want := range map[string]string{
			"alice":                 "weir:{=alice}",
			"":                      "weir:{=}",
			"key:ip:2001:db8::":     "weir:{=key:ip:2001:db8::}",
			"a}b":                   "weir:{#HASH}",
			"two words":             "weir:{#HASH}",
			"schl\u00fcssel":        "weir:{#HASH}",
			strings.Repeat("x", 65): "weir:{#HASH}",
		} {
			sum := sha256.Sum256([]byte(key))
			want = strings.ReplaceAll(want, "HASH", hex.EncodeToString(sum[:])) + policy
			if got := redisstore.CountKey("weir", &p, key); got != want {
				t.Errorf("%q\n got %s\nwant %s", key, got, want)
			}
		}
	})
	t.Run("counts windows of another length apart, and buckets not", func(t *testing.T) {
		for algorithm, want := range map[string][2]string{
			ratelimit.TokenBucket:   {"b", "b"},
			ratelimit.SlidingWindow: {"s1m0s", "s730h29m6s"},
			ratelimit.FixedWindow:   {"f1m0s", "f730h29m6s"},
		} {
			for i, window := range []time.Duration{time.Minute, ratelimit.Month} {
				p := ratelimit.Policy{Scope: "plan:default", Name: "default", Unit: "requests", Algorithm: algorithm, Window: window}
				if got, want := redisstore.CountKey("weir", &p, "a"), "weir:{=a}:"+want[i]+",12:plan:default,7:default,8:requests"; got != want {
					t.Errorf("got %s\nwant %s", got, want)
				}
			}
		}
	})
	t.Run("gives no two counts the same key", func(t *testing.T) {
		type tuple struct {
			prefix, scope, name, unit, key, kind string
			window                               time.Duration
		}
		part := rapid.SampledFrom([]string{"", "a", "b", "a,1:b", "1:a", ",", "}", "{=a}", ":b,", "#a", "a:{=b}:b", strings.Repeat("a", 64), strings.Repeat("a", 65), "\x00"})
		draw := func(rt *rapid.T) (tuple, string) {
			c := tuple{
				prefix: rapid.SampledFrom([]string{"w", "weir", "w:", "weir:b"}).Draw(rt, "prefix"),
				scope:  rapid.OneOf(part, rapid.String()).Draw(rt, "scope"), name: part.Draw(rt, "name"),
				unit: part.Draw(rt, "unit"), key: rapid.OneOf(part, rapid.String()).Draw(rt, "key"),
				kind: rapid.SampledFrom([]string{"", ratelimit.SlidingWindow, ratelimit.FixedWindow}).Draw(rt, "kind"),
			}
			if c.kind != "" {
				c.window = rapid.SampledFrom([]time.Duration{time.Millisecond, 1001 * time.Microsecond, time.Second, time.Minute, time.Hour}).Draw(rt, "window")
			}
			return c, redisstore.CountKey(c.prefix, &ratelimit.Policy{Scope: c.scope, Name: c.name, Unit: c.unit, Algorithm: c.kind, Window: c.window}, c.key)
		}
		seen := map[string]tuple{}
		rapid.Check(t, func(rt *rapid.T) {
			c, key := draw(rt)
			if other, ok := seen[key]; ok && other != c {
				rt.Fatalf("%q is the key of %+v and of %+v", key, other, c)
			}
			if len(seen) < 100_000 {
				seen[key] = c
			}
		})
	})
	t.Run("knows the slots of a cluster", func(t *testing.T) {
		// The vectors of the Redis Cluster specification and of CLUSTER KEYSLOT.
		for key, want := range map[string]uint16{
			"123456789": 0x31c3, "somekey": 11058, "foo{hash_tag}": 2515, "{user1000}.following": 3443, "{user1000}.followers": 3443, "foo{}{bar}": 8363, "foo{{bar}}zap": 4015,
		} {
			if got := redisstore.SlotOf(key); got != want {
				t.Errorf("%s: slot %d, want %d", key, got, want)
			}
		}
	})
}

func TestURL(t *testing.T) {
	t.Run("reads every form", func(t *testing.T) {
		for raw, want := range map[string]redisstore.Address{
			"redis://h":                           {Kind: redisstore.Single, Hosts: []string{"h:6379"}},
			"redis://h:1/15":                      {Kind: redisstore.Single, Hosts: []string{"h:1"}, DB: 15},
			"redis://:p%40ss@h":                   {Kind: redisstore.Single, Hosts: []string{"h:6379"}, Password: "p@ss"},
			"rediss://u:p:q@[::1]:7/0":            {Kind: redisstore.Single, Hosts: []string{"[::1]:7"}, TLS: true, User: "u", Password: "p:q"},
			"redis://[2001:db8::1]":               {Kind: redisstore.Single, Hosts: []string{"[2001:db8::1]:6379"}},
			"redis+cluster://u:p@h1,h2:7001":      {Kind: redisstore.Cluster, Hosts: []string{"h1:6379", "h2:7001"}, User: "u", Password: "p"},
			"rediss+cluster://h1/0":               {Kind: redisstore.Cluster, Hosts: []string{"h1:6379"}, TLS: true},
			"redis+sentinel://m@h1,h2:1/3":        {Kind: redisstore.Sentinel, Hosts: []string{"h1:26379", "h2:1"}, Master: "m", DB: 3},
			"redis+sentinel://u:p@my-master@h1/0": {Kind: redisstore.Sentinel, Hosts: []string{"h1:26379"}, Master: "my-master", User: "u", Password: "p"},
			"rediss+sentinel://:p@m@h1?sentinel_user=s&sentinel_password=%23": {
				Kind: redisstore.Sentinel, Hosts: []string{"h1:26379"}, Master: "m", TLS: true, Password: "p", SentinelUser: "s", SentinelPassword: "#",
			},
		} {
			got, err := redisstore.ParseURL(raw)
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s\n got %+v %v\nwant %+v", raw, got, err, want)
			}
		}
	})
	t.Run("says what is wrong, and never the password", func(t *testing.T) {
		const schemes = "want redis://host:6379/0, rediss:// for TLS, redis+cluster://host,host or redis+sentinel://master@host,host/0"
		const login = "want user:password@ or :password@ before the host, with %40 for @, %2F for / and %25 for %"
		const master = "want the name of the master before the hosts, as in redis+sentinel://mymaster@host,host/0"
		for raw, want := range map[string]string{
			"":                              schemes,
			"redis:h":                       schemes,
			"memory:":                       schemes,
			"redis://":                      `host "": want host:port with a port from 1 to 65535`,
			"redis://h:0":                   `host "h:0": want host:port with a port from 1 to 65535`,
			"redis://h:70000":               `host "h:70000": want host:port with a port from 1 to 65535`,
			"redis://::1":                   `host "::1": want host:port, and an IPv6 address in brackets`,
			"redis://h1,h2":                 `"h1,h2": want one host with redis://, or redis+cluster://, or redis+sentinel://`,
			"redis://h/":                    `database "": want its number after the /, for example 0`,
			"redis://h/x":                   `database "x": want its number after the /, for example 0`,
			"redis+cluster://h/1":           "database 1: want 0 or none: a cluster has no others",
			"redis+cluster://h1,,h2":        `host "": want host:port with a port from 1 to 65535`,
			"redis://secret@h":              login,
			"redis://u:se%zzcret@h":         login,
			"redis://secret:secret@m@h":     login,
			"redis+sentinel://h1,h2/0":      master,
			"redis+sentinel://u:secret@h":   master,
			"redis://h?db=1":                `parameter "db": want none: only redis+sentinel:// has parameters`,
			"redis+sentinel://m@h?secret=1": `parameter "secret": want sentinel_user or sentinel_password`,
		} {
			if _, err := redisstore.ParseURL(raw); err == nil || err.Error() != want {
				t.Errorf("%s\n got %v\nwant %s", raw, err, want)
			}
		}
	})
	t.Run("names an address without its passwords", func(t *testing.T) {
		for raw, want := range map[string]string{
			"redis://u:secret@h":     "redis://h:6379/0",
			"rediss+cluster://h1,h2": "rediss+cluster://h1:6379,h2:6379/0",
			"redis+sentinel://u:secret@m@h1,h2/3?sentinel_password=secret": "redis+sentinel://m@h1:26379,h2:26379/3",
		} {
			a, err := redisstore.ParseURL(raw)
			if err != nil || a.String() != want || fmt.Sprint(a) != want {
				t.Errorf("%s\n got %s %v\nwant %s", raw, a, err, want)
			}
		}
	})
}

func FuzzParseURL(f *testing.F) {
	for _, raw := range []string{"redis://u:p@h:1/2", "redis+cluster://h1,h2", "redis+sentinel://u:p@m@[::1]:1,h/0?sentinel_password=x", "://@,/?", "redis://%"} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		a, err := redisstore.ParseURL(raw)
		if err != nil {
			return
		}
		// What is printed can be read, and means the same but for the login.
		b, err := redisstore.ParseURL(a.String())
		a.User, a.Password, a.SentinelUser, a.SentinelPassword = "", "", "", ""
		if err != nil || !reflect.DeepEqual(a, b) {
			t.Fatalf("%q is %+v, and %q is %+v %v", raw, a, a.String(), b, err)
		}
	})
}
