// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/mountinfo"
	"staunch/internal/durable"
)

// freeze is one freeze of many groups, from the record on the disk to the thaw.
type freeze struct {
	h       *Holder
	keeper  *keeper
	groups  []*group
	bound   *time.Timer
	expired atomic.Bool // the bound was reached: they have run meanwhile

	thawing sync.Mutex
	thawed  bool  // guarded by thawing
	pauseNs int64 // guarded by thawing; the longest
}

// prepareFreeze checks that there is a place to record a freeze, and sees with
// a canary in a group of its own that freezing works.
func (h *Holder) prepareFreeze() error {
	if err := h.prepareBestEffort(); err != nil {
		return err
	}
	if h.cfg.StateDir == "" {
		return errors.New("there is no state folder to record a freeze in, from which a restart would thaw")
	}
	all, err := h.freezers()
	if err != nil {
		return err
	}
	var errs []error
	for _, fz := range all {
		err := h.tryFreezer(fz)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// tryFreezer freezes a canary.
func (h *Holder) tryFreezer(fz freezer) (err error) {
	c, err := newCanary(h.cfg.StateDir, os.TempDir())
	if err != nil {
		return err
	}
	defer closeFile(c.file)
	cmd, wake, err := c.perch()
	if err != nil {
		return err
	}
	dir := filepath.Join(fz.root, fmt.Sprintf("staunch-canary-%d", cmd.Process.Pid))
	defer func() {
		err = errors.Join(err, cmd.Process.Kill(), wake.Close())
		_ = cmd.Wait() // killed
		if rmErr := os.Remove(dir); rmErr != nil && !errors.Is(rmErr, os.ErrNotExist) {
			err = errors.Join(err, rmErr)
		}
	}()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("cannot make a control group: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(fmt.Sprint(cmd.Process.Pid)), 0); err != nil {
		return fmt.Errorf("cannot move a process to a control group: %w", err)
	}
	g, err := openGroup(fz, dir)
	if err != nil {
		return err
	}
	defer closeFile(g.control)
	if err := g.freeze(); err != nil {
		return fmt.Errorf("cannot freeze a control group: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), h.cfg.Freeze)
	defer cancel()
	return errors.Join(g.wait(ctx), g.thaw())
}

func (h *Holder) freezers() ([]freezer, error) {
	mounts, err := mountinfo.Read(mountinfo.Self)
	if len(mounts) == 0 {
		return nil, fmt.Errorf("cannot find control groups: %w", err)
	}
	all := freezers(mounts)
	if len(all) == 0 {
		return nil, errors.New("no control groups that can freeze are mounted")
	}
	return all, nil
}

// freeze freezes every group that could hold a match, recorded first.
//
//	write frozen.json, fsync; start the keeper; write 1 to each cgroup.freeze; wait for frozen 1
func (h *Holder) freeze(ctx context.Context) (_ *freeze, err error) {
	fr := &freeze{h: h}
	all, err := h.freezers()
	if err != nil {
		return nil, err
	}
	rec := frozenRecord{Boot: bootID()}
	for _, fz := range all {
		dirs, err := fz.candidates(h.spared)
		if err != nil {
			return nil, errors.Join(err, fr.closeGroups())
		}
		for _, dir := range dirs {
			g, err := openGroup(fz, dir)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, errors.Join(err, fr.closeGroups())
			}
			fr.groups = append(fr.groups, g)
			rec.Groups = append(rec.Groups, frozenGroup{File: g.control.Name(), Thaw: fz.thaw})
		}
	}
	b, err := json.Marshal(rec)
	if err != nil {
		return nil, errors.Join(err, fr.closeGroups())
	}
	if err := durable.WriteFile(filepath.Join(h.cfg.StateDir, frozenFile), b, 0o600); err != nil {
		return nil, errors.Join(err, fr.closeGroups())
	}
	if fr.keeper, err = h.startKeeper(); err != nil {
		return nil, errors.Join(err, fr.closeGroups())
	}
	fr.bound = time.AfterFunc(h.cfg.Freeze, func() {
		fr.expired.Store(true)
		_ = fr.thaw() // whoever froze thaws again and has the error
	})
	return fr, fr.begin(ctx)
}

// begin freezes all groups side by side. A group that does not come to rest
// is an error; the caller ends the freeze in any case.
func (fr *freeze) begin(ctx context.Context) error {
	for _, g := range fr.groups {
		if err := g.freeze(); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("cannot freeze control group %s: %w", g.dir, err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, fr.h.cfg.Freeze/2)
	defer cancel()
	for _, g := range fr.groups {
		if err := g.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// held reports whether all groups are at rest still: nobody has thawed them.
func (fr *freeze) held() bool {
	for _, g := range fr.groups {
		rest, err := g.atRest()
		if !rest && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return false
		}
	}
	return !fr.expired.Load()
}

// covered lists everybody who is at rest.
func (fr *freeze) covered() (map[int]bool, error) {
	all := make(map[int]bool)
	for _, g := range fr.groups {
		pids, err := everybody(g.dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return nil, fmt.Errorf("cannot list the processes of control group %s: %w", g.dir, err)
		}
		for _, pid := range pids {
			all[pid] = true
		}
	}
	return all, nil
}

// thaw lets everybody run on. It may be called twice, also side by side.
func (fr *freeze) thaw() error {
	fr.thawing.Lock()
	defer fr.thawing.Unlock()
	if fr.thawed {
		return nil
	}
	var errs []error
	for _, g := range fr.groups {
		if err := g.thaw(); err != nil {
			errs = append(errs, fmt.Errorf("cannot thaw control group %s: %w", g.dir, err))
		}
		if !g.frozen.IsZero() {
			fr.pauseNs = max(fr.pauseNs, time.Since(g.frozen).Nanoseconds())
		}
	}
	fr.thawed = len(errs) == 0
	return errors.Join(errs...)
}

// end thaws and takes the record away; where thawing failed, the record stays
// for the next start.
func (fr *freeze) end() (pauseNs int64, err error) {
	fr.bound.Stop()
	if err := fr.thaw(); err != nil {
		return fr.pauseNs, errors.Join(err, fr.closeGroups(), fr.keeper.end()) // who tries again
	}
	err = errors.Join(fr.closeGroups(), durable.Remove(filepath.Join(fr.h.cfg.StateDir, frozenFile)), fr.keeper.end())
	fr.thawing.Lock()
	defer fr.thawing.Unlock()
	return fr.pauseNs, err
}

func (fr *freeze) closeGroups() error {
	var errs []error
	for _, g := range fr.groups {
		errs = append(errs, g.control.Close())
	}
	return errors.Join(errs...)
}
