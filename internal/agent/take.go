// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"

	"staunch/internal/agent/guard"
	"staunch/internal/agent/index"
	"staunch/internal/agent/inode"
	"staunch/internal/agent/vault"
	"staunch/internal/order"
)

// taken is one copy and what became of it.
type taken struct {
	index.Copy
	nameless bool            // reached only through a process; there is no place to take it from
	guarded  bool            // the guard lets it be taken
	state    order.CopyState // "" while nothing has become of it
	item     string
	err      error
	doneNs   int64
}

func (t *taken) wire() order.Copy {
	w := order.Copy{
		Dev: t.Stat.Dev, Ino: t.Stat.Ino, SHA1: t.Sum.SHA1, SHA256: t.Sum.SHA256, Size: t.Sum.Size,
		UID: t.Stat.UID, GID: t.Stat.GID, Mode: t.Stat.Mode, State: t.state, Item: t.item, DoneNs: t.doneNs,
	}
	for _, p := range t.Paths {
		w.Paths = append(w.Paths, order.TextOf(p))
	}
	if w.State == "" {
		w.State = order.InPlace
	}
	if t.err != nil {
		w.Error = t.err.Error()
		var errno syscall.Errno
		if errors.As(t.err, &errno) {
			w.Errno = int(errno)
		}
	}
	return w
}

// guard refuses what must not be taken, and checks for room, before anything is changed.
func (c *containment) guard(ctx context.Context) error {
	var files []guard.File
	var room int64
	for _, t := range c.open() {
		if id, ok := c.policy.allows(t.Sum.Hash()); ok {
			return fail(order.Protected, "indicator %d allows this content: delete it first, if it is to be contained", id)
		}
		files = append(files, guard.File{File: t.File, ID: t.Stat.ID, Sum: t.Sum, Paths: t.Paths})
		room += vault.Stored(t.File, t.Sum.Size)
		t.guarded = true
	}
	err := c.rules.Check(ctx, files, c.Force)
	var refusal *guard.Refusal
	if errors.As(err, &refusal) {
		return fail(order.Protected, "%w", refusal)
	}
	if err != nil {
		return err
	}
	if c.DryRun {
		return nil
	}
	if err := c.vault.Room(room); err != nil {
		return fail(order.NoSpace, "%w; nothing was moved", err)
	}
	return nil
}

// open are the copies that still have to be dealt with.
func (c *containment) open() []*taken {
	return slices.DeleteFunc(slices.Clone(c.copies), func(t *taken) bool { return t.state != "" })
}

// take seals every copy and removes it from its place.
func (c *containment) take(ctx context.Context) error {
	if slices.ContainsFunc(c.open(), func(t *taken) bool { return !t.guarded }) {
		if err := c.guard(ctx); err != nil { // of what the hold has turned up
			return err
		}
	}
	if slices.ContainsFunc(c.open(), func(t *taken) bool { return t.nameless && t.named() }) {
		if err := c.searchForeign(ctx); err != nil { // for the names that only its processes see
			return err
		}
	}
	todo := c.open()
	c.takeAll(ctx, todo)
	all, left, moved := len(todo), 0, 0
	var firstErr error
	for _, t := range todo {
		switch {
		case t.err == nil:
		case errors.Is(t.err, vault.ErrMoved):
			moved++
			t.err = nil
		default:
			left++
			if firstErr == nil {
				firstErr = t.err
			}
		}
		if t.state == order.Gated {
			c.note("%s: %s", first(t.Paths), t.Note)
		}
	}
	if left == 0 && moved > 0 {
		return fmt.Errorf("%w: %d copies were renamed meanwhile", errRound, moved)
	}
	if left == 0 {
		return nil
	}
	if errors.Is(firstErr, vault.ErrNoSpace) && left == all {
		return fail(order.NoSpace, "%w; nothing was moved", firstErr)
	}
	return fail(order.Partial, "%d of %d copies quarantined: %w", all-left, all, firstErr)
}

func (c *containment) takeOne(ctx context.Context, t *taken) error {
	if t.Layer == index.LayerLower {
		t.state = order.Gated
		return nil
	}
	why := vault.Why{Order: c.ID, Comment: c.Comment, Requestor: c.Requestor}
	if t.nameless {
		return c.sealOpen(ctx, t, why)
	}
	g, err := c.vault.Grab(ctx, t.File, t.Paths, c.File.Matches)
	switch {
	case errors.Is(err, vault.ErrMoved):
		return err
	case errors.Is(err, vault.ErrVanished): // somebody removed it: what we have open is all there is
		return c.sealOpen(ctx, t, why)
	case errors.Is(err, vault.ErrChanged):
		t.state = order.PutBack
		return err
	case err != nil:
		t.state = order.InPlace
		return err
	}
	item, err := c.vault.Seal(ctx, g, why)
	if err != nil {
		t.state = order.PutBack
		return errors.Join(err, g.PutBack(ctx))
	}
	err = g.Remove(ctx)
	if errors.Is(err, vault.ErrChanged) {
		t.state = order.PutBack
		return errors.Join(err, g.PutBack(ctx))
	}
	t.state, t.item = order.Sealed, item.ID
	return err // a *vault.LeftError: sealed, but some of its names are left
}

// takers is how many copies are taken at once: most of the time of a small one
// is spent waiting for the disk, which syncs many as fast as one.
const takers = 16

// each calls do for every copy, some at a time, and waits for all.
func (c *containment) each(todo []*taken, do func(*taken)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, takers)
	for _, t := range todo {
		slots <- struct{}{}
		wg.Go(func() {
			do(t)
			<-slots
		})
	}
	wg.Wait()
}

// sealOpen seals a file that can be reached only through its descriptor.
func (c *containment) sealOpen(ctx context.Context, t *taken, why vault.Why) error {
	item, err := c.vault.SealOpen(ctx, t.File, why)
	if err != nil {
		t.state = order.InPlace
		return err
	}
	t.state, t.item = order.Sealed, item.ID
	for try := 0; t.named(); try++ { // a namespace ends some moments after its last process
		if !index.Reachable(t.File) {
			return nil
		}
		if try == patience {
			t.state = order.InPlace
			return fmt.Errorf("sealed as %s, but it has a name that cannot be reached from here: on a file system that only its processes had mounted", item.ID)
		}
		c.wait(ctx, patienceWait)
	}
	return nil
}

// named reports whether the file has a name somewhere.
func (t *taken) named() bool {
	st, err := inode.Of(t.File)
	return err != nil || st.Nlink > 0
}

func copyOf(i order.Item) order.Copy {
	return order.Copy{
		Paths: i.Paths, SHA1: i.SHA1, SHA256: i.SHA256, Size: i.Size, UID: i.UID, GID: i.GID, Mode: i.Mode, State: order.Sealed, Item: i.ID,
	}
}

func first(paths []string) order.Text {
	if len(paths) == 0 {
		return "(no name)"
	}
	return order.TextOf(paths[0])
}
