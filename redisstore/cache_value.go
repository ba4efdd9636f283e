package redisstore

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/inferweir/weir/cache"
)

const (
	// partBytes is the most that is read or written at once: what comes behind it,
	// on the connection and in the server, waits for no more. Each part has the
	// deadline for itself, so that a long value may take long while it comes, and
	// none waits long for a server that is away.
	partBytes = 64 << 10
	// partsFor is how long the parts of a value stay that nobody completes.
	partsFor = time.Minute
	// nearFor is how long a value stays on this side at most.
	nearFor = time.Minute
)

// A value is a head, and the entry as package cache writes it. The head is a mark, a
// checksum of all that follows that, and the value's length. A value whose parts were
// read while it was replaced has another checksum.
const (
	valueMark = "wca1"
	sumAt     = len(valueMark)
	lengthAt  = sumAt + 4
	headBytes = lengthAt + 8
)

// errBroken says that a value is not one that was put here.
var errBroken = errors.New("the value is damaged")

func checksum(value []byte) uint32 {
	return crc32.Checksum(value[lengthAt:], crc32.MakeTable(crc32.Castagnoli))
}

func encode(e *cache.Entry) ([]byte, error) {
	head := make([]byte, headBytes, headBytes+int(e.Size()))
	copy(head, valueMark)
	value, err := e.AppendBinary(head)
	if err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint64(value[lengthAt:], uint64(len(value)))
	binary.BigEndian.PutUint32(value[sumAt:], checksum(value))
	return value, nil
}

func decode(value []byte) (*cache.Entry, error) {
	if binary.BigEndian.Uint32(value[sumAt:]) != checksum(value) {
		return nil, errBroken
	}
	return cache.DecodeEntry(value[headBytes:])
}

// get returns nil where there is none.
func (c *CacheStore) get(ctx context.Context, key cache.Key) (*cache.Entry, error) {
	name := c.valueKey(key)
	for range 2 { // the second time it is not just being replaced
		value, err := c.read(ctx, name)
		if err == nil && value != nil {
			var e *cache.Entry
			if e, err = decode(value); err == nil {
				return e, nil
			}
			err = errBroken
		}
		if !errors.Is(err, errBroken) {
			return nil, err
		}
	}
	return nil, c.unlink(ctx, name)
}

// read returns all of a value, or nil if there is none, or one too long for here.
func (c *CacheStore) read(ctx context.Context, name string) ([]byte, error) {
	first, err := c.readPart(ctx, name, 0)
	switch {
	case err != nil || len(first) == 0:
		return nil, err
	case len(first) < headBytes || string(first[:sumAt]) != valueMark:
		return nil, errBroken
	}
	length := binary.BigEndian.Uint64(first[lengthAt:])
	switch {
	case length > uint64(c.limit): // another instance may have a larger limit
		return nil, nil
	case min(length, partBytes) != uint64(len(first)):
		return nil, errBroken
	case length <= partBytes:
		return first, nil
	}
	value := append(make([]byte, 0, length), first...)
	for len(value) < int(length) {
		part, err := c.readPart(ctx, name, len(value))
		if err != nil {
			return nil, err
		}
		if len(part) == 0 || len(value)+len(part) > int(length) {
			return nil, errBroken
		}
		value = append(value, part...)
	}
	return value, nil
}

// readPart reads the part of a value that begins at from. It is empty where there is
// none.
func (c *CacheStore) readPart(ctx context.Context, name string, from int) ([]byte, error) {
	part, err := within(ctx, c, func(ctx context.Context, r rueidis.Client) ([]byte, error) {
		start, end := int64(from), int64(from+partBytes-1)
		if c.link.near > 0 && from == 0 {
			near := r.DoCache(ctx, r.B().Getrange().Key(name).Start(start).End(end).Cache(), nearFor)
			// That there is none is not believed: the word of one that somebody waited
			// for may come sooner than the word that it is there.
			if part, err := near.AsBytes(); !near.IsCacheHit() || err != nil || len(part) > 0 {
				return part, err
			}
		}
		return r.Do(ctx, r.B().Getrange().Key(name).Start(start).End(end).Build()).AsBytes()
	})
	if said, ok := errors.AsType[*rueidis.RedisError](err); ok && strings.HasPrefix(said.Error(), "WRONGTYPE") {
		return nil, errBroken
	}
	return part, err
}

// put writes a value, in one go or part by part. left is how long it is of use; by
// the server's clock, whatever that says.
func (c *CacheStore) put(ctx context.Context, name string, value []byte, left time.Duration) error {
	expiry := max(1, left.Milliseconds())
	if len(value) <= partBytes {
		_, err := within(ctx, c, func(ctx context.Context, r rueidis.Client) (struct{}, error) {
			set := r.B().Set().Key(name).Value(rueidis.BinaryString(value)).PxMilliseconds(expiry).Build()
			return struct{}{}, c.forget(ctx, r, name, r.Do(ctx, set).Error())
		})
		return err
	}
	parts := name + ":" + rand.Text()
	for from := (len(value) - 1) / partBytes * partBytes; from >= 0; from -= partBytes {
		part := rueidis.BinaryString(value[from:min(from+partBytes, len(value))])
		_, err := c.run(ctx, c.scripts.part, []string{parts}, strconv.Itoa(from), part, strconv.FormatInt(partsFor.Milliseconds(), 10))
		if err != nil {
			return err
		}
	}
	whole, err := within(ctx, c, func(ctx context.Context, r rueidis.Client) (int64, error) {
		args := []string{strconv.Itoa(len(value)), strconv.FormatInt(expiry, 10)}
		whole, err := c.scripts.whole.Exec(ctx, r, []string{parts, name}, args).AsInt64()
		return whole, c.forget(ctx, r, name, err)
	})
	if err == nil && whole == 0 {
		err = errors.New("the server forgot the first parts before the last one came")
	}
	return err
}

func (c *CacheStore) unlink(ctx context.Context, name string) error {
	_, err := within(ctx, c, func(ctx context.Context, r rueidis.Client) (struct{}, error) {
		return struct{}{}, c.forget(ctx, r, name, r.Do(ctx, r.B().Unlink().Key(name).Build()).Error())
	})
	return err
}

// forget waits until a write to name, which ended with err, is known on this side, so
// that who has written reads what he wrote. Redis tells it on the same connection
// after the write, and before it answers what comes next.
func (c *CacheStore) forget(ctx context.Context, r rueidis.Client, name string, err error) error {
	if err != nil || c.link.near == 0 {
		return err
	}
	return r.Do(ctx, r.B().Exists().Key(name).Build()).Error()
}
