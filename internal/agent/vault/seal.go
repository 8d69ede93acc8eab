// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
	"staunch/internal/filehash"
	"staunch/internal/order"
)

// Why says on whose account a file is sealed.
type Why struct {
	Order     string // the order's id; empty: by hand
	Comment   string
	Requestor string
}

// Seal writes the grabbed file into the vault, encrypted, and reads it back.
// When it returns, the item is on the disk and verified; the staged file is
// still there. An error leaves no item; the caller then calls PutBack. A file
// that is sealed already, and kept a name then, gets no second item.
// ErrChanged: somebody wrote to the file. ErrNoSpace: there is no room.
//
//	read|hash|encrypt|write fdatasync read|decrypt|hash rename write(manifest) fsync rename fsync(items)
func (v *Vault) Seal(ctx context.Context, g *Grabbed, why Why) (order.Item, error) {
	if g.v != v || g.ended || g.sealed {
		return order.Item{}, errors.New("cannot seal file: it is not one that waits for it")
	}
	if m := v.prior(ctx, g); m != nil {
		g.prior, g.sealed = m, true
		return m.Item(), nil
	}
	m := v.manifest(g.in.ID, g.sum, g.meta, why)
	m.Names = g.in.Names
	if err := v.storeAlike(ctx, g.file, m, g.unchanged); err != nil {
		return order.Item{}, fmt.Errorf("cannot seal file: %w", err)
	}
	g.sealed = true
	return m.Item(), nil
}

// SealOpen seals a file that has no name (a deleted executable, one in
// memory) from a descriptor. It leaves the file alone.
func (v *Vault) SealOpen(ctx context.Context, f *os.File, why Why) (_ order.Item, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot seal open file %q: %w", order.TextOf(f.Name()), err)
		}
	}()
	id := newID()
	if err := v.claim(id); err != nil {
		return order.Item{}, err
	}
	defer v.release(id)
	st, err := inode.Of(f)
	if err == nil && !st.Regular() {
		err = errors.New("it is not a regular file")
	}
	if err != nil {
		return order.Item{}, err
	}
	if err := v.Room(Stored(f, st.Size)); err != nil {
		return order.Item{}, err
	}
	meta, err := readMeta(f)
	if err != nil {
		return order.Item{}, err
	}
	if quiet, err := reread(f); err == nil { // else its access time moves
		defer quiet.Close() //nolint:errcheck // read only
		f = quiet
	}
	g := &Grabbed{v: v, file: f, stat: st}
	if g.sum, err = hashFile(ctx, f, st.Size); err != nil {
		return order.Item{}, err
	}
	in := &Intent{Version: Version, ID: id, Doing: sealing, Began: v.cfg.Now().UTC(), Dev: st.Dev, Ino: st.Ino, Mode: st.Mode, Flags: meta.Flags}
	if err := v.writeIntent(in); err != nil {
		return order.Item{}, err
	}
	v.cfg.Step("sealopen:intent")
	m := v.manifest(id, g.sum, meta, why)
	if err := v.storeAlike(ctx, f, m, g.unchanged); err != nil {
		return order.Item{}, errors.Join(err, v.closeIntent(id))
	}
	disarm(f)
	return m.Item(), v.closeIntent(id)
}

func (v *Vault) manifest(id string, sum filehash.Sum, meta Meta, why Why) *Manifest {
	return &Manifest{
		Version: Version, ID: id, State: Sealed,
		Order: why.Order, Comment: why.Comment, Requestor: why.Requestor, Sealed: v.cfg.Now().UTC(),
		SHA1: sum.SHA1, SHA256: sum.SHA256, Size: sum.Size, Meta: meta, Recipients: len(v.recipients),
	}
}

// store makes an item of src. Its commit is the manifest's name; whatever
// fails before, nothing of the item is left.
func (v *Vault) store(ctx context.Context, src *os.File, m *Manifest, unchanged func(context.Context) error) (err error) {
	p := planOf(src, m.Size)
	m.Sparse, m.Extents = p.sparse, p.extents
	giveBack, err := v.reserve(p.stored())
	if err != nil {
		return err
	}
	defer giveBack()
	defer func() {
		if err != nil {
			err = errors.Join(full(err), v.drop(m.ID))
		}
	}()
	tmp, err := os.OpenFile(v.tmpPath(m.ID), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer tmp.Close() //nolint:errcheck // synced, or given up
	if err := v.encrypt(ctx, tmp, src, m); err != nil {
		return err
	}
	if err := unix.Fdatasync(int(tmp.Fd())); err != nil {
		return fmt.Errorf("cannot sync sealed content: %w", err)
	}
	fi, err := tmp.Stat()
	if err != nil {
		return err
	}
	m.Stored = fi.Size()
	v.cfg.Step("seal:written")
	if err := v.readBack(ctx, tmp, src, m, unchanged); err != nil {
		return fmt.Errorf("cannot read back what was sealed: %w", err)
	}
	if err := unchanged(ctx); err != nil {
		return err
	}
	return v.commit(m)
}

// commit needs one sync of the folder for both names: a manifest without its
// whole content is no item, and Recover knows that.
func (v *Vault) commit(m *Manifest) error {
	if err := os.Rename(v.tmpPath(m.ID), v.contentPath(m.ID)); err != nil {
		return err
	}
	v.account(m.Stored, 0)
	v.cfg.Step("seal:content")
	return v.writeManifest(m)
}

func (v *Vault) writeManifest(m *Manifest) error {
	b, err := encodeManifest(m)
	if err == nil {
		err = v.syncs.WriteFile(v.manifestPath(m.ID), b, 0o600)
	}
	if err == nil {
		v.cfg.Step("seal:committed")
	}
	return err
}

// encrypt writes src's content to dst and compares it with the manifest on the way.
func (v *Vault) encrypt(ctx context.Context, dst, src *os.File, m *Manifest) error {
	w, err := age.Encrypt(&pacer{f: dst}, v.recipients...)
	if err != nil {
		return err
	}
	hash, sum := sha256of()
	if err := m.plan().run(ctx, readAt(src), hash, storing(w)); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if sum() != m.SHA256 {
		return fmt.Errorf("%w: it has sha256 %s now", ErrChanged, sum())
	}
	return nil
}

// pacer has the kernel begin to write while more is coming, so that the sync
// at the end has little left to wait for.
type pacer struct {
	f          *os.File
	off, asked int64
}

const pace = 8 << 20 // bytes

func (p *pacer) Write(b []byte) (int, error) {
	n, err := p.f.Write(b)
	p.off += int64(n)
	if p.off-p.asked >= pace {
		// Only a hint; fdatasync says whether it worked.
		_ = unix.SyncFileRange(int(p.f.Fd()), p.asked, p.off-p.asked, unix.SYNC_FILE_RANGE_WRITE)
		p.asked = p.off
	}
	return n, err
}

// verify decrypts sealed content and compares it with its manifest.
func (v *Vault) verify(ctx context.Context, f io.ReaderAt, m *Manifest) error {
	hash, sum := sha256of()
	if err := v.decrypt(ctx, f, m, hash); err != nil {
		return err
	}
	if sum() != m.SHA256 {
		return fmt.Errorf("%w: its content has sha256 %s, the manifest says %s", ErrDamaged, sum(), m.SHA256)
	}
	return nil
}

// decrypt passes the pieces of the file that was sealed to the sinks.
func (v *Vault) decrypt(ctx context.Context, f io.ReaderAt, m *Manifest, sinks ...func(block) error) error {
	disk := &diskReader{r: io.NewSectionReader(f, 0, m.Stored)}
	r, err := age.Decrypt(disk, v.identity)
	if err != nil {
		return disk.blame(err)
	}
	var broken error
	read := readNext(r)
	err = m.plan().run(ctx, func(p []byte, off int64) error {
		broken = read(p, off)
		return broken
	}, sinks...)
	switch {
	case broken != nil:
		return disk.blame(broken)
	case err != nil:
		return err
	}
	switch _, err := io.ReadFull(r, make([]byte, 1)); {
	case err == nil:
		return fmt.Errorf("%w: its content is longer than the manifest says", ErrDamaged)
	case !errors.Is(err, io.EOF):
		return disk.blame(err)
	}
	return nil
}

// diskReader tells a disk that does not give the sealed bytes from bytes that
// are not what was sealed: only the second is damage.
type diskReader struct {
	r   io.Reader
	err error
}

func (d *diskReader) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		d.err = err
	}
	return n, err
}

// blame explains why content could not be decrypted.
func (d *diskReader) blame(err error) error {
	if d.err != nil {
		return fmt.Errorf("its content cannot be read: %w", d.err)
	}
	return fmt.Errorf("%w: its content cannot be decrypted: %w", ErrDamaged, err)
}

// drop removes what there is of an item, the manifest first: without it the
// rest is no item.
func (v *Vault) drop(id string) error {
	if _, err := os.Lstat(v.manifestPath(id)); !errors.Is(err, fs.ErrNotExist) {
		if err := v.syncs.Remove(v.manifestPath(id)); err != nil {
			return err
		}
	}
	err := v.unlinkContent(id)
	if e := os.Remove(v.tmpPath(id)); e != nil && !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return err
}
