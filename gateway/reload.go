package gateway

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/inferweir/weir/config"
)

var (
	// ErrNoFile says that there is no file to reload: the gateway runs with the
	// built-in configuration.
	ErrNoFile = errors.New("there is no configuration file to reload")
	// ErrNeedsRestart says that a reload cannot put in force what was changed.
	ErrNeedsRestart = errors.New("want a restart")
)

// Reload puts another file's configuration in force, with all that was edited, for all
// requests that begin from now on. What did not change goes on as it is: counts, cached
// answers, connections, who waits, what was learnt. Requests that run keep what they
// began with, to their end.
//
// The error says what keeps c from being put in force, of all of it at once: then
// nothing is changed. It wraps ErrNeedsRestart where only a restart can do it.
func (g *Gateway) Reload(c *config.Config) error {
	g.changes.Lock()
	defer g.changes.Unlock()
	l := &g.live
	if keys := l.file.NeedsRestart(c); len(keys) > 0 {
		return fmt.Errorf("a reload cannot change %s: %w", strings.Join(keys, ", "), ErrNeedsRestart)
	}
	if err := g.putLocked(c, l.edits); err != nil {
		return err
	}
	l.loaded = time.Now()
	l.reloads++
	return nil
}

// File is the configuration as it is in the file, without overrides. It is only to be
// read.
func (g *Gateway) File() *config.Config {
	g.changes.Lock()
	defer g.changes.Unlock()
	return g.live.file
}

// ReloadFile reads the file again, by Options.Load, and puts it in force. Whether that
// succeeds is in the log, the metrics and the events. by is who wants it. The error is
// ErrNoFile, or what is wrong.
func (g *Gateway) ReloadFile(by string) error {
	if g.options.Load == nil {
		return ErrNoFile
	}
	// One after the other, so that what was read last is what is in force.
	g.reloading.Lock()
	defer g.reloading.Unlock()
	c, err := g.options.Load()
	if err == nil {
		err = g.Reload(c)
	}
	l := &g.live
	l.lastReload.Store(err == nil)
	g.changes.Lock()
	l.failed = ""
	if err != nil {
		l.failed = err.Error()
	}
	g.changes.Unlock()
	if err != nil {
		l.bad.Add(1)
		g.Logger().Error("the configuration is not reloaded: the one before is in force", "file", g.options.File, "by", by, "error", err.Error())
		g.Note(EventSnapshot{Kind: "reload", Level: "error", Text: fmt.Sprintf("The configuration is not reloaded, the one before is in force: %v", err)})
		return err
	}
	l.succeeded.Add(1)
	l.lastSuccess.Store(time.Now().UnixNano())
	g.Logger().Info("the configuration is reloaded", "file", g.options.File, "by", by)
	g.Note(EventSnapshot{Kind: "reload", Text: "The configuration is reloaded, by " + by})
	return nil
}

// exportReloads makes the metrics of reloads.
func (g *Gateway) exportReloads() error {
	l, m := &g.live, g.metrics
	const help = "Reloads of the configuration's file, by whether they succeeded."
	return errors.Join(
		m.GaugeFunc("weir_config_last_reload_successful", "1 while the file that was read last is in force, 0 after a reload that failed.", func() float64 {
			if l.lastReload.Load() {
				return 1
			}
			return 0
		}),
		m.GaugeFunc("weir_config_last_reload_success_timestamp_seconds", "When the configuration that is in force was put there.",
			func() float64 { return float64(l.lastSuccess.Load()) / 1e9 }),
		m.CounterFunc("weir_config_reloads_total", help, func() float64 { return float64(l.succeeded.Load()) }, "result", "ok"),
		m.CounterFunc("weir_config_reloads_total", help, func() float64 { return float64(l.bad.Load()) }, "result", "error"))
}

// configSnapshot is which configuration is in force.
func (g *Gateway) configSnapshot() ConfigSnapshot {
	g.changes.Lock()
	defer g.changes.Unlock()
	l := &g.live
	return ConfigSnapshot{File: g.options.File, Loaded: l.loaded, Reloads: l.reloads, Failed: l.failed, Overrides: len(l.edits) - len(l.left), LeftOut: len(l.left)}
}
