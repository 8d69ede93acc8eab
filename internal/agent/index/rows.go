// SPDX-License-Identifier: Apache-2.0

package index

import (
	"encoding/binary"
	"errors"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/filehash"
)

// dirRow is a row of dir.
type dirRow struct {
	id     int64
	ino    int64
	handle handle // "": the file system, or our rights, have none
	parent int64  // 0: the root
	seen   int64
}

// fileRow is what is compared of a row of file.
type fileRow struct {
	id int64
	stamp
	dirty bool // since is set
	heat  int64
	done  int64 // due of a clean row: when it was hashed, in Unix milliseconds
}

func (t tx) dirByHandle(fs int64, h handle) (d dirRow, ok bool, err error) {
	d.handle = h
	ok, err = t.one("SELECT id, ino, parent, seen FROM dir WHERE fs=? AND handle=? AND handle<>x''",
		[]any{fs, []byte(h)}, &d.id, &d.ino, &d.parent, &d.seen)
	return d, ok, err
}

func (t tx) dirByIno(fs, ino int64) (d dirRow, ok bool, err error) {
	var h []byte
	ok, err = t.one("SELECT id, handle, parent, seen FROM dir WHERE fs=? AND ino=?", []any{fs, ino}, &d.id, &h, &d.parent, &d.seen)
	d.ino, d.handle = ino, handle(h)
	return d, ok, err
}

// putDir makes the row of the folder called name in parent. A row of the same
// inode number but another handle was another folder, which is gone.
func (t tx) putDir(fs, parent int64, name string, ino int64, h handle, gen int64) (int64, error) {
	old, ok, err := t.dirByIno(fs, ino)
	if err != nil {
		return 0, err
	}
	if ok && old.handle == h {
		_, err = t.exec("UPDATE dir SET parent=?, name=?, seen=? WHERE id=?", parent, []byte(name), gen, old.id)
		return old.id, err
	}
	if ok {
		if err := t.removeTree(old.id); err != nil {
			return 0, err
		}
	}
	return t.insert("INSERT INTO dir (fs, ino, handle, parent, name, seen, listed) VALUES (?,?,?,?,?,?,-1)",
		fs, ino, []byte(h), parent, []byte(name), gen)
}

// removeTree forgets a folder and all below it.
func (t tx) removeTree(id int64) error {
	var ids []int64
	err := t.rows("WITH RECURSIVE below(id) AS (SELECT ? UNION SELECT dir.id FROM dir JOIN below ON dir.parent=below.id) SELECT id FROM below",
		[]any{id}, func(scan func(...any) error) error {
			var d int64
			err := scan(&d)
			ids = append(ids, d)
			return err
		})
	for _, d := range ids {
		if err == nil {
			err = t.removeDir(d)
		}
	}
	return err
}

func (t tx) removeDir(id int64) error {
	_, err := t.exec("INSERT OR IGNORE INTO loose SELECT file FROM name WHERE dir=?", id)
	if err == nil {
		_, err = t.exec("DELETE FROM name WHERE dir=?", id)
	}
	if err == nil {
		_, err = t.exec("DELETE FROM dir WHERE id=?", id)
	}
	return err
}

func (t tx) fileByIno(fs, ino int64) (f fileRow, ok bool, err error) {
	ok, err = t.one("SELECT id, size, mtime, ctime, since IS NOT NULL, heat, COALESCE(due, 0) FROM file WHERE fs=? AND ino=?",
		[]any{fs, ino}, &f.id, &f.size, &f.mtime, &f.ctime, &f.dirty, &f.heat, &f.done)
	f.ino = ino
	return f, ok, err
}

// knownAs reports whether the row of a name already says all of it: by far the
// most frequent case of a scan, in one query.
func (t tx) knownAs(dir int64, name string, f *facts) (id int64, known bool, err error) {
	var row stamp
	ok, err := t.one("SELECT f.id, f.ino, f.size, f.mtime, f.ctime FROM name n JOIN file f ON f.id=n.file WHERE n.dir=? AND n.name=?",
		[]any{dir, []byte(name)}, &id, &row.ino, &row.size, &row.mtime, &row.ctime)
	return id, ok && row == f.stamp, err
}

// putName makes name in dir one of the file's. What had the name before loses it.
func (t tx) putName(dir int64, name string, file int64) error {
	var old int64
	ok, err := t.one("SELECT file FROM name WHERE dir=? AND name=?", []any{dir, []byte(name)}, &old)
	if err != nil || (ok && old == file) {
		return err
	}
	if ok {
		if err := t.loose(old); err != nil {
			return err
		}
	}
	_, err = t.exec("INSERT OR REPLACE INTO name (dir, name, file) VALUES (?,?,?)", dir, []byte(name), file)
	return err
}

func (t tx) loose(file int64) error {
	_, err := t.exec("INSERT OR IGNORE INTO loose (file) VALUES (?)", file)
	return err
}

// dropName removes a name unless it is keep's.
func (t tx) dropName(dir int64, name string, keep int64) error {
	var file int64
	ok, err := t.one("SELECT file FROM name WHERE dir=? AND name=?", []any{dir, []byte(name)}, &file)
	if err != nil || !ok || file == keep {
		return err
	}
	if err := t.loose(file); err != nil {
		return err
	}
	_, err = t.exec("DELETE FROM name WHERE dir=? AND name=?", dir, []byte(name))
	return err
}

// sweep forgets the loose files that have no name left.
func (t tx) sweep() error {
	_, err := t.exec("DELETE FROM file WHERE id IN (SELECT file FROM loose WHERE NOT EXISTS (SELECT 1 FROM name WHERE name.file=loose.file))")
	if err == nil {
		_, err = t.exec("DELETE FROM loose")
	}
	return err
}

// emptySum is what every empty file sums up to, without opening it.
var emptySum = filehash.NewWriter().Sum()

// When a dirty file is hashed: due orders the queue, and is a time in Unix
// milliseconds where the file was written to.
const (
	dueFirst = -1 // executed now
	dueSoon  = 0
	dueLate  = 1 // large: after all others
)

// lateSize is from where a file is large, in bytes.
const lateSize = 64 << 20

// heatLimit bounds how often the wait of a file that is written again and again is doubled.
const heatLimit = 8

// putFile makes the row of an inode say what is seen of it now. A stamp that
// differs makes it dirty.
func (t tx) putFile(v *volume, f *facts, first bool) (int64, error) {
	old, ok, err := t.fileByIno(v.fs, f.ino)
	switch {
	case err != nil:
		return 0, err
	case ok && old.stamp == f.stamp:
		return old.id, nil
	case f.size == 0:
		return t.putEmpty(v, f, old.id)
	case !ok:
		due := dueSoon
		if first {
			due = dueFirst
		} else if f.size > lateSize {
			due = dueLate
		}
		return t.insert("INSERT INTO file (fs, ino, size, mtime, ctime, since, due) VALUES (?,?,?,?,?,?,?)",
			v.fs, f.ino, f.size, f.mtime, f.ctime, v.x.epoch.Load(), due)
	case old.dirty:
		_, err = t.exec("UPDATE file SET size=?, mtime=?, ctime=? WHERE id=?", f.size, f.mtime, f.ctime, old.id)
		return old.id, err
	}
	now := v.x.now()
	heat := min(old.heat+1, heatLimit)
	if now.UnixMilli()-old.done > 600_000 { // it was quiet for ten minutes
		heat = 0
	}
	_, err = t.exec("UPDATE file SET size=?, mtime=?, ctime=?, since=?, due=?, heat=? WHERE id=?",
		f.size, f.mtime, f.ctime, v.x.epoch.Load(), now.Add(v.x.cfg.Debounce<<heat).UnixMilli(), heat, old.id)
	return old.id, err
}

func (t tx) putEmpty(v *volume, f *facts, id int64) (int64, error) {
	k1, k2 := keys(emptySum.Hash())
	if id != 0 {
		_, err := t.exec("UPDATE file SET size=0, mtime=?, ctime=?, sha1=?, sha256=?, k1=?, k2=?, since=NULL, err=NULL WHERE id=?",
			f.mtime, f.ctime, emptySum.SHA1[:], emptySum.SHA256[:], k1, k2, id)
		return id, err
	}
	return t.insert("INSERT INTO file (fs, ino, size, mtime, ctime, sha1, sha256, k1, k2) VALUES (?,?,0,?,?,?,?,?,?)",
		v.fs, f.ino, f.mtime, f.ctime, emptySum.SHA1[:], emptySum.SHA256[:], k1, k2)
}

// hashed stores what the file sums up to; its stamp was stored just before.
func (t tx) hashed(id int64, sum *filehash.Sum, now time.Time) error {
	k1, k2 := keys(sum.Hash())
	_, err := t.exec("UPDATE file SET sha1=?, sha256=?, k1=?, k2=?, since=NULL, due=?, err=NULL WHERE id=?",
		sum.SHA1[:], sum.SHA256[:], k1, k2, now.UnixMilli(), id)
	return err
}

// examined stores what a file summed up to a moment ago that has changed again
// since: it stays dirty, but only from after the barrier on, if there is one.
func (t tx) examined(id int64, sum *filehash.Sum, now time.Time, wait time.Duration, barrier int64) error {
	k1, k2 := keys(sum.Hash())
	_, err := t.exec("UPDATE file SET sha1=?, sha256=?, k1=?, k2=?, since=MAX(since, ?), due=?, heat=MIN(heat+1, ?), err=NULL WHERE id=? AND since IS NOT NULL",
		sum.SHA1[:], sum.SHA256[:], k1, k2, barrier+1, now.Add(wait).UnixMilli(), heatLimit, id)
	return err
}

// putOff notes why a file could not be hashed, and when to try again. hotter is
// 1 when the next wait after a failure is to be longer.
func (t tx) putOff(id int64, why error, now time.Time, wait time.Duration, hotter int) error {
	var text any
	if why != nil && !errors.Is(why, errChanging) {
		text = strings.ToValidUTF8(why.Error(), "?")
	}
	_, err := t.exec("UPDATE file SET due=?, heat=MIN(heat+?, ?), err=? WHERE id=? AND since IS NOT NULL",
		now.Add(wait).UnixMilli(), hotter, heatLimit, text, id)
	return err
}

// keys returns k1 and k2.
func keys(h filehash.Hash) (k1, k2 int64) {
	return int64(binary.BigEndian.Uint64(h.SHA1[:])), int64(binary.BigEndian.Uint64(h.SHA256[:]))
}

// dirHandle asks for the handle of a name in a folder.
func dirHandle(fd int, name string) handle {
	flags := 0
	if name == "" {
		flags = unix.AT_EMPTY_PATH
	}
	h, _, err := unix.NameToHandleAt(fd, name, flags)
	if err != nil {
		return ""
	}
	return handleOf(h)
}
