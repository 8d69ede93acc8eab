// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"staunch/internal/agent/index"
	"staunch/internal/agent/inode"
	"staunch/internal/agent/process"
	"staunch/internal/order"
)

// find gathers every copy: what the index knows, what runs, and, where the
// index cannot vouch for the rest, what a search turns up.
func (c *containment) find(ctx context.Context) error {
	sealed, err := c.vault.Find(c.File)
	if err != nil {
		return err
	}
	if len(sealed) > 0 {
		c.inVault = sealed[0].Size
	}
	if err := c.look(ctx); err != nil {
		return err
	}
	if len(c.copies) == 0 {
		if err := c.searchForeign(ctx); err != nil {
			return err
		}
	}
	if len(c.copies) == 0 && len(sealed) == 0 && c.ran < 0 {
		if err := c.lookHarder(ctx); err != nil {
			return err
		}
	}
	for _, item := range sealed {
		switch {
		case item.Order == c.ID: // before the agent was interrupted
		case len(c.copies) == 0:
			c.receipt.Code = order.AlreadyQuarantined
		default: // somebody else's account
			continue
		}
		c.receipt.Copies = append(c.receipt.Copies, copyOf(item))
	}
	if len(c.copies) > 0 {
		return c.conflict()
	}
	// Nothing is there, but it was: the gate, the processes and the proof are
	// still due.
	if len(sealed) > 0 || c.ran >= 0 {
		return nil
	}
	return fail(order.FileNotFound, "no file and no process on this device has the hash %s", c.File)
}

// look adds the copies that are there now and are not known yet.
func (c *containment) look(ctx context.Context) error {
	c.vouched = false
	c.unread = nil
	if c.index != nil && len(c.Scan) == 0 {
		found, complete, err := c.lookup(ctx)
		if err != nil {
			return err
		}
		c.add(found...)
		c.vouched = complete
	}
	if !c.vouched {
		if err := c.search(ctx); err != nil {
			return err
		}
	}
	// Last: a copy that was found tells the size, which spares reading nearly
	// all that runs.
	return c.running(ctx)
}

// search adds the copies that lie where the index cannot vouch.
func (c *containment) search(ctx context.Context) error {
	return c.searchIn(ctx, index.SearchConfig{Roots: c.searchRoots()})
}

// searchForeign adds the copies on file systems that only other mount
// namespaces have: those of containers, and of services with folders of their
// own. It comes after the kill, which needs no file system.
func (c *containment) searchForeign(ctx context.Context) error {
	if !c.privileged {
		c.receipt.NotCovered = merge(c.receipt.NotCovered, []string{"file systems of other mount namespaces: only root reaches them"})
		return nil
	}
	return c.searchIn(ctx, index.SearchConfig{Foreign: true, Roots: c.searchRoots()})
}

func (c *containment) searchIn(ctx context.Context, cfg index.SearchConfig) error {
	cfg.Skip, cfg.Hash, cfg.Size, cfg.Log = c.ownFolders(), c.File, c.size(), c.log
	res, err := index.Search(ctx, cfg)
	if err != nil {
		return fmt.Errorf("cannot search for copies: %w", err)
	}
	c.unread = append(c.unread, res.Failed...)
	c.add(res.Copies...)
	if !cfg.Foreign {
		c.vouched = res.Watched
	}
	c.receipt.Searched = merge(c.receipt.Searched, res.Covered)
	c.receipt.NotCovered = merge(c.receipt.NotCovered, res.NotCovered)
	return nil
}

func (c *containment) searchRoots() []string {
	if len(c.Scan) > 0 {
		return c.Scan
	}
	return c.roots
}

// size is the content's size in bytes once a copy has told it, one in the vault
// included, else -1.
func (c *containment) size() int64 {
	if len(c.copies) > 0 {
		return c.copies[0].Sum.Size
	}
	if c.inVault > 0 {
		return c.inVault
	}
	return c.ran
}

// lookup asks the index, after it has taken in all that happened before. It
// vouches for the answer when nothing but what was verified could have the content.
func (c *containment) lookup(ctx context.Context) (found []index.Copy, vouched bool, err error) {
	barrier, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := c.index.Barrier(barrier); err != nil {
		c.log.Debug("the index is behind", "error", err)
	}
	return c.lookupNow(ctx, math.MaxInt)
}

// lookupNow is lookup of what the index knows already, with the first most of
// the copies verified: enough to say that something is there, never that
// nothing is.
func (c *containment) lookupNow(ctx context.Context, most int) (found []index.Copy, vouched bool, err error) {
	answer, err := c.index.Lookup(ctx, c.File)
	if err != nil {
		c.note("the index could not be asked, so the file systems were searched: %v", err)
		return nil, false, nil
	}
	all := slices.Concat(answer.Copies, answer.Unsure)
	vouched = len(all) <= most && (answer.Complete || answer.OnlyUnsure)
	for i, got := range c.verify(ctx, all[:min(most, len(all))]) {
		switch {
		case got.err == nil && c.File.Matches(got.Sum):
			found = append(found, got.Copy)
		case got.err == nil:
			_ = got.File.Close() // read only
		default: // changed or gone since: where the content is now only a search can tell
			c.log.Debug("a candidate is not what it was", "inode", all[i].ID, "error", got.err)
			vouched = false
		}
	}
	if err := ctx.Err(); err != nil {
		return found, false, err
	}
	return found, vouched, nil
}

// A verified candidate is a copy, or why it is none.
type verified struct {
	index.Copy
	err error
}

// verify opens and reads the candidates, on all cores.
func (c *containment) verify(ctx context.Context, all []index.Candidate) []verified {
	out := make([]verified, len(all))
	var next atomic.Int64
	var work sync.WaitGroup
	for range min(len(all), runtime.GOMAXPROCS(0)) {
		work.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(all)); i = next.Add(1) - 1 {
				out[i].Copy, out[i].err = c.index.Verify(ctx, all[i])
			}
		})
	}
	work.Wait()
	return out
}

// running adds the executables of processes: also those that have no name any
// more, and those on file systems nobody searches.
func (c *containment) running(ctx context.Context) error {
	matches, err := c.patiently(ctx, func() ([]process.Match, error) { return c.holder.Look(ctx, c.target()) })
	c.addRunning(matches)
	return c.notAll(err)
}

// patience is how often and how long a look that could not examine every
// process is repeated: another agent's gate, or a scanner, may stand before a
// program that is about to be killed.
const (
	patience     = 5
	patienceWait = 100 * time.Millisecond
)

func (c *containment) patiently(ctx context.Context, look func() ([]process.Match, error)) ([]process.Match, error) {
	for try := 1; ; try++ {
		matches, err := look()
		if err == nil || !c.privileged || try == patience || ctx.Err() != nil {
			return matches, err
		}
		for _, m := range matches {
			if m.File != nil {
				_ = m.File.Close() // read only
			}
		}
		c.wait(ctx, patienceWait)
	}
}

// notAll notes which processes could not be examined. An agent that is not
// root never can; for one that is, it is a failure.
func (c *containment) notAll(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, process.ErrOutrun):
		return fail(order.NotProven, "cannot look at every process: %w", err)
	case c.privileged && errors.Is(err, fs.ErrPermission):
		return fail(order.AccessDenied, "cannot look at every process: %w; somebody else on this machine refuses to have their programs opened, as the gate of another staunch-agent does: order it there, or stop that agent", err)
	case c.privileged:
		return fmt.Errorf("cannot look at every process: %w", err)
	}
	c.receipt.NotCovered = merge(c.receipt.NotCovered, []string{"processes: " + err.Error()})
	return nil
}

func (c *containment) addRunning(matches []process.Match) {
	c.remember(matches)
	for _, m := range matches {
		c.ran = m.Size
		if m.File == nil {
			continue
		}
		got, err := describe(m.File, c.sums)
		if err != nil || c.known(got.Stat.ID) || !c.File.Matches(got.Sum) {
			_ = m.File.Close() // read only
			continue
		}
		if got.Paths = nameOf(m.File, got.Stat.ID); len(got.Paths) > 0 {
			c.add(got) // a process showed a place that was not searched
			continue
		}
		c.copies = append(c.copies, &taken{Copy: got, nameless: true})
	}
}

// nameOf returns the name by which the kernel knows an open file, if that leads
// to it from here: it does not for a file that is deleted, in memory, or on a
// file system that only others have mounted.
func nameOf(f *os.File, id inode.ID) []string {
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		return nil
	}
	if found, ok := at(name); !ok || found != id {
		return nil
	}
	return []string{name}
}

func describe(f *os.File, s *sums) (index.Copy, error) {
	st, err := inode.Of(f)
	if err != nil {
		return index.Copy{}, err
	}
	sum, err := s.of(f)
	return index.Copy{File: f, Stat: st, Sum: sum}, err
}

func (c *containment) known(id inode.ID) bool {
	return slices.ContainsFunc(c.copies, func(t *taken) bool { return t.Stat.ID == id && t.state != order.Sealed })
}

func (c *containment) add(found ...index.Copy) {
	for _, f := range found {
		i := slices.IndexFunc(c.copies, func(t *taken) bool { return t.Stat.ID == f.Stat.ID && t.state != order.Sealed })
		if i < 0 {
			c.copies = append(c.copies, &taken{Copy: f})
			continue
		}
		t := c.copies[i]
		t.Paths = merge(t.Paths, f.Paths)
		t.nameless = t.nameless && len(f.Paths) == 0
		_ = f.File.Close() // the descriptor we have is of the same inode
	}
}

// conflict refuses contents that share the SHA-1 that was named but are not the same.
func (c *containment) conflict() error {
	for _, t := range c.copies[1:] {
		if t.Sum.SHA256 != c.copies[0].Sum.SHA256 {
			return fail(order.HashConflict, "two contents on this device share SHA-1 %s: SHA-256 %s and %s; order again by the SHA-256 that is meant",
				t.Sum.SHA1, c.copies[0].Sum.SHA256, t.Sum.SHA256)
		}
	}
	return nil
}

func merge(a, b []string) []string {
	for _, s := range b {
		if !slices.Contains(a, s) {
			a = append(a, s)
		}
	}
	return a
}

func (c *containment) ownFolders() []string { return []string{filepath.Clean(c.state.Dir)} }
