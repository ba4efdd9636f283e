package job_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/inferweir/weir/job"
)

const hookSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo="

func hooked(t *testing.T, allow ...string) *counter {
	t.Helper()
	return newCounter(t, func(o *job.Options) { o.Webhooks = &job.WebhookOptions{Secret: hookSecret, Allow: allow} })
}

func TestCheckWebhook(t *testing.T) {
	const special = ", is not on the public internet"
	refuses := func(c *counter, url, part string) {
		t.Helper()
		err := c.jobs.CheckWebhook(url)
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("CheckWebhook(%q) = %v, want an error with %q", url, err, part)
		}
	}
	takes := func(c *counter, urls ...string) {
		t.Helper()
		for _, url := range urls {
			if err := c.jobs.CheckWebhook(url); err != nil {
				t.Errorf("CheckWebhook(%q) = %v", url, err)
			}
		}
	}
	c := hooked(t)
	t.Run("takes what is on the public internet", func(t *testing.T) {
		takes(c, "https://example.com/hook?x=1", "http://example.com", "HTTPS://Example.COM.:8443/", "http://a_b.example:8080", "https://93.184.216.34/", "https://[2606:2800:220:1::1]/",
			"https://xn--bcher-kva.example/", "http://[::ffff:93.184.216.34]/", "http://[64:ff9b::5db8:d822]/", "http://[2002:5db8:d822::1]/", "https://example.com/"+strings.Repeat("a", 2048-20))
	})
	t.Run("refuses what is no URL for a webhook", func(t *testing.T) {
		for url, part := range map[string]string{
			"": `begins with ""`, "example.com/hook": `begins with ""`, "ftp://example.com/": `begins with "ftp"`, "file:///etc/passwd": `begins with "file"`, "gopher://example.com/": "gopher",
			"https:///hook": "no host", "https:example.com": "no host", "https://:443/": "no host", "https://a:b@example.com/": "user or password", "https://a@example.com/": "user or password",
			"https://example.com/#x": "fragment", "https://example.com/#": "fragment", "https://example.com/\n": "malformed", "https://exa mple.com/": "malformed", "https://%31%32/": "malformed",
			"https://example.com:22/": "port of the webhook is 22", "https://example.com:99999/": `port of the webhook is "99999"`, "https://example.com:0/": "port of the webhook is 0", "https://93.184.216.34:6379/": "port of the webhook is 6379",
			"https://bücher.example/": "xn-- form", "http://１２７.0.0.1/": "xn-- form", "http://ⓛocalhost/": "xn-- form", "http://a..b/": "xn-- form", "http://-a.b/": "xn-- form",
			"https://example.com/" + strings.Repeat("a", 2048-19): "2049 bytes",
		} {
			refuses(c, url, part)
		}
	})
	t.Run("refuses names of this machine", func(t *testing.T) {
		for _, host := range []string{"localhost", "LOCALHOST", "localhost.", "a.localhost", "localhost:8080"} {
			refuses(c, "http://"+host+"/", "want one on the public internet")
		}
	})
	t.Run("refuses addresses in forms that some resolvers take", func(t *testing.T) {
		for _, host := range []string{"2130706433", "0x7f.1", "0x7f000001", "127.1", "0177.0.0.1", "127.0.0.1.", "1.2.3.4.", "017700000001", "0x", "127.0.0.0x1", "256.256.256.256", "a.1"} {
			refuses(c, "http://"+host+"/", "four decimal numbers")
		}
	})
	t.Run("refuses addresses that are not on the public internet", func(t *testing.T) {
		for _, host := range []string{
			"0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.254", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.8", "168.63.129.16", "[::ffff:168.63.129.16]", "[64:ff9b::a83f:8110]", "100.100.100.200", "[fd20:ce::254]", "192.0.2.1",
			"192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
			"[::]", "[::1]", "[::127.0.0.1]", "[::8.8.8.8]", "[::ffff:127.0.0.1]", "[::ffff:10.0.0.1]", "[::ffff:a9fe:a9fe]", "[::ffff:0:127.0.0.1]", "[fe80::1]", "[fe80::1%25eth0]", "[2606:2800:220:1::1%25eth0]", "[fec0::1]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]",
			"[2001:db8::1]", "[3fff::1]", "[100::1]", "[2001::1]", "[2001:0:5db8:d822::1]", "[2001:2::1]", "[64:ff9b::7f00:1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b::c000:201]", "[64:ff9b:1::1]", "[64:ff9b::1:7f00:1]", "[2002:7f00:1::1]", "[2002:a00:1::1]", "[2002:c0a8:101::]", "[5f00::1]", "[4000::1]",
		} {
			refuses(c, "http://"+host+"/", special)
		}
	})
	c = hooked(t, "10.1.0.0/16", "192.168.1.5:9000", "[fd00::/8]:9443", "::1", "hooks.Internal:9000", "box", "*:7000", "169.254.10.0/24")
	t.Run("takes what is allowed, at its ports", func(t *testing.T) {
		takes(c, "http://10.1.2.3/", "http://10.1.2.3:8080/", "http://[::ffff:10.1.2.3]/", "http://192.168.1.5:9000/", "http://[fd12::1]:9443/", "http://[::1]/", "http://HOOKS.internal.:9000/", "http://box/", "https://example.com:7000/", "http://93.184.216.34:7000", "http://169.254.10.1/")
	})
	t.Run("and nothing besides", func(t *testing.T) {
		for url, part := range map[string]string{
			"http://10.2.0.1/": special, "http://10.1.2.3:22/": special, "http://192.168.1.5/": special, "http://192.168.1.6:9000/": special, "http://[fd12::1]/": special, "http://[fd12::1%25lo]:9443/": special,
			"http://127.0.0.1:7000/": special, "http://127.0.0.1:9000/": special, "https://93.184.216.34:9000/": "port", "http://localhost/": "public internet", "http://box:22/": "port",
		} {
			refuses(c, url, part)
		}
	})
	c = hooked(t, "fd00::/8", "168.63.129.0/24", "100.64.0.0/10", "192.0.0.192")
	t.Run("opens the metadata services of clouds by their own address alone", func(t *testing.T) {
		for _, host := range []string{"[fd00:ec2::254]", "[fd20:ce::254]", "168.63.129.16", "[::ffff:168.63.129.16]", "100.100.100.200"} {
			refuses(c, "http://"+host+"/", special)
		}
		takes(c, "http://[fd00:ec2::253]/", "http://100.100.100.201/", "http://192.0.0.192/")
	})
	t.Run("refuses every webhook where there are none", func(t *testing.T) {
		refuses(newCounter(t, nil), "https://example.com/", "not set up")
	})
}

func TestWebhookOptions(t *testing.T) {
	f := func(name string, o job.WebhookOptions, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			_, err := job.New(job.Options{Store: newCounter(t, nil).store, Webhooks: &o,
				Run: func(context.Context, *http.Request) (*http.Response, error) { return nil, io.EOF }, Rooms: func() []job.Room { return nil }})
			got := ""
			if err != nil {
				got = err.Error()
			}
			if want == "" && err != nil || !strings.HasPrefix(got, want) {
				t.Errorf("error %q, want it to begin with %q", got, want)
			}
			if key := strings.TrimPrefix(o.Secret, "whsec_"); key != "" && strings.Contains(got, key) {
				t.Errorf("error %q shows the secret", got)
			}
		})
	}
	const secret = "job: WebhookOptions.Secret: want whsec_ and the base64 of 24 to 64 random bytes"
	f("32 bytes are a secret", job.WebhookOptions{Secret: hookSecret}, "")
	f("24 bytes are", job.WebhookOptions{Secret: "whsec_" + strings.Repeat("AAAA", 8)}, "")
	f("fewer are not", job.WebhookOptions{Secret: "whsec_" + strings.Repeat("AAAA", 7)}, secret)
	f("more than 64 are not", job.WebhookOptions{Secret: "whsec_" + strings.Repeat("AAAA", 22)}, secret)
	f("nothing is not", job.WebhookOptions{}, secret)
	f("without whsec_ it is none", job.WebhookOptions{Secret: strings.TrimPrefix(hookSecret, "whsec_")}, secret)
	f("what is not base64 is none", job.WebhookOptions{Secret: "whsec_" + strings.Repeat("-", 44)}, secret)
	f("a long timeout", job.WebhookOptions{Secret: hookSecret, Timeout: time.Minute}, "job: WebhookOptions.Timeout: 1m0s: want at most 30s")
	f("many entries", job.WebhookOptions{Secret: hookSecret, Allow: make([]string, 257)}, "job: WebhookOptions.Allow: 257 entries: want at most 256")
	for _, allow := range []string{"", "*", "a b", "10.0.0.0/33", "host:0", "host:65536", "host:x", "http://host/", "[::1", "[::1]x", ":9000", "fe80::1%eth0", "bücher.example"} {
		f("an entry "+allow, job.WebhookOptions{Secret: hookSecret, Allow: []string{"box", allow}}, `job: WebhookOptions.Allow[1]: "`+allow+`": want a host, an address or a network`)
	}
}

// names answers look-ups: each of a name with the next of its addresses.
type names struct {
	addrs []netip.Addr
	asked atomic.Int64 // for A
}

func (n *names) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go n.serve(ours)
		return theirs, nil
	}}
}

// serve answers DNS questions of type A as over TCP (RFC 1035): a length, the header, the
// question again, and one answer. Other types have none.
func (n *names) serve(c net.Conn) {
	defer c.Close()
	for {
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		q := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, q); err != nil {
			return
		}
		end := 12
		for q[end] != 0 {
			end += int(q[end]) + 1
		}
		question := q[12 : end+5]
		answer := append([]byte{q[0], q[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, question...)
		if question[len(question)-3] == 1 {
			i := min(n.asked.Add(1), int64(len(n.addrs))) - 1
			answer[7] = 1
			answer = append(append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4), n.addrs[i].AsSlice()...)
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}

// hookServer counts requests.
func hookServer(t *testing.T, h http.HandlerFunc) (addr netip.AddrPort, hits *atomic.Int64) {
	t.Helper()
	hits = new(atomic.Int64)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		h(w, r)
	}))
	t.Cleanup(s.Close)
	return netip.MustParseAddrPort(s.Listener.Addr().String()), hits
}

// try ends a job with a webhook and has it delivered once; it returns what was told of it.
func try(t *testing.T, url string, resolver *net.Resolver, allow ...string) job.Event {
	t.Helper()
	told := make(chan job.Event, 16)
	c := newCounter(t, func(o *job.Options) {
		o.Webhooks = &job.WebhookOptions{Secret: hookSecret, Allow: allow}
		o.Observe = func(e job.Event) { told <- e }
	})
	if resolver != nil {
		c.jobs.SetWebhookResolver(resolver)
	}
	c.create(func(j *job.Job) { j.Webhook = url })
	c.finish(c.claim(), job.Outcome{State: job.Completed, Result: &job.Result{Status: 200}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); c.jobs.DeliverWebhooks(ctx) }()
	defer func() { cancel(); <-ended }()
	for {
		select {
		case e := <-told:
			if e.Kind == job.EventDelivered || e.Kind == job.EventUndelivered {
				return e
			}
		case <-time.After(time.Minute):
			t.Fatal("nothing was delivered in a minute")
		}
	}
}

func TestWebhookAddressesAreCheckedWhereTheyAreDialed(t *testing.T) {
	addr, hits := hookServer(t, func(http.ResponseWriter, *http.Request) {})
	port := strings.TrimPrefix(addr.String(), addr.Addr().String())
	public, local := netip.MustParseAddr("93.184.216.34"), addr.Addr()
	refused := func(name, url, part string, r *net.Resolver, allow ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			before := hits.Load()
			e := try(t, url, r, allow...)
			if e.Kind != job.EventUndelivered || !strings.Contains(e.Err.Error(), part) || hits.Load() != before {
				t.Errorf("%s, %v, %d requests: want an error with %q and none", e.Kind, e.Err, hits.Load()-before, part)
			}
		})
	}
	url := "http://rebind.example" + port + "/"
	refused("a name of this machine", url, "127.0.0.1, is not on the public internet", (&names{addrs: []netip.Addr{local}}).resolver(), "*"+port)
	refused("a name of the metadata service, also of a host that is allowed", url, "169.254.169.254, is not on the public internet",
		(&names{addrs: []netip.Addr{netip.MustParseAddr("169.254.169.254")}}).resolver(), "rebind.example"+port)
	refused("a name of an address that is allowed at another port", url, "127.0.0.1, is not on the public internet", (&names{addrs: []netip.Addr{local}}).resolver(), "127.0.0.1:1", "*"+port)
	for _, metadata := range []string{"168.63.129.16", "100.100.100.200", "192.0.0.192"} {
		refused("a name of "+metadata+", also of a host that is allowed", url, metadata+", is not on the public internet",
			(&names{addrs: []netip.Addr{netip.MustParseAddr(metadata)}}).resolver(), "rebind.example"+port)
	}
	t.Run("a name that led to the public internet when it was checked", func(t *testing.T) {
		n := &names{addrs: []netip.Addr{public, local}}
		r := n.resolver()
		first, err := r.LookupNetIP(t.Context(), "ip4", "rebind.example")
		if err != nil || len(first) != 1 || first[0] != public {
			t.Fatal(first, err)
		}
		before := hits.Load()
		e := try(t, url, r, "*"+port)
		if e.Kind != job.EventUndelivered || hits.Load() != before || n.asked.Load() < 2 {
			t.Errorf("%s, %v, %d requests, %d look-ups", e.Kind, e.Err, hits.Load()-before, n.asked.Load())
		}
	})
	t.Run("a name that is allowed may lead there", func(t *testing.T) {
		before := hits.Load()
		e := try(t, url, (&names{addrs: []netip.Addr{local}}).resolver(), "rebind.example"+port)
		isEqual(t, "told", []any{e.Kind, e.Err, hits.Load() - before}, []any{job.EventDelivered, nil, int64(1)})
	})
	t.Run("a URL that is not allowed any more", func(t *testing.T) {
		e := try(t, "http://"+addr.String()+"/", nil)
		isEqual(t, "told", []any{e.Kind, e.Err.Error()}, []any{job.EventUndelivered, "the address of the webhook, 127.0.0.1, is not on the public internet"})
	})
	t.Run("redirects are not followed", func(t *testing.T) {
		to, inner := hookServer(t, func(http.ResponseWriter, *http.Request) {})
		from, _ := hookServer(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://"+to.String()+"/", http.StatusTemporaryRedirect)
		})
		e := try(t, "http://"+from.String()+"/", nil, from.String(), to.String())
		isEqual(t, "told", []any{e.Kind, e.Err.Error(), inner.Load()}, []any{job.EventUndelivered, "the receiver answered 307: want 2xx", int64(0)})
	})
	t.Run("no more of an endless answer is read than 64 KiB", func(t *testing.T) {
		sent := make(chan int64, 1)
		from, _ := hookServer(t, func(w http.ResponseWriter, _ *http.Request) {
			n, _ := io.Copy(w, zeroBytes{}) // ends when nobody reads
			sent <- n
		})
		e := try(t, "http://"+from.String()+"/", nil, from.String())
		isEqual(t, "told", e.Kind, job.EventDelivered)
		if n := <-sent; n > 64<<20 {
			t.Errorf("%d bytes were sent", n) // what fits into buffers of the system
		}
	})
}

func TestWebhooksToOneAddressAreFourAtOnce(t *testing.T) {
	began, release := make(chan struct{}, 16), make(chan struct{})
	addr, hits := hookServer(t, func(http.ResponseWriter, *http.Request) {
		began <- struct{}{}
		<-release
	})
	port := strings.TrimPrefix(addr.String(), addr.Addr().String())
	putOff := make(chan string, 16)
	c := newCounter(t, func(o *job.Options) {
		o.Webhooks = &job.WebhookOptions{Secret: hookSecret, Allow: []string{addr.String()}}
		o.Store = &tellsPutOff{o.Store, putOff}
	})
	c.jobs.SetWebhookResolver((&names{addrs: []netip.Addr{addr.Addr()}}).resolver())
	for i := range 6 {
		c.create(func(j *job.Job) {
			j.Caller, j.Webhook = fmt.Sprint("key:", i), fmt.Sprintf("http://name%d.example%s/", i, port)
		})
		c.finish(c.claim(), job.Outcome{State: job.Completed, Result: &job.Result{Status: 200}})
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); c.jobs.DeliverWebhooks(ctx) }()
	for range 4 {
		<-began
	}
	for range 2 {
		<-putOff // without a connection, though each is another name's, and another caller's
	}
	isEqual(t, "requests", hits.Load(), 4)
	close(release)
	cancel()
	<-ended
}

// tellsPutOff tells the jobs whose webhooks are put off.
type tellsPutOff struct {
	job.Store
	told chan string
}

func (s *tellsPutOff) Delivered(ctx context.Context, id string, attempt int, next time.Time) error {
	if time.Until(next) > 15*time.Second {
		s.told <- id
	}
	return s.Store.Delivered(ctx, id, attempt, next)
}

func TestCheckWebhookAllow(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		got := ""
		if err := job.CheckWebhookAllow(text); err != nil {
			got = err.Error()
		}
		if want == "" && got != "" || !strings.HasPrefix(got, want) {
			t.Errorf("%q: error %q, want it to begin with %q", text, got, want)
		}
	}
	for _, text := range []string{"hooks.internal", "hooks.internal:9000", "10.0.0.0/8", "10.0.0.0/8:9000", "[fd00::/8]:9443", "[fd00::1]:9000", "[fd00::1]", "fd00::1", "*:9000"} {
		f(text, "")
	}
	f("10.0.0.1/8", "has bits beyond its length: want 10.0.0.0/8")
	f("10.0.0.1/8:9000", "has bits beyond its length: want 10.0.0.0/8")
	f("::ffff:10.0.0.0/104", "want the IPv4 network itself")
	f("https://hooks.internal/", "want a host, an address or a network")
}
