// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/filehash"
	"staunch/internal/order"
)

// Version of the vault's format. docs/vault-format.md describes it, and what
// version 1 did not have; records of it are read, and written anew as this one.
const Version = 2

// known checks the version of a record or folder.
func known(version int) error {
	if version < 1 || version > Version {
		return fmt.Errorf("%w: its format is version %d, this agent knows versions 1 to %d: use the agent that wrote it", errVersion, version, Version)
	}
	return nil
}

// errVersion says that a record is another agent's, and not damaged.
var errVersion = errors.New("another version")

// maxRecord bounds a manifest or an intent, in bytes.
const maxRecord = 64 << 20

// State is what became of an item.
type State string

// The states of an item.
const (
	Sealed   State = "sealed"   // the vault holds the only copy it knows of
	Restored State = "restored" // put back; the content is kept until purged
	Purged   State = "purged"   // the content is gone, the manifest stays as the record of it
)

// Manifest is what the vault knows of one item: items/ID.json.
//
//	staunch manifest v2 sha256:<of the rest, hex>\n
//	{ … }\n
type Manifest struct {
	Version int    `json:"version"`
	ID      string `json:"id"` // 32 hex digits
	State   State  `json:"state"`

	Order     string    `json:"order,omitzero"` // that sealed it; empty: by hand
	Comment   string    `json:"comment,omitzero"`
	Requestor string    `json:"requestor,omitzero"`
	Sealed    time.Time `json:"sealed"`

	SHA1   filehash.SHA1   `json:"sha1"`
	SHA256 filehash.SHA256 `json:"sha256"`
	Size   int64           `json:"size"`   // bytes of the file
	Stored int64           `json:"stored"` // bytes of items/ID.age

	// Sparse says that the file had holes and the content holds only Extents,
	// one behind the other; else it holds the whole file.
	Sparse  bool     `json:"sparse,omitzero"`
	Extents []Extent `json:"extents,omitzero"`

	Names      []Name   `json:"names,omitzero"` // every name that was known; the first is where it was taken. None: it had none.
	Meta       Meta     `json:"meta"`
	Recipients int      `json:"recipients"` // how many keys can open the content
	History    []Change `json:"history,omitzero"`
}

// Extent is a run of bytes that a sparse file really has.
type Extent struct {
	Off int64 `json:"off"`
	Len int64 `json:"len"`
}

// Name is one name of a file and the folder that held it.
type Name struct {
	Path   order.Text `json:"path"`
	Parent Parent     `json:"parent"`
}

// Parent identifies a folder, also after the machine was started again: then
// its device number may differ, the file system's id does not.
type Parent struct {
	Dev   uint64   `json:"dev"`
	Ino   uint64   `json:"ino"`
	FSID  [2]int32 `json:"fsid"`
	Flags uint32   `json:"flags,omitzero"` // FS_IOC_GETFLAGS, before they were lifted
}

func (p Parent) same(q Parent) bool {
	return p.Ino == q.Ino && (p.Dev == q.Dev || p.FSID == q.FSID && p.FSID != [2]int32{})
}

// Change is something that was done with an item after it was sealed.
type Change struct {
	Time  time.Time    `json:"time"`
	State State        `json:"state"`
	Paths []order.Text `json:"paths,omitzero"` // restored to
	Side  bool         `json:"side,omitzero"`
	Lost  []string     `json:"lost,omitzero"`
}

// Item is the manifest as the server sees it.
func (m *Manifest) Item() order.Item {
	it := order.Item{
		ID: m.ID, Order: m.Order, SHA1: m.SHA1, SHA256: m.SHA256, Size: m.Size, Paths: []order.Text{},
		UID: m.Meta.UID, GID: m.Meta.GID, Mode: m.Meta.Mode, Sealed: m.Sealed, State: string(m.State), Comment: m.Comment,
	}
	for _, n := range m.Names {
		it.Paths = append(it.Paths, n.Path)
	}
	return it
}

func (m *Manifest) sum() filehash.Sum {
	return filehash.Sum{SHA1: m.SHA1, SHA256: m.SHA256, Size: m.Size}
}

// encodeFrame writes v under a line that names its kind and its digest.
func encodeFrame(kind string, v any) ([]byte, error) {
	body, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return nil, err
	}
	body = append(body, '\n')
	if len(body) > maxRecord {
		return nil, fmt.Errorf("the %s takes %d bytes, more than the %d allowed", kind, len(body), maxRecord)
	}
	sum := sha256.Sum256(body)
	return append(fmt.Appendf(nil, "staunch %s v%d sha256:%x\n", kind, Version, sum), body...), nil
}

// decodeFrame undoes encodeFrame.
func decodeFrame(kind string, b []byte, v any) error {
	line, body, ok := bytes.Cut(b, []byte("\n"))
	if !ok {
		return fmt.Errorf("it is not a %s: it has no first line", kind)
	}
	var version int
	var have, digest string
	if n, err := fmt.Sscanf(string(line), "staunch %s v%d sha256:%s", &have, &version, &digest); n != 3 || err != nil || have != kind {
		return fmt.Errorf("it is not a %s: its first line is %.60q", kind, line)
	}
	if err := known(version); err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	if digest != hex.EncodeToString(sum[:]) {
		return errors.New("its content does not have the digest its first line names: it was damaged or changed by hand")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("it is not a %s of this version: %w", kind, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something stands behind its content")
	}
	return nil
}

func encodeManifest(m *Manifest) ([]byte, error) { return encodeFrame("manifest", m) }

func decodeManifest(b []byte) (*Manifest, error) {
	m := &Manifest{}
	if err := decodeFrame("manifest", b, m); err != nil {
		return nil, err
	}
	return m, m.validate()
}

func (m *Manifest) validate() error {
	switch {
	case known(m.Version) != nil:
		return known(m.Version)
	case !order.ValidItem(m.ID):
		return fmt.Errorf("item id %q is not 32 hex digits", m.ID)
	case !slices.Contains([]State{Sealed, Restored, Purged}, m.State):
		return fmt.Errorf("state %q is not known", m.State)
	case m.Size < 0 || m.Stored < 0:
		return errors.New("a size is negative")
	case m.SHA1.IsZero() || m.SHA256.IsZero():
		return errors.New("a digest is missing")
	case !m.Sparse && len(m.Extents) > 0:
		return errors.New("it has extents but is not sparse")
	}
	var end int64
	for _, e := range m.Extents {
		if e.Off < end || e.Len <= 0 || e.Len > m.Size-e.Off {
			return fmt.Errorf("extent %d+%d does not fit", e.Off, e.Len)
		}
		end = e.Off + e.Len
	}
	return validNames(m.Names)
}

func validNames(names []Name) error {
	for _, n := range names {
		raw, err := n.Path.Bytes()
		if err != nil {
			return err
		}
		if err := checkPath(raw); err != nil {
			return err
		}
	}
	return nil
}

// readBounded reads a file of the vault, without following a link.
func readBounded(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|oNoFollow|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%s %w: it is a symbolic link", path, errForm)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() { // reading a pipe would wait for ever
		return nil, fmt.Errorf("%s %w: it is not a regular file", path, errForm)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err == nil && len(b) > maxRecord {
		err = fmt.Errorf("%s %w: it is larger than the %d bytes allowed", path, errForm, maxRecord)
	}
	return b, err
}

// errForm says that what has the name of a record cannot be one.
var errForm = errors.New("is not a record")
