package cache

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A file of a DirStore is a header, and an entry as AppendBinary writes it:
//
//	 0  "weirdir1"
//	 8  the key
//	40  the length of the entry
//	48  the length of the entry's head
//	52  CRC-32C of the entry after its head
//	56  CRC-32C of all before this field, and the head
//	60  the entry
//
// So every byte is under a checksum, and the head can be believed without reading
// the rest. A header of another version is not read.
const (
	fileMagic  = "weirdir1"
	fileHeader = len(fileMagic) + len(Key{}) + 8 + 4 + 4 + 4
	// firstRead is how much of a file is read for its head, which is rarely longer.
	firstRead = 4 << 10
	// block is what a file is rounded up to: most file systems do.
	block = 4 << 10
	// temporarySuffix ends the names of files that are being written.
	temporarySuffix = ".part"
)

// errNotWhole says that a file is not what a DirStore has written.
var errNotWhole = errors.New("cache: the file is not whole")

// onDisk is what a file of n bytes counts.
func onDisk(n int64) int64 { return (n + block - 1) &^ (block - 1) }

// name is where the entry of key is: the first two digits are the directory.
func (s *DirStore) name(key Key) string {
	digits := hex.EncodeToString(key[:])
	return filepath.Join(s.path, digits[:2], digits)
}

// keyOf reads the name of a file, which is not a path.
func keyOf(name string) (key Key, ok bool) {
	if len(name) != 2*len(key) || strings.ToLower(name) != name {
		return key, false
	}
	_, err := hex.Decode(key[:], []byte(name))
	return key, err == nil
}

func checksum(parts ...[]byte) (sum uint32) {
	table := crc32.MakeTable(crc32.Castagnoli)
	for _, p := range parts {
		sum = crc32.Update(sum, table, p)
	}
	return sum
}

func encodeFile(key Key, e *Entry) ([]byte, error) {
	b := make([]byte, fileHeader, int64(fileHeader)+e.Size())
	b, err := e.AppendBinary(b)
	if err != nil {
		return nil, err
	}
	entry := b[fileHeader:]
	head, err := headLength(entry)
	if err != nil {
		return nil, err
	}
	copy(b, fileMagic)
	copy(b[8:], key[:])
	binary.BigEndian.PutUint64(b[40:], uint64(len(entry)))
	binary.BigEndian.PutUint32(b[48:], uint32(head))
	binary.BigEndian.PutUint32(b[52:], checksum(entry[head:]))
	binary.BigEndian.PutUint32(b[56:], checksum(b[:56], entry[:head]))
	return b, nil
}

// checkHeader looks at the header of a file of size bytes, and says how many
// bytes of it header and head are.
func checkHeader(key Key, header []byte, size int64) (head int64, err error) {
	switch {
	case len(header) < fileHeader:
		return 0, fmt.Errorf("%w: %d bytes", errNotWhole, size)
	case string(header[:8]) != fileMagic:
		return 0, fmt.Errorf("%w: it begins with %q, want %q", errNotWhole, header[:8], fileMagic)
	case Key(header[8:40]) != key:
		return 0, fmt.Errorf("%w: it is that of %x", errNotWhole, header[8:40])
	case binary.BigEndian.Uint64(header[40:]) != uint64(size)-uint64(fileHeader):
		return 0, fmt.Errorf("%w: it says %d bytes and has %d", errNotWhole, binary.BigEndian.Uint64(header[40:]), size-int64(fileHeader))
	}
	head = int64(fileHeader) + int64(binary.BigEndian.Uint32(header[48:]))
	if head > size {
		return 0, fmt.Errorf("%w: a head of %d bytes in %d", errNotWhole, head, size)
	}
	return head, nil
}

// checkHead looks at header and head, which are b.
func checkHead(b []byte) error {
	if checksum(b[:56], b[fileHeader:]) != binary.BigEndian.Uint32(b[56:]) {
		return fmt.Errorf("%w: the head's checksum differs", errNotWhole)
	}
	return nil
}

// decodeFile reads a file, and keeps b.
func decodeFile(key Key, b []byte) (*Entry, error) {
	head, err := checkHeader(key, b, int64(len(b)))
	if err != nil {
		return nil, err
	}
	if err := checkHead(b[:head]); err != nil {
		return nil, err
	}
	if checksum(b[head:]) != binary.BigEndian.Uint32(b[52:]) {
		return nil, fmt.Errorf("%w: the checksum differs", errNotWhole)
	}
	e, err := DecodeEntry(b[fileHeader:])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotWhole, err)
	}
	return e, nil
}

// open opens the file of key, which is at most as long as the store is large.
func (s *DirStore) open(key Key) (f *os.File, size int64, err error) {
	f, err = os.Open(s.name(key))
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular() || info.Size() < int64(fileHeader) || info.Size() > s.budget.max:
		err = fmt.Errorf("%w: %v, %d bytes", errNotWhole, info.Mode(), info.Size())
	default:
		return f, info.Size(), nil
	}
	return nil, 0, errors.Join(err, f.Close())
}

// read reads and checks the file of key: with errNotWhole it is no good, with
// fs.ErrNotExist there is none.
func (s *DirStore) read(key Key) (*Entry, error) {
	f, size, err := s.open(key)
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	_, err = io.ReadFull(f, b)
	if err := errors.Join(cut(err), f.Close()); err != nil {
		return nil, err
	}
	return decodeFile(key, b)
}

// readHead reads of the file of key only what it says of its entry. size is that
// of the whole file.
func (s *DirStore) readHead(key Key) (e *Entry, size int64, err error) {
	f, size, err := s.open(key)
	if err != nil {
		return nil, 0, err
	}
	b := make([]byte, min(size, firstRead))
	_, err = io.ReadFull(f, b)
	head := int64(0)
	if err == nil {
		head, err = checkHeader(key, b, size)
	}
	if n := int64(len(b)); err == nil && head > n {
		b = append(b, make([]byte, head-n)...)
		_, err = io.ReadFull(f, b[n:])
	}
	if err := errors.Join(cut(err), f.Close()); err != nil {
		return nil, 0, err
	}
	b = b[:head]
	if err := checkHead(b); err != nil {
		return nil, 0, err
	}
	e, _, err = decodeHead(b[fileHeader:])
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", errNotWhole, err)
	}
	return e, size, nil
}

// cut tells of a file that became shorter than it was.
func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %w", errNotWhole, err)
	}
	return err
}

// write writes a new file beside where it shall be, and returns its name. After
// an error there is none.
func (s *DirStore) write(key Key, file []byte) (temporary string, err error) {
	name := s.name(key)
	temporary = name + "." + s.run + "." + strconv.FormatUint(s.writes.Add(1), 10) + temporarySuffix
	f, err := create(temporary)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return "", err
		}
		f, err = create(temporary)
	}
	if err != nil {
		return "", err
	}
	// Without a sync: a process that is killed has written all the same, and what
	// a power failure leaves undone the checksums tell.
	_, err = f.Write(file)
	if err := errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(temporary))
	}
	return temporary, nil
}

func create(name string) (*os.File, error) {
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}
