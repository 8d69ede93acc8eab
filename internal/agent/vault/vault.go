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
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"filippo.io/age"
	"golang.org/x/sys/unix"

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

	mu       sync.Mutex
	used     int64           // bytes of sealed content
	reserved int64           // bytes of content being sealed
	busy     map[string]bool // items and intents being worked on
}

// Open opens the vault in cfg.Dir, making it if need be. Call Recover before
// anything else.
func Open(cfg Config) (_ *Vault, err error) {
	cfg.defaults()
	v := &Vault{cfg: cfg, busy: map[string]bool{}, unlock: func() {}}
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

// private checks that a folder belongs to us alone.
func private(dir string) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("%s is not a folder", dir)
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to user %d, not to %d who runs this; give it back with chown or choose another folder", dir, st.Uid, os.Geteuid())
	case st.Mode&0o077 != 0:
		return fmt.Errorf("others may enter %s (mode %04o); run chmod 700 %s", dir, st.Mode&0o7777, dir)
	}
	return nil
}

// about is vault.json: what the folder is and which key opens it.
type about struct {
	Version   int    `json:"version"`
	UID       string `json:"uid"`       // 16 hex digits, random: names this vault's staging folders
	Recipient string `json:"recipient"` // the device key's public half
}

// unseal reads or makes the key, and checks that it is this vault's.
func (v *Vault) unseal() error {
	var a about
	b, err := readBounded(v.path("vault.json"))
	switch {
	case errors.Is(err, fs.ErrNotExist) && !v.cfg.ReadOnly:
		return v.found()
	case err != nil:
		return err
	}
	if err := decodeFrame("vault", b, &a); err != nil {
		return fmt.Errorf("%s: %w", v.path("vault.json"), err)
	}
	if a.Version != Version {
		return fmt.Errorf("its format is version %d, this agent knows version %d: use the agent that wrote it", a.Version, Version)
	}
	if raw, err := hex.DecodeString(a.UID); err != nil || len(raw) != 8 {
		return fmt.Errorf("%s: uid %q is not 16 hex digits", v.path("vault.json"), a.UID)
	}
	v.uid = a.UID
	if v.identity = v.cfg.Identity; v.identity == nil {
		if v.identity, err = readKey(v.path("key")); err != nil {
			return fmt.Errorf("%w; without its key nothing in the vault can be opened here: bring the key back, or open the items with the escrow key", err)
		}
	}
	if have := v.identity.Recipient().String(); have != a.Recipient {
		return fmt.Errorf("it was sealed with another key (%.20s…) than the one at hand (%.20s…): bring back the key that belongs to it", a.Recipient, have)
	}
	return nil
}

// found makes a new vault. vault.json comes last: with it, the key is there.
func (v *Vault) found() error {
	if left, err := os.ReadDir(v.path("items")); err != nil || len(left) > 0 {
		return errors.Join(err, fmt.Errorf("there are items, but no %s: bring it back", v.path("vault.json")))
	}
	if v.identity = v.cfg.Identity; v.identity == nil {
		id, err := age.GenerateHybridIdentity()
		if err != nil {
			return err
		}
		if err := durable.WriteFile(v.path("key"), []byte(id.String()+"\n"), 0o600); err != nil {
			return err
		}
		v.identity = id
	}
	v.uid = newID()[:16]
	b, err := encodeFrame("vault", about{Version: Version, UID: v.uid, Recipient: v.identity.Recipient().String()})
	if err != nil {
		return err
	}
	return durable.WriteFile(v.path("vault.json"), b, 0o600)
}

func readKey(path string) (*age.HybridIdentity, error) {
	b, err := readBounded(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the vault's key: %w", err)
	}
	id, err := age.ParseHybridIdentity(strings.TrimSpace(string(b)))
	if err != nil {
		return nil, fmt.Errorf("cannot read the vault's key %s: %w", path, err)
	}
	return id, nil
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
func (v *Vault) contentPath(id string) string  { return v.path("items", id+".age") }
func (v *Vault) intentPath(id string) string   { return v.path("intents", id+".json") }
func (v *Vault) tmpPath(id string) string      { return v.path("tmp", id+".age") }

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
