// SPDX-License-Identifier: Apache-2.0

package index

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"staunch/internal/agent/inode"
	"staunch/internal/filehash"
)

// Candidate is a file that had a content when it was last read, or may have it
// now. It is a hint until Verify has opened and read it.
type Candidate struct {
	Paths  []string // as last seen, any bytes
	ID     inode.ID
	Size   int64        // bytes
	Sum    filehash.Sum // of what was last read; zero: never read
	Stale  bool         // it changed since
	volume int64
	spots  []spot
	own    handle
}

// Answer is what the index knows of a content.
type Answer struct {
	Copies []Candidate

	// Complete: apart from Copies, no file below the covered roots had this
	// content at AsOf, which is when the last Barrier was called if that is
	// still fresh (2 s). AsOf is zero when none is: then Complete is about the
	// events read so far, some 100 ms behind. Otherwise Why says what stands
	// against it.
	Complete bool
	AsOf     time.Time
	Why      string

	// Unsure are files that may have the content because they changed since
	// they were last read. When they are all that stands against Complete,
	// OnlyUnsure is true: whoever verifies each of them needs no search.
	Unsure     []Candidate
	OnlyUnsure bool
}

// unsureLimit bounds Answer.Unsure: to verify more is to search.
const unsureLimit = 64

// fresh is how long a Barrier's word holds against what changes meanwhile.
const fresh = 2 * time.Second

// Lookup answers from the rows, without reading any file.
func (x *Index) Lookup(ctx context.Context, h filehash.Hash) (a Answer, err error) {
	if h.IsZero() {
		return a, errors.New("cannot look up: no hash given; name the content by SHA-1 or SHA-256")
	}
	d := x.db.Load()
	if d == nil {
		return Answer{Why: errAnew.Error()}, nil
	}
	active := x.active()
	if a.Copies, err = x.candidates(ctx, d, active, h); err != nil {
		return a, fmt.Errorf("cannot look up: %w", err)
	}
	size := int64(-1) // the content's, if any row tells
	for _, c := range a.Copies {
		if !c.Stale {
			size = c.Size
		}
	}
	if err := x.vouch(ctx, d, active, &a, size); err != nil {
		return a, fmt.Errorf("cannot look up: %w", err)
	}
	return a, nil
}

const candidateColumns = "SELECT id, fs, ino, size, COALESCE(sha1, x''), COALESCE(sha256, x''), since IS NOT NULL, COALESCE(handle, x'') FROM file "

// candidates finds the rows with a content.
func (x *Index) candidates(ctx context.Context, d *db, active map[int64]*volume, h filehash.Hash) ([]Candidate, error) {
	k1, k2 := keys(h)
	query, key := candidateColumns+"WHERE k1=? LIMIT ?", k1
	if h.SHA1.IsZero() {
		query, key = candidateColumns+"WHERE k2=? LIMIT ?", k2
	}
	list, err := x.list(ctx, d, active, query, key, copyLimit+1)
	list = slices.DeleteFunc(list, func(c Candidate) bool { return !h.Matches(c.Sum) })
	return list, err
}

// list reads what candidateColumns tell, and the names.
func (x *Index) list(ctx context.Context, d *db, active map[int64]*volume, query string, args ...any) (all []Candidate, err error) {
	var ids []int64
	err = d.rows(ctx, query, args, func(scan func(...any) error) error {
		var id int64
		var one, two, own []byte
		var c Candidate
		if err := scan(&id, &c.volume, &c.ID.Ino, &c.Size, &one, &two, &c.Stale, &own); err != nil {
			return err
		}
		v := active[c.volume]
		if v == nil {
			return nil
		}
		copy(c.Sum.SHA1[:], one)
		copy(c.Sum.SHA256[:], two)
		c.Sum.Size, c.ID.Dev, c.own = c.Size, v.root.Dev, handle(own)
		all, ids = append(all, c), append(ids, id)
		return nil
	})
	for i := range all {
		if err == nil {
			err = x.nameIt(ctx, d, active[all[i].volume], ids[i], &all[i])
		}
	}
	return all, err
}

// nameIt adds the names of a row.
func (x *Index) nameIt(ctx context.Context, d *db, v *volume, id int64, c *Candidate) error {
	err := d.rows(ctx, "SELECT d.id, d.ino, d.handle, n.name FROM name n JOIN dir d ON d.id=n.dir WHERE n.file=?", []any{id},
		func(scan func(...any) error) error {
			var s spot
			var h, name []byte
			err := scan(&s.dir.id, &s.dir.ino, &h, &name)
			s.dir.handle, s.name = handle(h), string(name)
			c.spots = append(c.spots, s)
			return err
		})
	for _, s := range c.spots {
		if err != nil {
			return err
		}
		var names []string
		if names, err = x.chain(ctx, s.dir.id); err == nil {
			c.Paths = append(c.Paths, v.path(append(names, s.name)...))
		} else if errors.Is(err, errMoving) {
			err = nil // the handle leads there
		}
	}
	slices.Sort(c.Paths)
	return err
}

// vouch decides how far the answer's word goes.
func (x *Index) vouch(ctx context.Context, d *db, active map[int64]*volume, a *Answer, size int64) error {
	x.mu.Lock()
	as, gaps := x.as, slices.Clone(x.gaps)
	x.mu.Unlock()
	a.AsOf = as.at
	isFresh := !as.at.IsZero() && x.now().Sub(as.at) <= fresh
	if !isFresh {
		as.epoch, a.AsOf = math.MaxInt64, time.Time{}
	}
	a.Why = x.obstacle(active, gaps, isFresh)
	if a.Why == "" && len(a.Copies) > copyLimit {
		a.Why = fmt.Sprintf("more than %d files have this content", copyLimit)
	}
	if a.Why == "" {
		err := x.unreadable(ctx, d, active, a)
		if err != nil {
			return err
		}
	}
	n, err := x.unsure(ctx, d, active, a, size, as.epoch)
	if err != nil || a.Why != "" {
		return err
	}
	a.Complete = n == 0
	if n > 0 {
		a.OnlyUnsure = n <= unsureLimit
		a.Why = fmt.Sprintf("%d files changed and were not read again yet", n)
	}
	return nil
}

// obstacle says what stands against vouching for anything, or "".
func (x *Index) obstacle(active map[int64]*volume, gaps []string, isFresh bool) string {
	switch {
	case x.full.Load():
		return x.wantsRoom()
	case len(gaps) > 0:
		return "not covered: " + gaps[0]
	case len(active) == 0:
		return "the index is not at work"
	}
	for _, v := range active {
		switch {
		case !v.whole.Load():
			return "the index is still being built: " + gap(v.point, fmt.Sprintf("%.0f %%", 100*x.progress(v)))
		case !v.ready.Load():
			return "not everything is looked at yet: " + gap(v.point, "changed, or being looked at again")
		case v.notCovered() != "":
			return "not covered: " + v.notCovered()
		case v.group == nil && !isFresh:
			return "what changed is not known: " + gap(v.point, v.whyNot)
		}
	}
	return ""
}

// unreadable refuses to vouch while a folder cannot be listed.
func (x *Index) unreadable(ctx context.Context, d *db, active map[int64]*volume, a *Answer) error {
	for fs, v := range active {
		var text string
		var dir int64
		ok, err := d.one(ctx, "SELECT id, err FROM dir WHERE fs=? AND err IS NOT NULL LIMIT 1", []any{fs}, &dir, &text)
		if err != nil {
			return err
		}
		if ok {
			names, err := x.chain(ctx, dir)
			a.Why = "not covered: " + gap(v.path(names...), text)
			return err
		}
	}
	return nil
}

// unsure lists the files that changed before epoch ended and could have a
// content of the given size, and returns how many there are.
func (x *Index) unsure(ctx context.Context, d *db, active map[int64]*volume, a *Answer, size, epoch int64) (n int, err error) {
	where := "WHERE since IS NOT NULL AND fs=? AND since<=?"
	if size >= 0 {
		where = "WHERE since IS NOT NULL AND fs=? AND size=? AND since<=?"
	}
	for fs := range active {
		args := []any{fs, epoch}
		if size >= 0 {
			args = []any{fs, size, epoch}
		}
		var k int
		if _, err := d.one(ctx, "SELECT COUNT(*) FROM file "+where, args, &k); err != nil {
			return n, err
		}
		n += k
		if k > 0 && len(a.Unsure) < unsureLimit {
			more, err := x.list(ctx, d, active, candidateColumns+where+" LIMIT ?", append(args, unsureLimit-len(a.Unsure))...)
			if err != nil {
				return n, err
			}
			a.Unsure = append(a.Unsure, more...)
		}
	}
	return n, nil
}
