package database

import (
	"path/filepath"
	"testing"

	"github.com/inferweir/weir/job"
	"github.com/inferweir/weir/storetest"
)

func TestJobs(t *testing.T) {
	both(t, func(t *testing.T, url func() string) {
		storetest.Jobs(t, func(t *testing.T) job.Store { return exact(openTest(t, Options{URL: url()})) })
	})
}

func TestJobsOfSeveralInstances(t *testing.T) {
	t.Run("on one SQLite file give no job to two", func(t *testing.T) {
		url := "sqlite:" + filepath.Join(t.TempDir(), "weir.db")
		storetest.JobClaimers(t, openTest(t, Options{URL: url}).Jobs(), openTest(t, Options{URL: url}).Jobs(), openTest(t, Options{URL: url}).Jobs())
	})
	t.Run("on one PostgreSQL give no job to two", func(t *testing.T) {
		url := shared().URL()
		storetest.JobClaimers(t, openTest(t, Options{URL: url}).Jobs(), openTest(t, Options{URL: url}).Jobs(), openTest(t, Options{URL: url}).Jobs())
	})
}
