// Expensive is a small API with one slow endpoint, protected in three lines: its
// answers are cached for a minute, identical requests that overlap run once, and
// each client may make 30 requests a minute that are not in the cache.
//
//	go run ./examples/expensive
//	curl -i 'http://127.0.0.1:8000/expensive?n=20'
package main

import (
	"encoding/json"
	"log"
	"net/http"
	"strconv"
	"time"

	"github.com/inferweir/weir"
	"github.com/inferweir/weir/cache"
	"github.com/inferweir/weir/ratelimit"
	"github.com/inferweir/weir/telemetry"
)

// expensive stands for a model: it takes two seconds to square a number.
func expensive(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.ParseInt(r.URL.Query().Get("n"), 10, 32)
	if err != nil {
		http.Error(w, "n: want a whole number, for example ?n=20", http.StatusBadRequest)
		return
	}
	select {
	case <-time.After(2 * time.Second):
	case <-r.Context().Done(): // everybody who waited has left
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]int64{"n": n, "square": n * n}) // a client that has left needs no answer
}

// api puts the protection around it. The cache comes before the limit, so that an
// answer from the cache costs nothing; exchange the two to count every request.
func api() (http.Handler, error) {
	answers, err := cache.New(cache.Options{TTL: time.Minute, Share: cache.ShareAll})
	if err != nil {
		return nil, err
	}
	limit, err := ratelimit.New(ratelimit.Options{Policies: []ratelimit.Policy{{Quota: 30, Window: time.Minute}}})
	if err != nil {
		return nil, err
	}
	protect := weir.Chain(telemetry.Timing, answers.Middleware, limit.Middleware)
	mux := http.NewServeMux()
	mux.Handle("GET /expensive", protect(http.HandlerFunc(expensive)))
	return mux, nil
}

func main() {
	handler, err := api()
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Addr: "127.0.0.1:8000", Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	log.Fatal(server.ListenAndServe())
}
