package redisstore

import (
	"context"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/redis/rueidis"

	"github.com/inferweir/weir/cache"
)

// listenCheck is how often the listener looks whether the cache has another client.
const listenCheck = time.Second

var errNoWord = errors.New("redisstore: the connection for messages ended")

// listen hears of purges and of the ends of leases, on a connection of its own, until
// the cache is closed. Without messages both go on, by looking.
func (c *CacheStore) listen() {
	select {
	case <-c.link.first:
	case <-c.ctx.Done():
	}
	wait := firstRetry
	for c.ctx.Err() == nil {
		before := c.heard.Load()
		err := c.hear()
		c.listening.Store(false)
		if c.heard.Load() != before {
			wait = firstRetry
		}
		if c.ctx.Err() != nil || err == nil {
			continue
		}
		select {
		case <-c.ctx.Done():
		case <-time.After(wait + rand.N(wait)): // not all instances at once
		}
		wait = min(2*wait, lastRetry)
	}
}

// hear subscribes, and returns when the connection ends, with an error, or the cache
// has another client.
func (c *CacheStore) hear() error {
	client := c.link.client.Load()
	if client == nil {
		return ErrAway
	}
	own, release := (*client).Dedicate()
	defer release()
	defer own.Close()
	subscribed := make(chan struct{}, 2)
	ended := own.SetPubSubHooks(rueidis.PubSubHooks{
		OnMessage: c.told,
		OnSubscription: func(s rueidis.PubSubSubscription) {
			if s.Kind == "subscribe" {
				poke(subscribed)
			}
		},
	})
	ctx, cancel := context.WithTimeout(c.ctx, connectTimeout)
	defer cancel()
	if err := own.Do(ctx, own.B().Subscribe().Channel(c.purgesChannel(), c.leaseChannel()).Build()).Error(); err != nil {
		return err
	}
	for range cap(subscribed) {
		select {
		case <-subscribed:
		case <-ended:
			return errNoWord
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	// What happened before is looked for now: no message tells it any more.
	c.listening.Store(true)
	c.heard.Add(1)
	c.leases.wakeAll()
	c.follows.notify()
	tick := time.NewTicker(listenCheck)
	defer tick.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return c.ctx.Err()
		case <-ended:
			return errNoWord
		case <-tick.C:
			if c.link.client.Load() != client {
				return nil
			}
		}
	}
}

// told hears a message. It does not wait for anything.
func (c *CacheStore) told(m rueidis.PubSubMessage) {
	switch m.Channel {
	case c.purgesChannel():
		c.follows.notify()
	case c.leaseChannel():
		var key cache.Key
		if len(m.Message) != hex.EncodedLen(len(key)) {
			return // not one of ours
		}
		if _, err := hex.Decode(key[:], []byte(m.Message)); err == nil {
			c.leases.wake(key)
		}
	}
}
