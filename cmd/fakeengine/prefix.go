package main

import (
	"container/list"
	"strings"
	"sync"
)

// prefixCache knows which beginnings of prompts were computed before: blocks of text,
// each named by its own hash and that of all before it, as vLLM's automatic prefix
// caching has them. It remembers as many blocks as the KV cache has and forgets the
// one that was longest not used. It is apart from the room that running sequences
// take.
type prefixCache struct {
	blocks, tokens int // how many, and of how many tokens each

	mu    sync.Mutex
	at    map[uint64]*list.Element // of a block's name, in order
	order list.List                // the last used in front
}

func newPrefixCache(blocks, tokens int) *prefixCache {
	return &prefixCache{blocks: max(1, blocks), tokens: tokens, at: map[uint64]*list.Element{}}
}

// use returns how many tokens at the beginning of text are known, and knows all of its
// whole blocks from now on.
func (c *prefixCache) use(text string) (known int) {
	size := c.tokens * bytesPerToken
	c.mu.Lock()
	defer c.mu.Unlock()
	hit := true
	var name uint64
	// What is beyond the size of the cache would only push its own beginning out.
	for n := 0; len(text) >= size && n < c.blocks; n++ {
		name = keyOf(name, []byte(text[:size]))
		text = text[size:]
		if e, ok := c.at[name]; ok {
			c.order.MoveToFront(e)
			if hit {
				known += c.tokens
			}
			continue
		}
		hit = false
		if c.order.Len() >= c.blocks {
			delete(c.at, c.order.Remove(c.order.Back()).(uint64))
		}
		c.at[name] = c.order.PushFront(name)
	}
	return known
}

// promptText is what the model sees of a request, first things first.
func promptText(r *request) string {
	var text strings.Builder
	text.Write(r.Prompt)
	for _, m := range r.Messages {
		text.Write(m.Content)
	}
	return text.String()
}
