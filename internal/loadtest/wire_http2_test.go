package loadtest_test

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/internal/loadtest"
)

// refusesEverySecond is a server of HTTP/2 that answers every other stream and refuses
// those between with REFUSED_STREAM. It counts both.
func refusesEverySecond(t *testing.T) (url string, came *atomic.Int64) {
	t.Helper()
	// Only its certificate is used.
	own := httptest.NewTLSServer(http.NotFoundHandler())
	own.Close()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: own.TLS.Certificates, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	came = &atomic.Int64{}
	over := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { _ = answerStreams(c, came) }) // until it is closed
			all.Go(func() {
				<-over
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		close(over)
		all.Wait()
	})
	return "https://" + l.Addr().String(), came
}

// The frames of HTTP/2 that a server needs (RFC 9113 section 6).
const (
	frameHeaders, frameReset, frameSettings = 0x1, 0x3, 0x4

	flagEndOfStream, flagAck, flagEndOfHeaders = 0x1, 0x1, 0x4
)

func answerStreams(c io.ReadWriter, came *atomic.Int64) error {
	in := bufio.NewReader(c)
	if _, err := in.Discard(len("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")); err != nil {
		return err
	}
	send := func(kind, flags byte, stream uint32, payload ...byte) error {
		frame := append([]byte{0, 0, byte(len(payload)), kind, flags}, binary.BigEndian.AppendUint32(nil, stream)...)
		_, err := c.Write(append(frame, payload...))
		return err
	}
	err := send(frameSettings, 0, 0)
	var head [9]byte
	for err == nil {
		if _, err = io.ReadFull(in, head[:]); err != nil {
			return err
		}
		if _, err = in.Discard(int(head[0])<<16 | int(head[1])<<8 | int(head[2])); err != nil {
			return err
		}
		stream := binary.BigEndian.Uint32(head[5:])
		switch {
		case head[3] == frameSettings && head[4]&flagAck == 0:
			err = send(frameSettings, flagAck, 0)
		case head[3] == frameHeaders && came.Add(1)%2 == 0:
			err = send(frameReset, 0, stream, 0, 0, 0, 7) // REFUSED_STREAM
		case head[3] == frameHeaders:
			err = send(frameHeaders, flagEndOfStream|flagEndOfHeaders, stream, 0x88) // :status 200
		}
	}
	return err
}

func TestRefusedStreamsAreNotSentAgain(t *testing.T) {
	for name, o := range map[string]loadtest.Options{
		"GET":  {},
		"POST": {Body: "{}"},
		// It is refused before all of it is written: nobody makes the window larger.
		"POST of more than a window": {Body: strings.Repeat("x", 100_000)},
	} {
		t.Run(name, func(t *testing.T) {
			url, came := refusesEverySecond(t)
			o.URL, o.Insecure, o.Concurrency, o.Requests, o.Timeout = url, true, 1, 20, 10*time.Second
			r := loaded(t, o)
			if want := map[string]int64{"cut": 10}; r.OK != 10 || !reflect.DeepEqual(r.Errors, want) || came.Load() != 20 {
				t.Errorf("ok %d, errors %v of %d that came; want 10, %v and 20: %q", r.OK, r.Errors, came.Load(), want, r.ErrorExamples)
			}
		})
	}
}
