package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/inferweir/weir/config"
)

// testEnv is the environment of every file in testdata.
func testEnv(name string) (string, bool) {
	value, ok := map[string]string{
		"WEIR_ADMIN_TOKEN": "hunter2-admin",
		"WEIR_SIGNING_KEY": "hunter2-signing-0123456789abcdef",
		"WEBHOOK_SECRET":   "whsec_aHVudGVyMmh1bnRlcjJodW50ZXIyaHVudGVyMg==",
		"ALICE_KEY":        "weir_hunter2alice",
		"LLM_KEY":          "hunter2-llm",
		"PORT":             "9090",
		"LIST":             "[a, b]\nlisten: 0.0.0.0:1",
		"EMPTY":            "",
		"BINARY":           "\xff\x00",
	}[name]
	return value, ok
}

// Every *.bad.yaml has beside it, in *.bad.txt, exactly what is said of it.
func TestEveryBadFileGetsItsMessages(t *testing.T) {
	files, err := filepath.Glob("testdata/*.bad.yaml")
	if err != nil || len(files) < 50 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(strings.TrimSuffix(file, ".yaml") + ".txt")
			if err != nil {
				t.Fatalf("a bad file needs its messages: %v", err)
			}
			c, err := config.Parse(filepath.Base(file), text, testEnv)
			if c != nil || err == nil {
				t.Fatalf("accepted: %+v, %v", c, err)
			}
			if _, ok := errors.AsType[config.Mistakes](err); !ok {
				t.Errorf("%T, want Mistakes", err)
			}
			if got := err.Error() + "\n"; got != string(want) {
				t.Errorf("got\n%swant\n%s", got, want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("a secret is shown")
			}
		})
	}
}

func TestEveryExpectationHasItsFile(t *testing.T) {
	files, err := filepath.Glob("testdata/*.bad.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if _, err := os.Stat(strings.TrimSuffix(file, ".txt") + ".yaml"); err != nil {
			t.Error(err)
		}
	}
}
