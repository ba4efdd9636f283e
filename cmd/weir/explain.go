package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/inferweir/weir/config"
	"github.com/inferweir/weir/gateway"
)

type explainCommand struct {
	Path   string   `arg:"" help:"The path of the request, with its query."`
	Config file     `short:"c" xor:"from" placeholder:"FILE" help:"The configuration to ask; without it and --admin, the built-in one."`
	Admin  baseURL  `xor:"from" placeholder:"URL" help:"The admin.listen of a running Weir, to ask that: it knows what is used and stored. Its admin.token is read from the variable WEIR_ADMIN_TOKEN."`
	Method string   `short:"X" placeholder:"METHOD" help:"The method; without it GET, or POST with a body."`
	Header []string `sep:"none" placeholder:"'K: V'" help:"A field of the request; may be repeated. Host is the request's host."`
	Body   *string  `placeholder:"TEXT|@FILE" help:"The body, or @ and the file that it is in; @- is the standard input."`
	Remote string   `placeholder:"ADDRESS" help:"Where the request comes from (default 127.0.0.1)."`
	JSON   bool     `name:"json" help:"Print the explanation as JSON."`
}

// mostExplained is the most bytes of a body, and of an explanation.
const mostExplained = 10 << 20

// Run explains the request, whatever would become of it.
func (c *explainCommand) Run(ctx context.Context, out output) error {
	request, err := c.request()
	if err != nil {
		return err
	}
	var told gateway.Explanation
	if c.Admin != "" {
		told, err = c.ask(ctx, request)
	} else {
		told, err = c.explain(ctx, request, out)
	}
	if err != nil {
		return err
	}
	if c.JSON {
		e := json.NewEncoder(out.stdout)
		e.SetEscapeHTML(false)
		return e.Encode(told)
	}
	return printExplanation(out.stdout, told)
}

// request is what the command line asks about.
func (c *explainCommand) request() (gateway.ExplainRequest, error) {
	r := gateway.ExplainRequest{Method: c.Method, Path: c.Path, RemoteAddr: c.Remote, Headers: map[string]string{}}
	typed := false
	for _, field := range c.Header {
		name, value, ok := strings.Cut(field, ":")
		if name = strings.TrimSpace(name); !ok || name == "" {
			return r, errors.New("--header: want a name and a value with a colon between, for example 'Accept: */*'") // which may be a secret
		}
		if _, twice := r.Headers[name]; twice {
			return r, fmt.Errorf("--header: %s: is there twice: want it once", name)
		}
		r.Headers[name] = strings.TrimSpace(value)
		typed = typed || strings.EqualFold(name, "Content-Type")
	}
	if c.Body == nil {
		return r, nil
	}
	var err error
	if r.Body, err = readBody(*c.Body); err != nil {
		return r, err
	}
	if !typed && json.Valid([]byte(r.Body)) {
		r.Headers["Content-Type"] = "application/json"
	}
	return r, nil
}

// readBody is the text of --body, or what is in the file that it names.
func readBody(text string) (string, error) {
	name, isFile := strings.CutPrefix(text, "@")
	if !isFile {
		return text, nil
	}
	in := os.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", fmt.Errorf("--body: %w", err)
		}
		defer f.Close()
		in = f
	}
	body, err := io.ReadAll(io.LimitReader(in, mostExplained+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("--body: %w", err)
	case len(body) > mostExplained:
		return "", fmt.Errorf("--body: %s: has more than %d bytes: want at most that", text, mostExplained)
	}
	return string(body), nil
}

// explain asks a gateway that is made of the file for just that.
func (c *explainCommand) explain(ctx context.Context, r gateway.ExplainRequest, out output) (gateway.Explanation, error) {
	cfg, err := load(c.Config, out)
	if err != nil {
		return gateway.Explanation{}, err
	}
	// Nothing is sent: neither are probes.
	quiet := *cfg
	quiet.Upstreams = maps.Clone(cfg.Upstreams)
	for name, u := range quiet.Upstreams {
		u.Probe, u.Engine = nil, nil
		quiet.Upstreams[name] = u
	}
	quiet.Telemetry.OTLP = nil
	g, err := gateway.New(&quiet, gateway.Options{Check: true, Models: http.NotFoundHandler(), Version: version()})
	if err != nil {
		return gateway.Explanation{}, fmt.Errorf("%s: %w", c.Config, err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = g.Close(closing) // nothing was written
	}()
	told, err := g.Explain(ctx, r)
	if mistakes, ok := errors.AsType[config.Mistakes](err); ok {
		fmt.Fprintln(out.stderr, mistakes)
		return told, errReported
	}
	if err == nil {
		fmt.Fprintln(out.stderr, c.note(cfg))
	}
	return told, err
}

// note says what an explanation of a file alone does not know.
func (c *explainCommand) note(cfg *config.Config) string {
	note := fmt.Sprintf("%s, as after a start: nothing is used of any quota, nothing is stored, nothing waits", c.Config)
	if cfg.Database != nil {
		note += "; the keys, changes and jobs of the database are not known"
	}
	return note + ". With --admin URL a running Weir explains."
}

// ask has a running Weir explain r.
func (c *explainCommand) ask(ctx context.Context, r gateway.ExplainRequest) (gateway.Explanation, error) {
	var told gateway.Explanation
	text, err := json.Marshal(r)
	if err != nil {
		return told, err
	}
	ctx, cancel := context.WithTimeout(ctx, operatorTimeout)
	defer cancel()
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, string(c.Admin)+"/api/v1/explain", bytes.NewReader(text))
	if err != nil {
		return told, err
	}
	post.Header.Set("Content-Type", "application/json")
	answer, err := c.Admin.ask(post, asking{most: mostExplained, away: "with --admin URL", missing: "want the admin.listen of a Weir of this version, with --admin URL"})
	if err != nil {
		return told, err
	}
	if err := json.Unmarshal(answer, &told); err != nil || len(told.Decisions) == 0 {
		return told, fmt.Errorf("%s: this is not the answer of an admin API: want the admin.listen of a Weir, with --admin URL", c.Admin)
	}
	return told, nil
}

// printExplanation writes a line for each decision, and below it what it was made of.
func printExplanation(w io.Writer, told gateway.Explanation) error {
	var text bytes.Buffer
	steps := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	before := ""
	for _, d := range told.Decisions {
		reason := d.Reason
		if d.Step == "answer" && reason != "" && strings.HasPrefix(before, reason) {
			reason = again(d)
		}
		before = d.Reason
		fmt.Fprintf(steps, "%s\t%s\t%s\n", d.Step, printable(d.Outcome), printable(reason))
		for _, line := range below(d) {
			fmt.Fprintf(steps, "\t\t  %s\n", printable(line))
		}
	}
	if err := steps.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(&text, "\nThe request would %s.\n", printable(told.Would))
	_, err := w.Write(text.Bytes())
	return err
}

// again says when a refusal, whose reason has been said, is over.
func again(d gateway.Decision) string {
	switch after := d.Details["retry_after_s"].(type) {
	case float64:
		text := "The same request can be answered in " + short(time.Duration(after*float64(time.Second)))
		if after < 1 {
			text += "; Retry-After is at least 1 second"
		}
		return text + "."
	case string:
		return "The same request is not allowed at any time."
	}
	return "As said above."
}

// mostBelow is how many lines stand below a decision; --json has all.
const mostBelow = 12

// below are the lines below a decision: what was looked at before it was made.
func below(d gateway.Decision) []string {
	var lines []string
	switch d.Step {
	case "route":
		for _, l := range detail[looked](d, "routes") {
			if l.Fits {
				break // those after it were not needed
			}
			lines = append(lines, fmt.Sprintf("not %s: %s", l.Route, l.Why))
		}
	case "caller":
		for _, l := range detail[looked](d, "identifiers") {
			if l.Matched {
				break
			}
			lines = append(lines, fmt.Sprintf("not by %s: %s", l.Identifier, l.Why))
		}
	case "upstream":
		lines = upstreamLines(d)
	case "policies":
		for _, p := range detail[gateway.PolicyLook](d, "policies") {
			lines = append(lines, policyLine(p))
		}
	}
	if n := len(lines) - mostBelow; n > 1 {
		lines = append(lines[:mostBelow], fmt.Sprintf("and %d more", n))
	}
	return lines
}

// upstreamLines say which targets are not open, and how the request goes out.
func upstreamLines(d gateway.Decision) (lines []string) {
	for _, t := range detail[target](d, "targets") {
		if t.State == "open" {
			continue
		}
		line := fmt.Sprintf("%s: not open (%s)", t.URL, t.State)
		if t.UntilS > 0 {
			line += ", perhaps in " + short(time.Duration(t.UntilS*float64(time.Second)))
		}
		lines = append(lines, line)
	}
	for _, one := range []struct{ name, what string }{
		{"adds", "adds"}, {"replaces", "replaces"}, {"removes", "removes"}, {"passes_credentials", "passes on the credentials in"},
	} {
		if names := detail[string](d, one.name); len(names) > 0 {
			lines = append(lines, one.what+" "+strings.Join(names, ", "))
		}
	}
	if retry, ok := d.Details["retry"].(map[string]any); ok {
		lines = append(lines, fmt.Sprintf("is sent again, up to %v attempts in all, %v", retry["attempts"], retry["when"]))
	}
	return lines
}

// target is one of the upstream's.
type target struct {
	URL    string  `json:"url"`
	State  string  `json:"state"`
	UntilS float64 `json:"until_s"`
}

// looked is something that was looked at before a decision: a route, or an identifier.
type looked struct {
	Route      string `json:"route"`
	Fits       bool   `json:"fits"`
	Identifier string `json:"identifier"`
	Matched    bool   `json:"matched"`
	Why        string `json:"why"`
}

// detail reads a list of a decision's details, which came from another process perhaps.
func detail[T any](d gateway.Decision, name string) (list []T) {
	text, err := json.Marshal(d.Details[name])
	if err != nil || json.Unmarshal(text, &list) != nil {
		return nil
	}
	return list
}

// policyLine is a policy in a line.
func policyLine(p gateway.PolicyLook) string {
	line := fmt.Sprintf("%s of %s: %s by %s", p.Name, p.Scope, p.Policy, p.By)
	if p.Unit == "nanousd" {
		line += fmt.Sprintf(", may cost %.6f USD, %.6f of %.6f left", float64(p.Cost)/1e9, float64(p.Remaining)/1e9, float64(p.Burst)/1e9)
	} else {
		line += fmt.Sprintf(", costs %d, %d of %d left", p.Cost, p.Remaining, p.Burst)
	}
	switch {
	case p.Allowed:
	case p.RetryAfterS == nil:
		line += ", never allowed"
	default:
		line += ", allowed in " + short(time.Duration(*p.RetryAfterS*float64(time.Second)))
	}
	if p.Shadow {
		line += ", in shadow"
	}
	switch p.Decided {
	case "local":
		line += ", decided by this instance's share"
	case "open":
		line += ", not decided: the store is away"
	}
	return line
}
