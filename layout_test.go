package weir_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/inferweir/weir"

// concepts are the packages that know nothing of each other.
var concepts = []string{"auth", "ratelimit", "cache", "admission", "upstream", "dialect", "semantic", "job", "blob"}

// mayImport is the layout: which of our packages a package may import, besides
// the root and the two leaves internal/sse and internal/jsonscan. A package that
// is not here must not be. To change it is to change the design: say why in the
// commit.
var mayImport = map[string][]string{
	".":                 {},
	"internal/sse":      {},
	"internal/jsonscan": {},
	"auth":              {},
	"ratelimit":         {},
	"cache":             {},
	"admission":         {},
	"upstream":          {},
	"dialect":           {},
	"semantic":          {},
	"job":               {},
	"blob":              {},
	"redisstore":        {"ratelimit", "cache", "admission"},
	"database":          {"auth", "job"},
	"storetest":         concepts,
	"config":            concepts,
	"telemetry":         concepts,
	"gateway":           append([]string{"redisstore", "database", "config", "telemetry"}, concepts...),
	"builtin":           {},
	"builtin/embedfile": {}, // makes the data file of one of its models
	"rls":               {"ratelimit"},
	"internal/admin":    {"gateway", "config", "database", "auth"},
	"internal/loadtest": {},
	"internal/sim":      {"admission"},
	"cmd/weir":          {"*"},
	"cmd/fakeengine":    {"*"},
	"examples":          {"*"},
}

// noRoot are the packages that do not even import the root.
var noRoot = []string{"internal/sse", "internal/jsonscan"}

// owner says which package alone may import a library outside of tests. Only the
// reader of structured fields has two: siblings do not share one.
var owner = map[string]string{
	"github.com/goccy/go-yaml":                   "config",
	"github.com/prometheus/client_golang":        "telemetry",
	"github.com/cespare/xxhash":                  "telemetry",
	"github.com/HdrHistogram/hdrhistogram-go":    "internal/loadtest",
	"github.com/chromedp":                        "", // tests only
	"google.golang.org/protobuf":                 "", // tests only
	"go.opentelemetry.io":                        "telemetry",
	"github.com/jonreiter/govader":               "builtin",
	"github.com/alecthomas/kong":                 "cmd/weir",
	"github.com/redis/rueidis":                   "redisstore",
	"github.com/jackc/pgx":                       "database",
	"modernc.org/sqlite":                         "database",
	"gocloud.dev":                                "blob",
	"github.com/aws":                             "blob",
	"cloud.google.com/go":                        "blob", // with the tag cloud
	"github.com/Azure":                           "blob", // likewise
	"github.com/google/uuid":                     "job",
	"github.com/johannesboyne/gofakes3":          "", // tests only
	"github.com/standard-webhooks":               "", // tests only
	"pgregory.net/rapid":                         "storetest",
	"go.uber.org/goleak":                         "", // tests only
	"github.com/coreos/go-oidc":                  "auth",
	"github.com/go-jose/go-jose":                 "auth", // tests
	"github.com/dunglas/httpsfv":                 "ratelimit cache",
	"github.com/rogpeppe/go-internal/testscript": "",
}

// file is one Go file of the module, parsed without its function bodies' types.
type file struct {
	dir, name string
	test      bool
	syntax    *ast.File
}

func files(t *testing.T) []file {
	t.Helper()
	var all []file
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if _, err := os.Stat(filepath.Join(p, "go.mod")); err == nil && p != "." || d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") && p != "." {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		syntax, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		all = append(all, file{dir: filepath.ToSlash(filepath.Dir(p)), name: d.Name(), test: strings.HasSuffix(p, "_test.go"), syntax: syntax})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func imports(f file) []string {
	var paths []string
	for _, spec := range f.syntax.Imports {
		paths = append(paths, strings.Trim(spec.Path.Value, `"`))
	}
	return paths
}

// layoutOf is the row of a package: examples share one.
func layoutOf(dir string) (string, []string, bool) {
	if strings.HasPrefix(dir, "examples/") {
		dir = "examples"
	}
	allowed, ok := mayImport[dir]
	return dir, allowed, ok
}

func TestLayout(t *testing.T) {
	all := files(t)
	if len(all) < 50 {
		t.Fatalf("found only %d files", len(all))
	}
	for _, f := range all {
		dir, allowed, ok := layoutOf(f.dir)
		if !ok {
			t.Errorf("%s: package %s is not in the layout", f.name, f.dir)
			continue
		}
		for _, p := range imports(f) {
			own, isOurs := strings.CutPrefix(p, module)
			switch {
			case !isOurs:
				checkLibrary(t, f, p)
				continue
			case own == "" && !slices.Contains(noRoot, dir), f.test && own == "/"+f.dir, f.test && own == "/storetest":
				continue
			}
			own = strings.TrimPrefix(own, "/")
			if own == "internal/sse" || own == "internal/jsonscan" || slices.Contains(allowed, "*") || slices.Contains(allowed, own) {
				continue
			}
			if f.test && f.dir == "gateway" && own == "builtin" {
				continue // what the command puts together, put together
			}
			t.Errorf("%s/%s: %s may not import %q", f.dir, f.name, dir, p)
		}
	}
}

func checkLibrary(t *testing.T, f file, importPath string) {
	t.Helper()
	first, _, _ := strings.Cut(importPath, "/")
	if !strings.Contains(first, ".") || f.test {
		return // the standard library; tests may use what they need
	}
	for library, dir := range owner {
		if importPath == library || strings.HasPrefix(importPath, library+"/") {
			if f.dir != dir && !slices.Contains(strings.Fields(dir), f.dir) {
				t.Errorf("%s/%s: only %q may import %s", f.dir, f.name, dir, library)
			}
			return
		}
	}
	t.Errorf("%s/%s: %s is nobody's: give it one owner here, and a line in docs/dependencies.md", f.dir, f.name, importPath)
}

func TestProductCode(t *testing.T) {
	comments := map[string][]string{}
	code := map[string]bool{}
	for _, f := range files(t) {
		at := path.Join(f.dir, f.name)
		if f.test {
			continue
		}
		if strings.Contains(f.name, "_test") {
			t.Errorf("%s: a test file must end in _test.go, or it never runs and is part of the product", at)
		}
		code[f.dir] = true
		if f.syntax.Doc != nil {
			comments[f.dir] = append(comments[f.dir], f.name)
		}
		if slices.Contains(imports(f), "testing") && f.dir != "storetest" {
			t.Errorf("%s: imports testing", at)
		}
		for _, d := range f.syntax.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && d.Name.Name == "init" {
					t.Errorf("%s: has an init function", at)
				}
			case *ast.GenDecl:
				checkVariables(t, at, d)
			}
		}
	}
	for dir := range code {
		if len(comments[dir]) != 1 {
			t.Errorf("%s: want exactly one package comment, found it in %v", dir, comments[dir])
		}
	}
}

// checkVariables refuses package variables that something could change: errors,
// and what the compiler fills in, are none.
func checkVariables(t *testing.T, at string, d *ast.GenDecl) {
	t.Helper()
	if d.Tok != token.VAR || d.Doc != nil && strings.Contains(d.Doc.Text(), "go:embed") {
		return
	}
	for _, spec := range d.Specs {
		v := spec.(*ast.ValueSpec)
		for _, name := range v.Names {
			lower := strings.ToLower(name.Name)
			if name.Name == "_" || strings.HasPrefix(lower, "err") || embedded(d, v) {
				continue
			}
			t.Errorf("%s: package variable %s: want a constant, a function or a field", at, name.Name)
		}
	}
}

func embedded(d *ast.GenDecl, v *ast.ValueSpec) bool {
	for _, group := range []*ast.CommentGroup{d.Doc, v.Doc} {
		if group == nil {
			continue
		}
		for _, c := range group.List {
			if strings.HasPrefix(c.Text, "//go:embed") {
				return true
			}
		}
	}
	return false
}
