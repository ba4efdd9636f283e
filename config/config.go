// Package config reads Weir's configuration: one YAML file as plain structs.
//
// It is strict: a key that does not exist, a value out of range or a name that
// leads nowhere is a Mistake with its line, and every mistake of a file is
// reported at once. Every default is filled in, so that a Config from Load or
// Parse is what Weir does, and Config.YAML prints it.
package config

import (
	_ "embed" // for builtin.yaml
	"fmt"
	"io"
	"os"
	"time"
)

// Config is a whole configuration file.
type Config struct {
	// Listen is the address for callers, host:port. Without a host it is every
	// address of the machine; port 0 takes any free port. Default
	// 127.0.0.1:8080.
	Listen string `yaml:"listen" default:"127.0.0.1:8080"`
	// TLS makes Listen speak HTTPS. nil, the default, is plain HTTP.
	TLS *TLS `yaml:"tls"`
	// Admin is the second listener, for operators.
	Admin Admin `yaml:"admin"`
	// Decide is the third listener, which answers whether a request of somebody
	// else's proxy may go on. nil, the default, is none.
	Decide *Decide `yaml:"decide"`
	// Store keeps what requests share: the counts of policies.
	Store Store `yaml:"store"`
	// Database keeps keys, usage, jobs and overrides. nil, the default, is none:
	// keys are those of this file, and there are no jobs.
	Database *Database `yaml:"database"`
	// Blobs keeps what is large. nil is none; where a route has OffloadOver or
	// RespondAsync it is there with its defaults.
	Blobs *Blobs `yaml:"blobs"`
	// Jobs says how long jobs live. It counts with Database.
	Jobs Jobs `yaml:"jobs" with:"Database"`
	// Instances is how many processes with this configuration share the Store
	// and the Database: while the Store is away, each of them enforces its share of
	// every quota. Default 1, from 1 to 10000.
	Instances int `yaml:"instances" default:"1" min:"1" max:"10000"`
	// Callers says who is calling.
	Callers Callers `yaml:"callers"`
	// Plans are what callers may use, by name. The plan "default" is that of a
	// caller without one; where it is absent, such a caller has no plan limit.
	Plans map[string]Plan `yaml:"plans"`
	// Prices are what models cost, by the name of the model, or with a * at its end
	// the beginning of it; "*" alone is every other model. The longest that fits
	// counts. Default none, and nothing has a cost.
	Prices map[string]Price `yaml:"prices"`
	// Upstreams are the model APIs, by name.
	Upstreams map[string]Upstream `yaml:"upstreams"`
	// Cache is what the caches of all routes share.
	Cache Cache `yaml:"cache"`
	// Routes say which request goes where. The first that matches wins. At
	// least one.
	Routes []Route `yaml:"routes"`
	// Limits bound what a client may send before anybody knows who it is.
	Limits Limits `yaml:"limits"`
	// Telemetry is what Weir says about itself.
	Telemetry Telemetry `yaml:"telemetry"`
	// ShutdownGrace is how long running requests may finish after a signal to
	// stop. 0s cuts them off at once. Default 30s.
	ShutdownGrace time.Duration `yaml:"shutdown_grace" default:"30s"`
}

// TLS names the two files of a certificate, in PEM form.
type TLS struct {
	// Cert is the file with the certificate and its chain. Required.
	Cert string `yaml:"cert" required:"the file with the certificate chain" unless:"acme"`
	// Key is the file with the private key. Required.
	Key string `yaml:"key" required:"the file with the private key" unless:"acme"`
}

// Admin is the listener with metrics, health and the admin API.
type Admin struct {
	// Listen is its address, host:port. It may not be that of Config.Listen.
	// Default 127.0.0.1:8081.
	Listen string `yaml:"listen" default:"127.0.0.1:8081"`
	// Token is what a request to the admin API presents. Required when Listen
	// is not loopback. "", the default, asks for none.
	Token string `yaml:"token" secret:"true"`
}

// Decide is the listener that only decides: it is asked about requests that
// another proxy forwards, and calls no upstream.
type Decide struct {
	// Listen is its address, host:port. It may be neither that of Config.Listen
	// nor that of Admin.Listen. Default 127.0.0.1:8082.
	Listen string `yaml:"listen" default:"127.0.0.1:8082"`
}

// Limits bound what a connection may cost before its request is understood.
type Limits struct {
	// HeaderBytes is the largest request header. Default 64KiB, from 1KiB to
	// 16MiB.
	HeaderBytes Size `yaml:"header_bytes" default:"64KiB" min:"1KiB" max:"16MiB"`
	// Headers is how many header fields a request may have. Default 100, from
	// 1 to 10000.
	Headers int `yaml:"headers" default:"100" min:"1" max:"10000"`
	// URLBytes is the longest URL. Default 8KiB, from 64 to 1MiB.
	URLBytes Size `yaml:"url_bytes" default:"8KiB" min:"64" max:"1MiB"`
	// HeaderTimeout is how long a client may take to send its header. Default
	// 10s, at least 1ms.
	HeaderTimeout time.Duration `yaml:"header_timeout" default:"10s" min:"1ms"`
	// BodyMinRate is how slowly a client may send its body, in bytes per
	// second, written "1KiB/s". "0/s" allows any pace. Default 1KiB/s.
	BodyMinRate Size `yaml:"body_min_rate" default:"1KiB/s" rate:"true"`
	// JSONDepth is how deep a JSON body may nest where Weir reads it. Default
	// 100, from 1 to 10000.
	JSONDepth int `yaml:"json_depth" default:"100" min:"1" max:"10000"`
	// AuthFailures is how many keys and tokens that are not valid the addresses
	// of one Callers.IPPrefix may present in a minute; expired tokens count, too.
	// Beyond it valid ones from there are refused as well, for a while. All clients
	// of a proxy that is not in Callers.TrustedProxies have its address. 0 is any
	// number. Default 30.
	AuthFailures int `yaml:"auth_failures" default:"30" min:"0"`
}

// Telemetry is what Weir says about itself.
type Telemetry struct {
	// Log is the log on standard error.
	Log Log `yaml:"log"`
	// OTLP is where traces and metrics are sent. nil, the default, is nowhere.
	OTLP *OTLP `yaml:"otlp"`
	// Traces is the share of requests that are traced where the caller has not decided,
	// by a traceparent. Default 0.01, from 0 to 1, with four decimals at most. It counts
	// with OTLP.
	Traces float64 `yaml:"traces" default:"0.01" zero:"true" with:"OTLP"`
}

// Log is the log on standard error.
type Log struct {
	// Level is the least severe level that is written: debug, info, warn or
	// error. Default info.
	Level string `yaml:"level" default:"info"`
	// Sample is the share of the requests that went well of which there is a line; all
	// others have one. Default 1, from 0 to 1, with four decimals at most.
	Sample float64 `yaml:"sample" default:"1" zero:"true"`
	// Redact are the members of a line whose values are not written: caller, client,
	// path, user_agent, model, error, request_id, cache_key, target or request. Default
	// none.
	Redact []string `yaml:"redact"`
}

// OTLP is a collector of OpenTelemetry.
type OTLP struct {
	// Endpoint is the URL of the collector, for OTLP over HTTP, such as
	// http://127.0.0.1:4318, without user, query and fragment. /v1/traces and /v1/metrics
	// are added. Required.
	Endpoint string `yaml:"endpoint" required:"a URL, for example http://127.0.0.1:4318"`
	// Headers are sent with everything. Their values are secrets: no message and no
	// print-out shows them. Default none.
	Headers map[string]string `yaml:"headers" secret:"true"`
}

//go:embed builtin.yaml
var builtinYAML string

// Builtin returns the configuration of a Weir that was given none: the YAML,
// with comments, to start from. The caller owns the bytes.
func Builtin() []byte { return []byte(builtinYAML) }

// Load reads the file at path, and ${NAME} from the environment of the
// process. The error is Mistakes where the file could be read.
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, cause(err))
	}
	defer f.Close()
	// One byte more than allowed, so that Parse sees that it is too long.
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, cause(err))
	}
	return Parse(path, text, os.LookupEnv)
}

// Parse reads a configuration from text. The name stands in messages, and
// lookup gives the value of ${NAME}; without lookup no name has one.
// ${file:/path} is read from disk. The error, if any, is Mistakes.
func Parse(name string, text []byte, lookup func(string) (string, bool)) (*Config, error) {
	c := &Config{}
	d := newDecoder(name, lookup)
	if root := parseYAML(text, d.collector, "the file is empty: want at least upstreams and routes"); root != nil && d.decode(root, c) {
		complete(c, d.nodes)
		check(c, d)
	}
	if err := d.err(); err != nil {
		return nil, err
	}
	return c, nil
}
