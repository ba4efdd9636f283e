package blob

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"time"
)

const (
	// uploads is the directory of files that are being written.
	uploads = "uploads"
	// abandoned is how old a file there is whose writer is no more.
	abandoned = 24 * time.Hour
	// magic begins every file. Behind it are the length and the text of the
	// preamble, and the bytes of the blob.
	magic       = "weirblob"
	maxPreamble = 4 << 10
	copyBuffer  = 256 << 10
	listBatch   = 256
)

// directory keeps a file for each blob, with its type and name in front of its bytes, so
// that one link makes all of it visible.
//
// It is not gocloud.dev's fileblob, because that does not wait for the disk, keeps type
// and name in a second file that a crash can separate from the first, and looks whether a
// key is free before it renames over it: two uploads at once would both succeed.
// os.Root confines every path to the directory, also behind symbolic links.
type directory struct {
	root *os.Root
	log  *slog.Logger
}

// preamble is what is in front of a blob's bytes.
type preamble struct {
	Type string `json:"type"`
	Name string `json:"name,omitempty"`
}

func openDirectory(at string, log *slog.Logger) (*directory, error) {
	if at == "" {
		return nil, errors.New(`blob: "dir:": want the path of a directory, as dir:blobs`)
	}
	if err := os.MkdirAll(at, 0o700); err != nil {
		return nil, fmt.Errorf("blob: dir:%s: %w", at, err)
	}
	root, err := os.OpenRoot(at)
	if err != nil {
		return nil, fmt.Errorf("blob: dir:%s: %w", at, err)
	}
	d := &directory{root: root, log: log}
	if err := errors.Join(d.try(), syncPath(filepath.Dir(filepath.Clean(at)))); err != nil {
		return nil, errors.Join(fmt.Errorf("blob: dir:%s: want a directory that can be written, with hard links: %w", at, err), root.Close())
	}
	return d, nil
}

// try does once what every upload does.
func (d *directory) try() error {
	if err := d.root.MkdirAll(uploads, 0o700); err != nil {
		return err
	}
	from, to := path.Join(uploads, random()), path.Join(uploads, random())
	f, err := d.root.OpenFile(from, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(f.Sync(), f.Close(), d.root.Link(from, to), d.sync("."))
	return errors.Join(err, d.root.Remove(from), ignore(d.root.Remove(to), fs.ErrNotExist))
}

func (d *directory) close() error { return d.root.Close() }

// save writes a file aside, waits for the disk, and gives it its name with a link, which
// fails where the name is taken, also by another instance.
func (d *directory) save(_ context.Context, key string, h head, r io.Reader) (n int64, err error) {
	aside := path.Join(uploads, random())
	f, err := d.root.OpenFile(aside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, ignore(d.root.Remove(aside), fs.ErrNotExist)) }()
	n, err = write(f, preamble{Type: h.kind, Name: h.name}, r)
	if err := errors.Join(err, f.Close()); err != nil {
		return 0, err
	}
	of := path.Dir(key)
	if err := d.root.MkdirAll(of, 0o700); err != nil {
		return 0, err
	}
	if err := d.root.Link(aside, key); errors.Is(err, fs.ErrExist) {
		return 0, errExists
	} else if err != nil {
		return 0, err
	}
	// The directories may be another's, who has not yet waited for them.
	return n, errors.Join(d.sync(of), d.sync(path.Dir(of)), d.sync("."))
}

// write writes a file and waits until it is on the disk.
func write(f *os.File, p preamble, r io.Reader) (int64, error) {
	text, err := json.Marshal(p)
	if err != nil {
		return 0, err
	}
	front := binary.BigEndian.AppendUint16([]byte(magic), uint16(len(text))) // of two texts of at most 255 bytes
	if _, err := f.Write(append(front, text...)); err != nil {
		return 0, err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{f}, r, make([]byte, copyBuffer))
	if err != nil {
		return 0, err
	}
	return n, f.Sync()
}

func (d *directory) sync(name string) error {
	f, err := d.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func syncPath(name string) error {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrPermission) {
		return nil // of a parent that is not ours; then it was there before
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// body is the part of a file behind the preamble.
type body struct {
	*io.SectionReader
	io.Closer
}

func (d *directory) open(_ context.Context, key string) (io.ReadSeekCloser, head, error) {
	f, err := d.root.Open(key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, head{}, ErrNotFound
	}
	if err != nil {
		return nil, head{}, err
	}
	h, at, err := readHead(f)
	if err != nil {
		return nil, head{}, errors.Join(fmt.Errorf("blob: %s: %w", key, err), f.Close())
	}
	return body{io.NewSectionReader(f, at, h.bytes), f}, h, nil
}

// readHead reads the beginning of a file, and says where the blob begins.
func readHead(f *os.File) (head, int64, error) {
	is, err := f.Stat()
	if err != nil {
		return head{}, 0, err
	}
	front := make([]byte, len(magic)+2)
	if _, err := io.ReadFull(f, front); err != nil || string(front[:len(magic)]) != magic {
		return head{}, 0, errors.New("the file is none of ours")
	}
	size := int64(binary.BigEndian.Uint16(front[len(magic):]))
	at := int64(len(front)) + size
	if size > maxPreamble || at > is.Size() {
		return head{}, 0, errors.New("the file is damaged")
	}
	text := make([]byte, size)
	var p preamble
	if _, err := io.ReadFull(f, text); err != nil {
		return head{}, 0, err
	}
	if err := json.Unmarshal(text, &p); err != nil {
		return head{}, 0, fmt.Errorf("the file is damaged: %w", err)
	}
	return head{kind: cleanType(p.Type), name: cleanName(p.Name), bytes: is.Size() - at, modified: is.ModTime()}, at, nil
}

func (d *directory) stat(ctx context.Context, key string) (head, error) {
	b, h, err := d.open(ctx, key)
	if err != nil {
		return head{}, err
	}
	return h, b.Close()
}

func (d *directory) remove(_ context.Context, key string) error {
	return ignore(d.root.Remove(key), fs.ErrNotExist)
}

// sweep removes the directories of hours that have passed. What other instances remove
// meanwhile is not there, and what is not ours stays.
func (d *directory) sweep(ctx context.Context, now time.Time) (int, error) {
	removed := 0
	err := d.each(ctx, ".", func(hour fs.DirEntry) error {
		if !hour.IsDir() || !validHour(hour.Name()) || now.Before(expiry(hour.Name())) {
			return nil
		}
		n, err := d.sweepHour(ctx, hour.Name())
		removed += n
		return err
	})
	return removed, errors.Join(err, d.sweepUploads(ctx, now))
}

func (d *directory) sweepHour(ctx context.Context, hour string) (int, error) {
	removed := 0
	err := d.each(ctx, hour, func(tag fs.DirEntry) error {
		if !tag.IsDir() || !validText(tag.Name()) {
			return nil
		}
		of := path.Join(hour, tag.Name())
		err := d.each(ctx, of, func(file fs.DirEntry) error {
			if !validText(file.Name()) || !file.Type().IsRegular() {
				return nil
			}
			err := d.root.Remove(path.Join(of, file.Name()))
			if err == nil {
				removed++
			}
			return ignore(err, fs.ErrNotExist)
		})
		return errors.Join(err, d.removeEmpty(of))
	})
	return removed, errors.Join(err, d.removeEmpty(hour))
}

func (d *directory) sweepUploads(ctx context.Context, now time.Time) error {
	return d.each(ctx, uploads, func(file fs.DirEntry) error {
		is, err := file.Info()
		if err != nil || !validText(file.Name()) || now.Sub(is.ModTime()) < abandoned {
			return ignore(err, fs.ErrNotExist)
		}
		return ignore(d.root.Remove(path.Join(uploads, file.Name())), fs.ErrNotExist)
	})
}

// removeEmpty removes a directory, unless somebody keeps something else in it.
func (d *directory) removeEmpty(name string) error {
	if err := d.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.log.Warn("a directory of expired blobs is not empty", "directory", name, "error", err)
	}
	return nil
}

// each calls f with what is in a directory, some at a time. One error does not keep it
// from the others.
func (d *directory) each(ctx context.Context, name string, f func(fs.DirEntry) error) error {
	dir, err := d.root.Open(name)
	if err != nil {
		return ignore(err, fs.ErrNotExist)
	}
	var errs error
	for {
		entries, err := dir.ReadDir(listBatch)
		for _, entry := range entries {
			if err := ctx.Err(); err != nil {
				return errors.Join(errs, err, dir.Close())
			}
			if err := f(entry); err != nil && errs == nil { // one says it: a full directory has thousands
				errs = err
			}
		}
		if err != nil {
			// Another instance may have removed the directory meanwhile.
			return errors.Join(errs, ignore(ignore(err, io.EOF), fs.ErrNotExist), dir.Close())
		}
	}
}

func ignore(err, what error) error {
	if errors.Is(err, what) {
		return nil
	}
	return err
}
