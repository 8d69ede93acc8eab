// SPDX-License-Identifier: Apache-2.0

// Package vault keeps files that were taken out of their place, sealed, and
// gives them back as they were.
//
// At every instant, a crash included, a file is whole in its place, in staging
// or in the vault, and an intent record on the disk says which; Recover
// finishes or undoes what a crash interrupted. Nothing is decided by a path:
// folders are opened without following links, and what was moved is checked
// again by identity and content after the move. Sealed content is encrypted
// (age) to the device's key and to the organisation's, mode 0600, in folders
// that only the owner may enter: nobody runs it, no scanner recognises it.
//
// docs/vault-format.md describes the folder.
package vault

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"filippo.io/age"

	"staunch/internal/durable"
)

// Reasons for which the vault does not do what it was asked.
var (
	ErrChanged  = errors.New("the file is not what it was, or changed meanwhile")
	ErrVanished = errors.New("the file has no name any more")
	ErrMoved    = errors.New("the file is not under any of the names given")
	ErrNoSpace  = errors.New("no room in the vault")
	ErrNotFound = errors.New("no such item in the vault")
	ErrPurged   = errors.New("the item's content was purged")
	ErrDamaged  = errors.New("the item is damaged")
	ErrBusy     = errors.New("the item is being worked on")
	ErrReadOnly = errors.New("the vault is open for reading only")
)

// Config is how a vault is opened.
type Config struct {
	// Dir is the vault's folder; it and its parents are made if need be. Required.
	Dir string
	// Identity opens what the vault sealed. Nil: DIR/key, made at first.
	Identity *age.HybridIdentity
	// Escrow are further keys that can open what is sealed from now on. They
	// must be post-quantum ones, as the device's own is (age1pq…). Empty: none.
	Escrow []age.Recipient
	// Ceiling bounds the sealed content of all items together, in bytes. 0: only the disk does.
	Ceiling int64
	// ReadOnly opens a vault that another process may be working with, to
	// list, read and check it.
	ReadOnly bool
	// Log gets what went another way than expected. Nil: nowhere.
	Log *slog.Logger
	// Now dates items. Nil: time.Now.
	Now func() time.Time
	// Step is called after every step that a crash could fall behind, with its
	// name: where a test kills the process. Nil: not called.
	Step func(name string)
}

// Vault is an open vault. Its methods may be called by several goroutines.
type Vault struct {
	cfg        Config
	dir        string // absolute, without symbolic links
	uid        string // tells this vault's staging folders from another's
	identity   *age.HybridIdentity
	recipients []age.Recipient
	staging    *os.File // DIR/staging
	unlock     func()
	named      bool // set by a test: restore as on a file system without O_TMPFILE

	// lift is held for reading while names are moved, and for writing while
	// a folder's immutable or append-only flag is off: so nobody takes the
	// lifted state for the folder's own.
	lift sync.RWMutex

	syncs durable.Shared // of folders

	mu       sync.Mutex
	used     int64               // bytes of sealed content
	reserved int64               // bytes of content being sealed
	busy     map[string]bool     // items and intents being worked on
	shared   map[shareKey]*share // what an order has sealed, for further copies of the same
	partial  map[string]uint64   // items whose files kept names, and the files' inode numbers
	swept    bool                // Recover has removed what was half-written when the vault was opened
}

// Open opens the vault in cfg.Dir, making it if need be. Call Recover before
// anything else.
func Open(cfg Config) (_ *Vault, err error) {
	cfg.defaults()
	v := &Vault{cfg: cfg, busy: map[string]bool{}, partial: map[string]uint64{}, shared: map[shareKey]*share{}, unlock: func() {}}
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot open vault %s: %w", cfg.Dir, err)
			_ = v.Close() // the first error is the one to report
		}
	}()
	if err := v.enter(); err != nil {
		return nil, err
	}
	if err := v.unseal(); err != nil {
		return nil, err
	}
	v.recipients = append([]age.Recipient{v.identity.Recipient()}, cfg.Escrow...)
	if _, err := age.Encrypt(io.Discard, v.recipients...); err != nil {
		return nil, fmt.Errorf("an escrow key cannot be used beside the device's post-quantum key: %w; give one that begins with age1pq", err)
	}
	if v.used, err = v.measure(); err != nil {
		return nil, err
	}
	v.staging, err = openDir(v.path("staging"))
	return v, err
}

func (c *Config) defaults() {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Step == nil {
		c.Step = func(string) {}
	}
}

// enter makes the folders, or checks those that are there, and locks them.
func (v *Vault) enter() error {
	abs, err := filepath.Abs(v.cfg.Dir)
	if err != nil {
		return err
	}
	if v.cfg.Dir == "" {
		return errors.New("no folder given")
	}
	if !v.cfg.ReadOnly {
		if err := durable.Mkdir(abs, 0o700); err != nil {
			return err
		}
	}
	if v.dir, err = filepath.EvalSymlinks(abs); err != nil {
		return err
	}
	if err := private(v.dir); err != nil {
		return err
	}
	if v.cfg.ReadOnly {
		return nil
	}
	for _, name := range []string{"items", "intents", "staging", "tmp"} {
		if err := durable.Mkdir(v.path(name), 0o700); err != nil {
			return err
		}
		if err := private(v.path(name)); err != nil {
			return err
		}
	}
	v.unlock, err = durable.Lock(v.path("lock"))
	if errors.Is(err, durable.ErrLocked) {
		v.unlock = func() {}
		return fmt.Errorf("%w: another agent works with this vault", err)
	}
	if err != nil {
		v.unlock = func() {}
	}
	return err
}

// Close gives the vault up. What is under way must have ended.
func (v *Vault) Close() error {
	var err error
	if v.staging != nil {
		err = v.staging.Close()
		v.staging = nil
	}
	v.unlock()
	v.unlock = func() {}
	return err
}

func (v *Vault) path(elem ...string) string {
	return filepath.Join(append([]string{v.dir}, elem...)...)
}

func (v *Vault) manifestPath(id string) string { return v.path("items", id+".json") }

func (v *Vault) contentPath(id string) string { return v.path("items", id+".age") }

func (v *Vault) intentPath(id string) string { return v.path("intents", id+".json") }

func (v *Vault) tmpPath(id string) string { return v.path("tmp", id+".age") }

// newID returns 32 random hex digits.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// claim makes the caller the only one to work on an item, until release.
func (v *Vault) claim(id string) error {
	if v.cfg.ReadOnly {
		return ErrReadOnly
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.busy[id] {
		return fmt.Errorf("item %s: %w; try again in a moment", id, ErrBusy)
	}
	v.busy[id] = true
	return nil
}

func (v *Vault) release(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.busy, id)
}

func (v *Vault) claimed(id string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.busy[id]
}
