// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"staunch/internal/filehash"
	"staunch/internal/order"
)

// load reads a manifest.
func (v *Vault) load(id string) (*Manifest, error) {
	if !order.ValidItem(id) {
		return nil, fmt.Errorf("%q is not the id of an item: want 32 hex digits", id)
	}
	b, err := readBounded(v.manifestPath(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("item %s: %w", id, ErrNotFound)
	}
	if err != nil && !errors.Is(err, errForm) {
		return nil, fmt.Errorf("item %s: its manifest cannot be read: %w; run staunch-agent fsck", id, err)
	}
	var m *Manifest
	if err == nil {
		m, err = decodeManifest(b)
	}
	if err == nil && m.ID != id {
		err = fmt.Errorf("it is the manifest of item %s", m.ID)
	}
	if errors.Is(err, errVersion) {
		return nil, fmt.Errorf("item %s: its manifest is of %w", id, err)
	}
	if err != nil {
		return nil, fmt.Errorf("item %s: %w: its manifest cannot be used: %w; run staunch-agent fsck", id, ErrDamaged, err)
	}
	return m, nil
}

func (v *Vault) save(m *Manifest) error {
	m.Version = Version // it may have been read from an older one
	b, err := encodeManifest(m)
	if err != nil {
		return err
	}
	return full(v.syncs.WriteFile(v.manifestPath(m.ID), b, 0o600))
}

// Get returns the manifest of an item.
func (v *Vault) Get(id string) (*Manifest, error) {
	m, err := v.load(id)
	if err != nil {
		return nil, fmt.Errorf("cannot show item: %w", err)
	}
	return m, nil
}

// List returns all items, the newest first, purged ones too. Items that
// cannot be read are in the error; the others are returned all the same.
func (v *Vault) List() ([]order.Item, error) {
	ids, err := v.ids("items", ".json")
	if err != nil {
		return nil, fmt.Errorf("cannot list the vault: %w", err)
	}
	items := []order.Item{}
	var bad error
	for _, id := range ids {
		m, err := v.load(id)
		switch {
		case err == nil:
			items = append(items, m.Item())
		case !errors.Is(err, ErrNotFound): // dropped meanwhile
			bad = errors.Join(bad, err)
		}
	}
	slices.SortStableFunc(items, func(a, b order.Item) int { return b.Sealed.Compare(a.Sealed) })
	return items, bad
}

// Find returns the sealed items of a content. One that cannot be read is not
// found; it is in the log and in fsck's report.
func (v *Vault) Find(h filehash.Hash) ([]order.Item, error) {
	items, err := v.List()
	if items == nil {
		return nil, err
	}
	if err != nil {
		v.cfg.Log.Warn("part of the vault cannot be read", "error", err)
	}
	return slices.DeleteFunc(items, func(it order.Item) bool {
		return it.State != string(Sealed) || !h.Matches(filehash.Sum{SHA1: it.SHA1, SHA256: it.SHA256})
	}), nil
}

// OpenContent opens an item's content as the file had it, holes as zeros. What
// was read is right only once Read has returned io.EOF: damage shows as an
// error on the way.
func (v *Vault) OpenContent(id string) (io.ReadCloser, error) {
	m, f, err := v.openItem(id)
	if err != nil {
		return nil, fmt.Errorf("cannot open content: %w", err)
	}
	disk := &diskReader{r: f}
	r, err := age.Decrypt(disk, v.identity)
	if err != nil {
		_ = f.Close() // read only
		return nil, fmt.Errorf("cannot open content: item %s: %w", id, disk.blame(err))
	}
	if !m.Sparse {
		return &content{Reader: r, file: f}, nil
	}
	// A pipe turns the pieces into a stream; closing it ends the goroutine.
	pr, pw := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		pw.CloseWithError(m.plan().run(ctx, readNext(r), summing(pw)))
	}()
	return &content{Reader: pr, file: f, stop: func() {
		cancel()
		_ = pr.Close() // never fails
		<-done
	}}, nil
}

type content struct {
	io.Reader
	file *os.File
	stop func()
}

func (c *content) Close() error {
	if c.stop != nil {
		c.stop()
	}
	return c.file.Close()
}

// openItem opens the sealed content of an item that has one.
func (v *Vault) openItem(id string) (*Manifest, *os.File, error) {
	m, err := v.load(id)
	if err != nil {
		return nil, nil, err
	}
	if m.State == Purged {
		return nil, nil, fmt.Errorf("item %s: %w", id, ErrPurged)
	}
	f, err := os.OpenFile(v.contentPath(id), os.O_RDONLY|oNoFollow|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("item %s: %w: its content is missing", id, ErrDamaged)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("item %s: %w", id, err)
	}
	fi, err := f.Stat()
	if err == nil && fi.Size() != m.Stored {
		err = fmt.Errorf("%w: its content has %d bytes, the manifest says %d", ErrDamaged, fi.Size(), m.Stored)
	}
	if err != nil {
		_ = f.Close() // read only
		return nil, nil, fmt.Errorf("item %s: %w", id, err)
	}
	return m, f, nil
}

// verifyItem reads an item's content and compares it with the manifest.
func (v *Vault) verifyItem(ctx context.Context, m *Manifest) error {
	_, f, err := v.openItem(m.ID)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // read only
	if err := v.verify(ctx, f, m); err != nil {
		return fmt.Errorf("item %s: %w", m.ID, err)
	}
	return nil
}

// Purge removes an item's content for good. The manifest stays as the record
// of it. To purge an item again is no error. The bytes may still be on the
// medium, encrypted.
//
//	write(manifest) fsync rename fsync(items) unlink fsync(items)
func (v *Vault) Purge(_ context.Context, id string) error {
	if err := v.claim(id); err != nil {
		return fmt.Errorf("cannot purge: %w", err)
	}
	defer v.release(id)
	m, err := v.load(id)
	if err != nil {
		return fmt.Errorf("cannot purge: %w", err)
	}
	if m.State != Purged {
		m.State = Purged
		m.History = append(m.History, Change{Time: v.cfg.Now().UTC(), State: Purged})
		err := v.save(m)
		if errors.Is(err, ErrNoSpace) {
			// Purging is what helps against a full disk: the content goes first.
			// After a crash in between, fsck says that it is missing.
			err = errors.Join(v.removeContent(id), v.save(m))
		}
		if err != nil {
			return fmt.Errorf("cannot purge item %s: %w", id, err)
		}
		v.cfg.Step("purge:tombstone")
	}
	if err := v.removeContent(id); err != nil {
		return fmt.Errorf("cannot purge item %s: %w", id, err)
	}
	v.cfg.Step("purge:content")
	return nil
}

func (v *Vault) removeContent(id string) error {
	if err := v.unlinkContent(id); err != nil {
		return fmt.Errorf("cannot remove content: %w", err)
	}
	return v.syncs.SyncDir(v.path("items"))
}
