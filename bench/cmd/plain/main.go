// Command plain answers every request with the same 2 KiB of JSON and does nothing else:
// what is left of a cache in Go when the cache costs nothing. It prints its address
// and serves until it is killed.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

const answerSize = 2 << 10

func main() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(os.Stderr, "plain:", err)
		os.Exit(1)
	}
	fmt.Printf("plain serves on http://%s\n", l.Addr())
	const head, tail = `{"text":"`, `"}`
	body := []byte(head + strings.Repeat("x", answerSize-len(head)-len(tail)) + tail)
	server := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header()["Content-Type"] = []string{"application/json"}
			_, _ = w.Write(body)
		}),
	}
	fmt.Fprintln(os.Stderr, "plain:", server.Serve(l))
	os.Exit(1)
}
