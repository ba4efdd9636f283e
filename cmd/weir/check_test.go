package main

import (
	"fmt"
	"net"
	"regexp"
	"strings"
	"testing"

	"github.com/inferweir/weir/database"
	"github.com/inferweir/weir/storetest"
)

// checked runs "weir check" on a file with a database, and returns its exit status
// and what it wrote, with the path of the file as FILE.
func checked(t *testing.T, text string) (status int, stdout, stderr string) {
	t.Helper()
	path := write(t, "weir.yaml", text+`
upstreams: {m: {targets: [http://h]}}
routes: [{match: {path: /a}, upstream: m}]
`)
	var out, messages transcript
	status = run(t.Context(), []string{"check", "-c", path}, output{&out, &messages})
	return status, strings.ReplaceAll(out.String(), path, "FILE"), strings.ReplaceAll(messages.String(), path, "FILE")
}

const checkedGood = "FILE: good: 1 route, 1 upstream, 0 plans\n"

func TestCheckAsksAPostgreSQLForItsRoom(t *testing.T) {
	t.Parallel()
	server := storetest.Postgres(t)
	url := server.URL()
	f := func(name, text, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			status, stdout, stderr := checked(t, text)
			if status != exitOK || stdout != checkedGood || !regexp.MustCompile("^(?:"+want+")$").MatchString(stderr) {
				t.Errorf("exit status %d\n%s%s\nwant 0, and %s", status, stdout, stderr, want)
			}
		})
	}
	file := func(instances, size, overflow int) string {
		return fmt.Sprintf("instances: %d\ndatabase: {url: %q, pool: {size: %d, overflow: %d}}", instances, url, size, overflow)
	}
	most, reserved, err := database.Connections(t.Context(), url)
	if err != nil || reserved < 1 || most-reserved < 10 || most > 1000 {
		t.Fatalf("%d connections, %d of them reserved, %v", most, reserved, err)
	}
	room := most - reserved
	says := fmt.Sprintf(`and the database has room for %d - %d = %d: want a smaller size or overflow, or a larger max_connections\n`, most, reserved, room)
	f("enough for one instance with the defaults", fmt.Sprintf("database: {url: %q}", url), "")
	f("just enough for several", file(room, 1, 0), "")
	f("one too many", file(1, room, 1),
		fmt.Sprintf(`FILE: warning: database\.pool: 1 instance with %d \+ 1 connections each may open %d, `, room, room+1)+says)
	f("too many instances", file(10000, 1000, 1000),
		`FILE: warning: database\.pool: 10000 instances with 1000 \+ 1000 connections each may open 20000000, `+says)

	t.Run("an option that does not exist is a mistake, without the secrets beside it", func(t *testing.T) {
		status, stdout, stderr := checked(t, fmt.Sprintf("database: {url: %q}", "postgres://weir:hunter2@h/weir?sslmode=perhaps&sslpassword=hunter2"))
		if status != exitFailed || stdout != "" || strings.Contains(stderr, "hunter2") ||
			!strings.HasPrefix(stderr, "FILE: database.url: cannot parse postgres://weir:(redacted)@h/weir?sslmode=perhaps&sslpassword=(redacted): ") {
			t.Errorf("exit status %d\n%s%s", status, stdout, stderr)
		}
	})

	t.Run("a database that the server does not have is a mistake, as it is for serve", func(t *testing.T) {
		wrong := regexp.MustCompile(`/[^/?]*(\?|$)`).ReplaceAllString(url, "/no_such_database$1")
		status, stdout, stderr := checked(t, fmt.Sprintf("database: {url: %q}", wrong))
		if status != exitFailed || stdout != "" || !strings.HasPrefix(stderr, "FILE: database.url: ") || !strings.Contains(stderr, "no_such_database") || strings.Contains(stderr, "warning") {
			t.Errorf("exit status %d\n%s%s", status, stdout, stderr)
		}
		path := write(t, "wrong.yaml", fmt.Sprintf("listen: 127.0.0.1:0\nadmin: {listen: \"127.0.0.1:0\"}\ndatabase: {url: %q}\nupstreams: {m: {targets: [http://h]}}\nroutes: [{match: {path: /a}, upstream: m}]\n", wrong))
		var messages transcript
		status = run(t.Context(), []string{"serve", "-c", path}, output{&transcript{}, &messages})
		if want := path + ": database: " + server.Addr() + `: user "weir", database "no_such_database": FATAL: database "no_such_database" does not exist (SQLSTATE 3D000)` + "\n"; status != exitFailed || messages.String() != want {
			t.Errorf("exit status %d\n%s\nwant %s", status, messages.String(), want)
		}
	})

	t.Run("tables that cannot be used or made are a mistake, in the words of serve", func(t *testing.T) {
		u := server.URL()
		server.Exec(u, "CREATE USER ro")
		server.Exec(u, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
		status, stdout, stderr := checked(t, fmt.Sprintf("database: {url: %q}", strings.Replace(u, "weir@", "ro@", 1)))
		if status != exitFailed || stdout != "" || !strings.HasPrefix(stderr, `FILE: database.url: the user "ro" may not make or use tables in the database `) {
			t.Errorf("exit status %d\n%s%s", status, stdout, stderr)
		}
	})

	away := `FILE: warning: database\.url: cannot be asked how many connections it has room for: .*: this is no mistake of the file: Weir starts without its database, and goes on trying\n`
	server.Pause()
	f("one that hangs is a warning", file(10000, 1000, 1000), away)
	server.Resume()
	server.Stop()
	f("one that is stopped is a warning", file(10000, 1000, 1000), away)
	t.Run("the password of one that is away is not shown", func(t *testing.T) {
		closed, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_ = closed.Close()
		status, stdout, stderr := checked(t, fmt.Sprintf("database: {url: %q}", "postgres://weir:hunter2@"+closed.Addr().String()+"/weir?sslpassword=hunter2"))
		if status != exitOK || stdout != checkedGood || strings.Contains(stderr, "hunter2") || !regexp.MustCompile("^"+away+"$").MatchString(stderr) {
			t.Errorf("exit status %d\n%s%s", status, stdout, stderr)
		}
	})
}
