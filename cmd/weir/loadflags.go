package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/inferweir/weir/internal/loadtest"
)

const (
	// maxLineFile is the most bytes of a file whose lines go into requests.
	maxLineFile = 64 << 20
	// maxFileLines is the most lines of it.
	maxFileLines = 1_000_000
)

// The flags whose zero value stands for what is not said: 0 and "" are refused, so that
// nobody gets a default who has asked for nothing, or for an empty variable of a script.
type (
	loadRate  float64       // a second
	loadCount int64         // of things
	loadSpan  time.Duration // that something takes
	loadText  string
)

// The flags whose zero means what it says, and those with a choice.
type (
	loadWait     time.Duration // before something: 0 is none
	loadArrivals string
)

// UnmarshalText reads a number above 0.
func (r *loadRate) UnmarshalText(text []byte) error {
	n, err := strconv.ParseFloat(string(text), 64)
	if err != nil || !(n > 0) || math.IsInf(n, 0) {
		return fmt.Errorf("%.100q: want a number above 0, for example 200 or 0.5", text)
	}
	*r = loadRate(n)
	return nil
}

// UnmarshalText reads a whole number from 1 on.
func (c *loadCount) UnmarshalText(text []byte) error {
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil || n < 1 {
		return fmt.Errorf("%.100q: want a whole number, 1 or more", text)
	}
	*c = loadCount(n)
	return nil
}

// UnmarshalText reads a time above 0.
func (t *loadSpan) UnmarshalText(text []byte) error {
	d, err := time.ParseDuration(string(text))
	if err != nil || d <= 0 {
		return fmt.Errorf("%.100q: want a time above 0 with its unit, for example 10s", text)
	}
	*t = loadSpan(d)
	return nil
}

// UnmarshalText reads a time from 0 on.
func (w *loadWait) UnmarshalText(text []byte) error {
	d, err := time.ParseDuration(string(text))
	if err != nil || d < 0 {
		return fmt.Errorf("%.100q: want a time with its unit, for example 2s, or 0s for none", text)
	}
	*w = loadWait(d)
	return nil
}

// UnmarshalText reads the kind of arrivals.
func (a *loadArrivals) UnmarshalText(text []byte) error {
	if kind := string(text); kind != loadtest.Constant && kind != loadtest.Poisson {
		return fmt.Errorf("%.100q: want %s or %s", text, loadtest.Constant, loadtest.Poisson)
	}
	*a = loadArrivals(text)
	return nil
}

// UnmarshalText reads a text that is not empty.
func (t *loadText) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		return errors.New("is empty: want a text, or the flag left out")
	}
	*t = loadText(text)
	return nil
}

// rampForm is what a ramp looks like.
const rampForm = "want FROM:TO:DURATION, for example 10:500:30s"

// loadRamp is FROM:TO:DURATION.
type loadRamp loadtest.Stage

// UnmarshalText reads it.
func (r *loadRamp) UnmarshalText(text []byte) error {
	parts := strings.Split(string(text), ":")
	wrong := fmt.Errorf("%.100q: "+rampForm, text)
	if len(parts) != 3 {
		return wrong
	}
	from, errFrom := strconv.ParseFloat(parts[0], 64)
	to, errTo := strconv.ParseFloat(parts[1], 64)
	long, errLong := time.ParseDuration(parts[2])
	if errors.Join(errFrom, errTo, errLong) != nil || !(from >= 0) || !(to >= 0) || long <= 0 {
		return wrong
	}
	if max(from, to) > loadtest.MaxRate {
		return fmt.Errorf("%.100q: want rates from 0 to %d a second", text, loadtest.MaxRate)
	}
	*r = loadRamp{From: from, To: to, For: long}
	return nil
}

// loadShare is a share in percent.
type loadShare float64

// UnmarshalText reads 5%.
func (s *loadShare) UnmarshalText(text []byte) error {
	number, ok := strings.CutSuffix(string(text), "%")
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if !ok || err != nil || !(n >= 0 && n <= 100) {
		return fmt.Errorf("%.100q: want from 0%% to 100%%, for example 5%%", text)
	}
	*s = loadShare(n / 100)
	return nil
}

// String is the share as it was written.
func (s *loadShare) String() string { return strconv.FormatFloat(100*float64(*s), 'g', 6, 64) + " %" }

// loadObjective is one condition of a service level.
type loadObjective struct{ loadtest.Objective }

// UnmarshalText reads p95<300ms.
func (o *loadObjective) UnmarshalText(text []byte) (err error) {
	o.Objective, err = loadtest.ParseObjective(string(text))
	return err
}

// loadCaller is NAME,WEIGHT,HEADER: VALUE; without a field a name and a weight.
type loadCaller loadtest.Caller

// UnmarshalText reads it.
func (c *loadCaller) UnmarshalText(text []byte) error {
	parts := strings.SplitN(string(text), ",", 3)
	weight := 0.0
	err := errors.New("no weight")
	if len(parts) > 1 {
		weight, err = strconv.ParseFloat(strings.TrimSpace(parts[1]), 64)
	}
	if err != nil || parts[0] == "" {
		return fmt.Errorf("%.100q: want NAME,WEIGHT,'HEADER: VALUE', for example \"alice,3,X-User-ID: alice\"", text)
	}
	*c = loadCaller{Name: strings.TrimSpace(parts[0]), Weight: weight}
	if len(parts) == 3 {
		c.Header, err = headerFields("--caller", parts[2:])
	}
	return err
}

// mergeCallers makes one caller of those with the same name, and the same weight.
func mergeCallers(flags []loadCaller) (all []loadtest.Caller, err error) {
	at := map[string]int{}
	for _, c := range flags {
		i, ok := at[c.Name]
		if !ok {
			at[c.Name] = len(all)
			all = append(all, loadtest.Caller(c))
			continue
		}
		if all[i].Weight != c.Weight {
			return nil, fmt.Errorf("--caller: %.100q has the weights %g and %g: want the same with each of its fields", c.Name, all[i].Weight, c.Weight)
		}
		if all[i].Header == nil {
			all[i].Header = http.Header{}
		}
		for name, values := range c.Header {
			all[i].Header[name] = append(all[i].Header[name], values...)
		}
	}
	return all, nil
}

// headerFields reads fields as curl does.
func headerFields(flag string, lines []string) (http.Header, error) {
	h := http.Header{}
	for _, line := range lines {
		name, value, ok := strings.Cut(line, ":")
		name = strings.TrimSpace(name)
		if !ok || name == "" || strings.ContainsAny(name, " \t\r\n") {
			// Without the line: it may be a secret.
			return nil, fmt.Errorf("%s: want a name and a value with a colon between, for example 'Authorization: Bearer abc'", flag)
		}
		h.Add(name, strings.TrimSpace(value))
	}
	return h, nil
}

// bodyFile is the file that --body names, - for the standard input; false where the
// argument is the body itself, or there is none.
func bodyFile(arg string) (name string, ok bool) {
	if arg == "" || strings.HasPrefix(arg, "{") || strings.HasPrefix(arg, "[") || strings.ContainsAny(arg, " \n\"") {
		return "", false
	}
	return strings.TrimPrefix(arg, "@"), true // as people write it for curl
}

// readLoadBody is the body that --body names: a file, the standard input, or itself.
func readLoadBody(arg string) (string, error) {
	name, ok := bodyFile(arg)
	var in io.Reader = os.Stdin
	switch {
	case !ok:
		return arg, nil
	case name != "-":
		f, err := os.Open(name)
		if err != nil {
			return "", fmt.Errorf("--body: %s: %w", name, pathCause(err))
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, loadtest.MaxBody+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("--body: %s: %w", name, pathCause(err))
	case len(text) > loadtest.MaxBody:
		return "", fmt.Errorf("--body: %s: more than %d bytes: want a smaller file", name, loadtest.MaxBody)
	case len(text) == 0:
		return "", fmt.Errorf("--body: %s: is empty: want a body, or the flag left out", name)
	}
	return string(text), nil
}

// readLines gives the lines of a file, without empty ones.
func readLines(name string) ([]string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("line: %s: %w", name, pathCause(err))
	}
	defer f.Close()
	limited := &io.LimitedReader{R: f, N: maxLineFile + 1}
	in := bufio.NewScanner(limited)
	in.Buffer(nil, loadtest.MaxBody)
	var lines []string
	for in.Scan() {
		if line := bytes.TrimSpace(in.Bytes()); len(line) > 0 {
			lines = append(lines, string(line))
		}
		if len(lines) > maxFileLines {
			return nil, fmt.Errorf("line: %s: more than %d lines: want fewer", name, maxFileLines)
		}
	}
	switch {
	case in.Err() != nil:
		return nil, fmt.Errorf("line: %s: %w", name, pathCause(in.Err()))
	case limited.N == 0:
		return nil, fmt.Errorf("line: %s: more than %d bytes: want a smaller file", name, maxLineFile)
	}
	return lines, nil
}
