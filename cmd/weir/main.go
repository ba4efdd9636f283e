// Weir is an inference gateway: rate limits, caching and protection for any
// model API. Run "weir serve" to try it, "weir --help" for what else there is.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/alecthomas/kong"
)

// The exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// commands is the command line.
type commands struct {
	Serve   serveCommand   `cmd:"" help:"Serve the configuration; without one, the built-in models on 127.0.0.1:8080."`
	Check   checkCommand   `cmd:"" help:"Report every mistake of a configuration."`
	Explain explainCommand `cmd:"" help:"Tell every decision about a request, with its reason, and count nothing."`
	Key     keyCommand     `cmd:"" help:"Make, list, revoke and replace the keys of callers."`
	Load    loadCommand    `cmd:"" help:"Send load to a server, once or over several configurations, and report."`
	Purge   purgeCommand   `cmd:"" help:"Remove answers from the cache of a running Weir."`
	Replay  replayCommand  `cmd:"" help:"Tell what another configuration would have made of the requests in an access log."`
	Sign    signCommand    `cmd:"" help:"Print a link to a blob."`
	Warm    warmCommand    `cmd:"" help:"Send the requests of a file to a running Weir, so that their answers are in its cache."`
	Version versionCommand `cmd:"" help:"Print the version."`
}

// output is where a command writes: results to stdout, messages to stderr.
type output struct {
	stdout, stderr io.Writer
}

func main() {
	os.Exit(run(interruptible(), os.Args[1:], output{os.Stdout, os.Stderr}))
}

// run runs one command line and returns its exit status.
func run(ctx context.Context, args []string, out output) int {
	var c commands
	exited := -1
	parser, err := kong.New(&c,
		kong.Name("weir"),
		kong.Description("An inference gateway: rate limits, caching and protection for any model API."),
		kong.Writers(out.stdout, out.stderr),
		kong.Help(showHelp),
		kong.Exit(func(status int) { exited = status }),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(out),
	)
	if err != nil {
		return fail(out, err)
	}
	parsed, err := parser.Parse(args)
	switch {
	case exited >= 0: // --help
		return exited
	case err != nil:
		fmt.Fprintf(out.stderr, "weir: %s\nTry \"weir --help\".\n", misused(err))
		return exitUsage
	}
	if err := parsed.Run(); err != nil {
		return fail(out, err)
	}
	return exitOK
}

// misused is what is wrong with a command line. Where answers are purged nothing is
// suggested: a slip of the finger is near --all.
func misused(err error) string {
	text := lacking(strings.TrimPrefix(err.Error(), "load run: ")) // nobody has to type run
	parse, ok := errors.AsType[*kong.ParseError](err)
	if !ok || parse.Context.Selected() == nil || parse.Context.Selected().Name != "purge" {
		return text
	}
	text, _, _ = strings.Cut(text, ", did you mean ")
	if text == "unknown flag --url" { // the flag of weir warm
		text += ": it is the admin listener that purges: want its address, with --admin URL"
	}
	return text
}

// lacking says plainly that a flag has another one in place of its value: --rate -5. The
// parser calls that an expected value value.
func lacking(text string) string {
	flag, said, ok := strings.Cut(text, ": expected ")
	_, got, known := strings.Cut(said, " but got ")
	got, try, isFlag := strings.Cut(got, " flag); perhaps try ")
	if !ok || !known || !isFlag {
		return text
	}
	got, _, _ = strings.Cut(got, " (")
	return fmt.Sprintf("%s: %s is read as another flag: want a value, or %s if that is the value", flag, got, strings.TrimSuffix(try, "?"))
}

// errReported ends a command that has said already what is wrong.
var errReported = errors.New("reported")

// misuse is what is wrong with a command line that only the command itself can judge.
type misuse struct{ error }

func (m misuse) Unwrap() error { return m.error }

func fail(out output, err error) int {
	if !errors.Is(err, errReported) {
		fmt.Fprintf(out.stderr, "weir: %v\n", err)
	}
	if _, misused := errors.AsType[misuse](err); misused {
		return exitUsage
	}
	return exitFailed
}
