// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// carryOut does what the worker asks. Every request can be repeated without harm.
func (g *gate) carryOut(m message, f *os.File, reply *message) error {
	switch m.Op {
	case opDenyFile:
		return g.denyFile(f, m.ID)
	case opAllowFile:
		return g.allowFile(f)
	case opDenyHash:
		return g.denyHash(m.Rule)
	case opAllowHash:
		if err := g.book.liftHash(m.Hash); err != nil {
			return err
		}
		return g.settleCoverage()
	case opRelease:
		if err := g.book.liftID(m.ID); err != nil {
			return err
		}
		return g.settleCoverage()
	case opReplace:
		return g.sets.begin(m.Text, m.ID)
	case opAddRules:
		return g.sets.add(g.book, m.Text, m.Rules)
	case opReplaced:
		if err := g.sets.end(g.book, m.Text); err != nil {
			return err
		}
		return g.settleCoverage()
	case opExempt:
		dup, err := duplicate(f)
		if err != nil {
			return err
		}
		return g.addExempt(dup)
	case opStatus:
		s := g.judge.status()
		s.Restarts, s.Swept = g.set.Restarts, g.set.Swept
		s.Covered, s.NotCovered = g.cover.lists()
		reply.Status = &s
		return nil
	}
	return fmt.Errorf("cannot do %q: no such request", m.Op)
}

// denyFile writes the rule first: an event without a rule would be allowed.
func (g *gate) denyFile(f *os.File, id string) error {
	file, err := identify(f)
	if err != nil {
		return err
	}
	if err := g.book.add(entry{kind: slotFile, file: file, id: id}); err != nil {
		return err
	}
	if err := g.fan.markFile(int(f.Fd())); err != nil {
		err = fmt.Errorf("cannot mark file: %w", err)
		return errors.Join(err, g.book.liftFile(file))
	}
	return nil
}

func (g *gate) allowFile(f *os.File) error {
	file, err := identify(f)
	if err != nil {
		return err
	}
	if err := g.fan.unmarkFile(int(f.Fd())); err != nil {
		return fmt.Errorf("cannot unmark file: %w", err)
	}
	return g.book.liftFile(file)
}

func (g *gate) denyHash(r *Rule) error {
	if r == nil {
		return errors.New("cannot deny a content: its hash is missing")
	}
	e, err := r.entry()
	if err != nil {
		return err
	}
	if e.do != doAlone {
		return errors.New("cannot deny a content: a rule by itself says not what to do")
	}
	if err := g.book.add(e); err != nil {
		return err
	}
	return g.settleCoverage()
}

// settleCoverage has the standing gate on exactly while a content is denied.
func (g *gate) settleCoverage() error {
	return g.cover.settle(func() bool {
		_, hashes := g.book.counts()
		return hashes > 0
	})
}

// addExempt takes over pidfd. The number comes from the pidfd itself: nobody
// has to be believed, and a number used again is not mistaken.
func (g *gate) addExempt(pidfd *os.File) error {
	if pidfd == nil {
		return errors.New("cannot exempt a process: its pidfd is missing")
	}
	pid, err := pidOf(pidfd)
	if err != nil {
		closeFile(pidfd)
		return fmt.Errorf("cannot exempt a process: %w", err)
	}
	g.judge.exempt.add(pid, pidfd)
	return nil
}

func identify(f *os.File) (identity, error) {
	if f == nil {
		return identity{}, errors.New("cannot gate a file: its descriptor is missing")
	}
	var st unix.Statx_t
	v, regular, err := look(int(f.Fd()), &st)
	if err != nil {
		return identity{}, fmt.Errorf("cannot gate a file: %w", err)
	}
	if !regular {
		return identity{}, errors.New("cannot gate a file: it is not a regular file")
	}
	return v.identity, nil
}

func duplicate(f *os.File) (*os.File, error) {
	if f == nil {
		return nil, nil
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot duplicate descriptor: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
