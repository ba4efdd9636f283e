package config

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// Matrix is a plan of load tests: one load, run over several configurations.
type Matrix struct {
	// Load is what each run sends.
	Load MatrixLoad `yaml:"load" required:"what to send, for example {rate: 50, url: /v1/models}"`
	// Config is the configuration file that the runs have in common. A relative path is
	// relative to the directory of the matrix. Required.
	Config string `yaml:"config" required:"a configuration file, for example weir.yaml"`
	// Runs are the configurations. From 1 to 32.
	Runs []MatrixRun `yaml:"runs" required:"a list of runs, for example [{name: as it is}]"`
}

// MatrixLoad is what each run of a Matrix sends.
type MatrixLoad struct {
	// Rate is how many requests a second are sent, whether those before have been answered
	// or not. 0 where Concurrency is set; else above 0 and at most 1000000.
	Rate float64 `yaml:"rate" number:"true"`
	// Concurrency, in place of Rate, is how many requests run at the same time, each of
	// which is followed by the next one. From 1 to 100000.
	Concurrency int `yaml:"concurrency" min:"1" max:"100000"`
	// Ramps are changes of the rate, one after the other, before Rate: FROM:TO:DURATION, for
	// example 10:500:30s. What their parts may be is for who sends them to say. At most 99.
	// Default none.
	Ramps []string `yaml:"ramps"`
	// Arrivals is constant, the default, for requests at equal distances, or poisson, for
	// random ones.
	Arrivals string `yaml:"arrivals" default:"constant"`
	// Duration is how long each run sends. Default 20s, from 1s to 24h. With Ramps and
	// without Rate it holds the last rate, and the default is 0: a run ends with its ramps.
	Duration time.Duration `yaml:"duration" default:"20s" min:"1s" max:"24h"`
	// URL is the path that is asked for, with its query. Required.
	URL string `yaml:"url" required:"a path, for example /v1/chat/completions"`
	// Method is that of the requests. Default POST with a Body, else GET.
	Method string `yaml:"method"`
	// Body is the file with the body. A relative path is relative to the directory of the
	// matrix. "", the default, is no body.
	Body string `yaml:"body"`
	// Headers are sent with each request. Their values are secrets, as those of
	// Upstream.SetHeaders. Default none.
	Headers map[string]string `yaml:"headers" secret:"true"`
	// Callers is how many callers the requests are of, by turns. Default 1, from 1 to
	// 1000000.
	Callers int `yaml:"callers" default:"1" min:"1" max:"1000000"`
	// Stream says that the answers are event streams. Default false.
	Stream bool `yaml:"stream" default:"false"`
	// SLO is a service level, one condition an item: p95<300ms, ttft<1s or itl_p99<80ms.
	// What a condition may be is for who measures it to say. At most 20. Default none.
	SLO []string `yaml:"slo"`
}

// MatrixRun is one configuration of a Matrix.
type MatrixRun struct {
	// Name stands in the table. 1 to 128 printable characters. Required, unique.
	Name string `yaml:"name" required:"a name, for example no cache"`
	// Set are the values that replace those of the file, by their paths, as ApplySets
	// takes them: texts, []any and map[string]any as they were written, and nil for null. At
	// most 100. Default none.
	Set map[string]any `yaml:"set"`
	// Env are variables of the environment that the process has besides its own. At most
	// 100. Default none.
	Env map[string]string `yaml:"env"`
}

// What a Matrix may have of runs, and each of them of values and variables.
const (
	maxRuns       = 32
	maxSets       = 100
	maxRamps      = 99
	maxObjectives = 20
)

// MatrixCheck looks at what a Matrix sends, where the forms of its texts are not a matter of
// this package. It calls wrong for each mistake, with the path of the key, for example
// load.ramps[0], and what would be right. A key that has a mistake already gets no second
// one.
type MatrixCheck func(load *MatrixLoad, wrong func(path, want string))

// ParseMatrix reads a Matrix from YAML, as strictly as Parse a configuration. The name stands
// in messages. ${NAME} is the environment of the process and ${file:/path} read from disk, but
// not in the values of set: they become part of the configuration, where the same is done.
// The checks see load as far as it could be read. The error, if any, is Mistakes.
func ParseMatrix(name string, text []byte, checks ...MatrixCheck) (*Matrix, error) {
	m := &Matrix{}
	d := newDecoder(name, os.LookupEnv)
	d.later, d.choices = nil, map[string]choice{"load.method": choices()["routes[].match.methods[]"], "load.arrivals": {"constant", "poisson"}}
	if root := parseYAML(text, d.collector, "the file is empty: want load, config and runs"); root != nil {
		p := place{line: lineOf(root)}
		setDefaults(reflect.ValueOf(m).Elem())
		if _, ok := root.(*ast.MappingNode); !ok {
			d.add(p.line, "", "", "want a mapping: load, config and runs")
		} else {
			d.value(p, root, reflect.ValueOf(m).Elem())
			k := &checker{d}
			k.matrix(m)
			for _, check := range checks {
				check(&m.Load, k.fail)
			}
		}
	}
	if err := d.err(); err != nil {
		return nil, err
	}
	return m, nil
}

func (k *checker) matrix(m *Matrix) {
	k.load(&m.Load)
	k.printable("config", m.Config)
	if n := len(m.Runs); k.clean("runs") && (n == 0 || n > maxRuns) {
		k.fail("runs", fmt.Sprintf("%d runs: want from 1 to %d", n, maxRuns))
		return
	}
	first := map[string]int{}
	for i, r := range m.Runs {
		path := fmt.Sprintf("runs[%d]", i)
		if at := path + ".name"; k.printable(at, r.Name) {
			if len(r.Name) > maxName {
				k.fail(at, fmt.Sprintf("want at most %d bytes", maxName))
			}
			if was, twice := first[r.Name]; twice {
				k.fail(at, fmt.Sprintf("the same name as runs[%d]: want one of its own", was))
			} else {
				first[r.Name] = i
			}
		}
		if n := len(r.Set); n > maxSets {
			k.fail(path+".set", fmt.Sprintf("%d values: want at most %d", n, maxSets))
		}
		if n := len(r.Env); n > maxSets {
			k.fail(path+".env", fmt.Sprintf("%d variables: want at most %d", n, maxSets))
		}
		for _, name := range slices.Sorted(maps.Keys(r.Env)) {
			if at := path + ".env." + shownKey(name); !isEnvName(name) && k.clean(at) {
				k.fail(at, "want the name of a variable, for example GOMAXPROCS")
			}
		}
	}
}

// load checks what is sent, and fills in the method.
func (k *checker) load(l *MatrixLoad) {
	switch {
	case !k.clean("load"):
	case l.Rate > 0 && l.Concurrency > 0:
		k.fail("load.concurrency", "has no effect with rate, which sends whether there are answers or not: want one of the two")
	case l.Rate == 0 && l.Concurrency == 0 && len(l.Ramps) == 0:
		k.fail("load", "want rate, how many requests a second, or concurrency, how many at the same time")
	}
	if l.Concurrency > 0 && len(l.Ramps) > 0 {
		k.fail("load.ramps", "has no effect with concurrency, which has no rate: want one of the two")
	}
	if l.Concurrency > 0 && k.said("load.arrivals") {
		k.fail("load.arrivals", "has no effect with concurrency, which sends when there is an answer: want one of the two")
	}
	if n := len(l.Ramps); n > maxRamps {
		k.fail("load.ramps", fmt.Sprintf("%d ramps: want at most %d", n, maxRamps))
	}
	if n := len(l.SLO); n > maxObjectives {
		k.fail("load.slo", fmt.Sprintf("%d conditions: want at most %d", n, maxObjectives))
	}
	if len(l.Ramps) > 0 && l.Rate == 0 && !k.said("load.duration") {
		l.Duration = 0
	}
	if k.printable("load.url", l.URL) && !strings.HasPrefix(l.URL, "/") {
		k.fail("load.url", "want a path that begins with /, for example /v1/chat/completions: each run has a server of its own")
	}
	k.printable("load.body", l.Body)
	k.setHeaders("load.headers.", l.Headers)
	switch {
	case l.Method != "":
	case l.Body != "":
		l.Method = "POST"
	default:
		l.Method = "GET"
	}
}

// anything decodes a value of any kind as it is written.
func (d *decoder) anything(p place, n ast.Node) any {
	if text, ok := scalarText(n); ok {
		return text
	}
	switch n := n.(type) {
	case *ast.NullNode:
		return nil
	case *ast.MappingNode:
		m := map[string]any{}
		for _, e := range d.entries(p, n, "want a mapping") {
			m[e.key] = d.anything(p.key(shownKey(e.key), "*", e.line, rule{}), e.value)
		}
		return m
	case *ast.SequenceNode:
		list := []any{}
		for i, item := range n.Values {
			list = append(list, d.anything(p.item(i, lineOf(item)), item))
		}
		return list
	}
	d.add(p.line, p.path, "", "anchors, aliases and tags are not supported: write the value out")
	return nil
}
