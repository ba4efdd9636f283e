package storetest_test

import (
	"testing"

	"github.com/inferweir/weir/job"
	"github.com/inferweir/weir/storetest"
)

func TestJobsInMemory(t *testing.T) {
	storetest.Jobs(t, func(t *testing.T) job.Store { return storetest.NewJobs() })
}
