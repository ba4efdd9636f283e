package admin

import (
	"context"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// stuck is a client that reads nothing until free is closed.
type stuck struct {
	*httptest.ResponseRecorder
	free chan struct{}
}

// Write implements io.Writer.
func (s stuck) Write(p []byte) (int, error) {
	<-s.free
	return s.ResponseRecorder.Write(p)
}

func TestASlowReaderOfAStreamSkipsEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		draining, drain := context.WithCancel(t.Context())
		s := &streams{places: make(chan struct{}, 1), draining: draining}
		w := stuck{httptest.NewRecorder(), make(chan struct{})}
		var asked []int // after how many seconds
		done := make(chan error)
		go func() {
			done <- s.stream(w, httptest.NewRequest("GET", "/", nil), streamBegins, func(ctx context.Context) (string, []byte, error) {
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
					return "", nil, ctx.Err()
				}
				asked = append(asked, int(time.Since(began)/time.Second))
				return "n", []byte(strconv.Itoa(len(asked))), nil
			})
		}()
		time.Sleep(10 * time.Second)
		close(w.free)
		time.Sleep(2500 * time.Millisecond)
		drain()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if want := []int{11, 12}; !reflect.DeepEqual(asked, want) {
			t.Errorf("events were made after %v s, want %v", asked, want)
		}
		if got := w.Body.String(); got != ": a stream of events\n\nevent: n\ndata: 1\n\nevent: n\ndata: 2\n\n" {
			t.Errorf("it got %q", got)
		}
	})
}

func TestASilentStreamSaysThatItLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, leave := context.WithTimeout(t.Context(), 40*time.Second)
		defer leave()
		s := &streams{places: make(chan struct{}, 1), draining: t.Context()}
		w := httptest.NewRecorder()
		err := s.stream(w, httptest.NewRequest("GET", "/", nil).WithContext(ctx), streamBegins, func(ctx context.Context) (string, []byte, error) {
			<-ctx.Done()
			return "", nil, ctx.Err()
		})
		if n := strings.Count(w.Body.String(), ": still here\n\n"); err != nil || n != 2 || w.Code != http.StatusOK {
			t.Errorf("%d comments, %v, status %d, want 2 in 40 s", n, err, w.Code)
		}
	})
}
