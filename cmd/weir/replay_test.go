package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReplayOfACompressedLogThatBreaksOff(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	yaml := file(write("new.yaml", []byte(`
upstreams: {models: {targets: ["http://127.0.0.1:1"]}}
routes: [{name: all, match: {path: /*}, upstream: models}]
`)))
	var log bytes.Buffer
	z := gzip.NewWriter(&log)
	line := func(second int) {
		_, _ = fmt.Fprintf(z, `{"time":"2026-03-01T12:00:%02dZ","msg":"request","caller":"ip:192.0.2.1","route":"all","method":"GET","path":"/x","status":200,"upstream":"models"}`+"\n", second)
		_ = z.Flush() // into memory
	}
	line(1)
	line(2)
	half := log.Len()
	line(3)
	_ = z.Close()
	f := func(name string, log []byte, json bool, want string) {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			command := replayCommand{Log: write("log.gz", log), Config: yaml, By: "all", JSON: json}
			err := command.Run(t.Context(), output{&out, &out})
			if err != nil {
				out.WriteString(strings.ReplaceAll(err.Error(), dir+string(filepath.Separator), ""))
			}
			if got := out.String(); !strings.HasPrefix(got, want) {
				t.Errorf("got %s, want it to begin with %s", got, want)
			}
		})
	}
	const stamps = "from 2026-03-01 12:00:01 to 2026-03-01 12:00:0"
	f("is replayed up to there", log.Bytes()[:half], false,
		"2 requests "+stamps+"2, 0 lines skipped\n\nThe end of the log is missing: it is compressed, and breaks off in or after line 2.\n\n ")
	f("says so in JSON", log.Bytes()[:half], true, `{"from":"2026-03-01T12:00:01Z","to":"2026-03-01T12:00:02Z","lines":2,"skipped":0,"cut_off":true,`)
	f("has no more to say when it is whole", log.Bytes(), false, "3 requests "+stamps+"3, 0 lines skipped\n\n   ")
	f("is none without a request", log.Bytes()[:15], false, "log.gz: its end is missing, and there is no request before: want the whole log")
}
