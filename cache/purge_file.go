package cache

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// purgesMagic begins the file of purges. Behind it are the SHA-256 of the rest in
// hexadecimal, a line feed, and a PurgeState as JSON.
const purgesMagic = "weir purges 1 "

// maxPurgesFile is more than the labels that are remembered can take.
const maxPurgesFile = 64 << 20

// readPurges gives what the file at path has. known is false, and the state zero,
// if nobody can know what was purged: the file is missing or damaged. Without a
// path there is nothing to know. err says what is wrong with a file that is there.
func readPurges(path string) (s PurgeState, known bool, err error) {
	if path == "" {
		return s, true, nil
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, false, nil
	}
	if err != nil {
		return s, false, fmt.Errorf("cache: purges: %w", err)
	}
	defer func() { _ = f.Close() }() // nothing was written
	b, err := io.ReadAll(io.LimitReader(f, maxPurgesFile+1))
	if err != nil {
		return s, false, fmt.Errorf("cache: purges: %w", err)
	}
	if s, err = decodePurges(b); err != nil {
		return PurgeState{}, false, fmt.Errorf("cache: purges: %s: %w", path, err)
	}
	return s, true, nil
}

func encodePurges(s *PurgeState) ([]byte, error) {
	body, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	b := append([]byte(purgesMagic), hex.EncodeToString(sum[:])...)
	return append(append(b, '\n'), body...), nil
}

func decodePurges(b []byte) (s PurgeState, err error) {
	if len(b) > maxPurgesFile {
		return s, fmt.Errorf("more than %d bytes", maxPurgesFile)
	}
	head, body, _ := bytes.Cut(b, []byte{'\n'})
	text, ours := bytes.CutPrefix(head, []byte(purgesMagic))
	if !ours {
		return s, fmt.Errorf("begins with %.20q: want %q", head, purgesMagic)
	}
	sum := sha256.Sum256(body)
	if string(text) != hex.EncodeToString(sum[:]) {
		return s, errors.New("damaged: its checksum is another")
	}
	return s, json.Unmarshal(body, &s)
}

// save writes what is known to the file, unless it is there.
func (p *Purges) save(ctx context.Context) error {
	if p.options.Path == "" {
		return nil
	}
	select {
	case <-p.saving:
	case <-ctx.Done():
		return fmt.Errorf("cache: purges: not saved: %w", context.Cause(ctx))
	}
	defer func() { p.saving <- struct{}{} }()
	v := p.view.Load()
	if v == p.saved {
		return nil
	}
	b, err := encodePurges(&v.PurgeState)
	if err == nil {
		err = replaceFile(p.options.Path, b)
	}
	if err != nil {
		return fmt.Errorf("cache: purges: not saved, so that they end with the process: %w", err)
	}
	p.saved = v
	return nil
}

// replaceFile makes b the content of the file at path: whoever reads it gets the
// old one or the new one whole, after a loss of power too.
func replaceFile(path string, b []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	temp := path + ".tmp" // always the same, so that a killed process leaves one at most
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return syncDirectory(dir)
}

// syncDirectory makes a rename last.
func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
