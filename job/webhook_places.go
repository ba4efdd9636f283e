package job

import (
	"context"
	"errors"
	"net/netip"
	"sync"
)

// errBusy says that as many deliveries as there may be go to the address that a host has.
var errBusy = errors.New("the address of the webhook has as many calls as it gets at once")

// places are those of the deliveries that run: so many in all, so many of a caller, and to a
// host as it is written and to an address as it is dialed. Hosts alone would not do: whoever
// has a domain has any number of them.
type places struct {
	mu       sync.Mutex
	running  int
	byCaller map[string]int // at most maxDeliveries, as the others
	byHost   map[string]int
	byAddr   map[netip.Addr]int
}

func newPlaces() *places {
	return &places{byCaller: map[string]int{}, byHost: map[string]int{}, byAddr: map[netip.Addr]int{}}
}

// place is that of one delivery.
type place struct {
	of           *places
	caller, host string
	addrs        []netip.Addr // dialed so far; of.mu guards it, and over
	over         bool
}

// begin takes a place, or returns nil where there is none.
func (p *places) begin(caller, host string) *place {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running >= maxDeliveries || p.byCaller[caller] >= maxCallerDeliveries || p.byHost[host] >= maxHostDeliveries {
		return nil
	}
	p.running++
	p.byCaller[caller]++
	p.byHost[host]++
	return &place{of: p, caller: caller, host: host}
}

// end gives the place back.
func (d *place) end() {
	p := d.of
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running--
	less(p.byCaller, d.caller)
	less(p.byHost, d.host)
	for _, addr := range d.addrs {
		less(p.byAddr, addr)
	}
	d.over = true
}

func less[K comparable](counts map[K]int, k K) {
	if counts[k]--; counts[k] == 0 {
		delete(counts, k)
	}
}

// take takes a place at an address for as long as the delivery runs. A name may have
// several addresses, which are dialed one after the other or together.
func (d *place) take(addr netip.Addr) error {
	p := d.of
	addr = addr.Unmap()
	p.mu.Lock()
	defer p.mu.Unlock()
	if d.over {
		return context.Canceled // a dial that nobody waits for any more
	}
	if p.byAddr[addr] >= maxHostDeliveries {
		return errBusy
	}
	p.byAddr[addr]++
	d.addrs = append(d.addrs, addr)
	return nil
}

// crowd is who has deliveries that run.
type crowd struct {
	room          int      // for how many more
	running, full []string // the callers who have some, and those of them who have their share
	each          int      // how many more any of the others can begin
}

func (p *places) crowd() crowd {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := crowd{room: maxDeliveries - p.running, each: maxCallerDeliveries}
	for caller, n := range p.byCaller {
		c.running = append(c.running, caller)
		if n >= maxCallerDeliveries {
			c.full = append(c.full, caller)
		} else {
			c.each = min(c.each, maxCallerDeliveries-n)
		}
	}
	return c
}

type placeKey struct{}

func withPlace(ctx context.Context, d *place) context.Context {
	return context.WithValue(ctx, placeKey{}, d)
}

// takeAddress takes a place at an address for the delivery that ctx is of.
func takeAddress(ctx context.Context, addr netip.Addr) error {
	if d, ok := ctx.Value(placeKey{}).(*place); ok {
		return d.take(addr)
	}
	return nil
}
