// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/durable"
)

// frozenFile is where a freeze is recorded in the state folder.
const frozenFile = "frozen.json"

// frozenRecord names the groups that are frozen, or were about to be.
//
//	{"boot":"6f1e…","groups":[{"file":"/sys/fs/cgroup/a.slice/cgroup.freeze","thaw":"0"}]}
type frozenRecord struct {
	Boot   string        `json:"boot"` // /proc/sys/kernel/random/boot_id: groups do not outlive a boot
	Groups []frozenGroup `json:"groups"`
}

type frozenGroup struct {
	File string `json:"file"` // the control file
	Thaw string `json:"thaw"` // what to write to it
}

// ThawLeftover thaws what an agent with this state folder had frozen when it
// died. New calls it; a supervisor may call it as soon as the agent is dead.
func ThawLeftover(stateDir string) error {
	name := filepath.Join(stateDir, frozenFile)
	b, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot thaw what was left frozen: %w", err)
	}
	var rec frozenRecord
	if err := json.Unmarshal(b, &rec); err != nil {
		return fmt.Errorf("cannot thaw what was left frozen: %s is damaged; thaw the control groups by hand "+
			"(write 0 to each cgroup.freeze that holds 1) and remove it: %w", name, err)
	}
	var errs []error
	if rec.Boot == bootID() {
		for _, g := range rec.Groups {
			errs = append(errs, thawFile(g))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cannot thaw what was left frozen: %w", err)
	}
	return durable.Remove(name)
}

// thawFile writes only what thaws, and only to what is a freezer's file.
func thawFile(g frozenGroup) error {
	base := filepath.Base(g.File)
	if base == "cgroup.freeze" && g.Thaw != "0" || base == "freezer.state" && g.Thaw != "THAWED" ||
		base != "cgroup.freeze" && base != "freezer.state" {
		return fmt.Errorf("%s is not the file of a freezer", g.File)
	}
	f, err := os.OpenFile(g.File, os.O_WRONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // the group is gone, and so is everybody in it
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(g.Thaw)
	if errors.Is(err, unix.ENODEV) {
		err = nil
	}
	return errors.Join(err, f.Close())
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

// freeze is one freeze of many groups, from the record on the disk to the thaw.
type freeze struct {
	h       *Holder
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
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("cannot find control groups: %w", err)
	}
	all := freezers(b)
	if len(all) == 0 {
		return nil, errors.New("no control groups that can freeze are mounted")
	}
	return all, nil
}

// freeze freezes every group that could hold a match, recorded first.
//
//	write frozen.json, fsync; write 1 to each cgroup.freeze; wait for frozen 1
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
		return fr.pauseNs, errors.Join(err, fr.closeGroups())
	}
	err = errors.Join(fr.closeGroups(), durable.Remove(filepath.Join(fr.h.cfg.StateDir, frozenFile)))
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

// stopFrozen is the rung freeze: everybody who can be is frozen, looked at in
// rest, the matches are killed, the rest is thawed. Those who cannot be frozen
// are followed through the process connector, where there is one.
func (d *Hold) stopFrozen(ctx context.Context, r *Result) error {
	l := d.h.newLook(d.judge)
	pids, err := d.h.proc.pids()
	if err != nil {
		return err
	}
	// Once before, so that every file is judged and nobody is frozen for the
	// time it takes to read them.
	if _, err := d.sweep(ctx, l, pids, unix.SIGKILL); err != nil {
		return err
	}
	outside, err := d.atRest(ctx, l, r)
	if err != nil {
		r.Notes = append(r.Notes, err.Error())
		return d.stopRest(ctx, l, r)
	}
	if outside > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("%d processes cannot be frozen: they are in the root control group or in one with the agent or init", outside))
		return d.stopRest(ctx, l, r)
	}
	r.Proven = true
	return l.trouble()
}

// stopRest deals with processes that cannot be frozen.
func (d *Hold) stopRest(ctx context.Context, l *look, r *Result) error {
	if d.h.cfg.Rung == RungFreeze {
		r.Notes = append(r.Notes, "those were stopped by best effort: the configuration asks for this rung alone")
		return errors.Join(d.settle(ctx, l, unix.SIGKILL), l.trouble())
	}
	if err := d.h.prepareConnector(); err != nil {
		r.Notes = append(r.Notes, fmt.Sprintf("those were stopped by best effort: %v", err))
		return errors.Join(d.settle(ctx, l, unix.SIGKILL), l.trouble())
	}
	r.Notes = append(r.Notes, "those were followed through the process connector")
	return d.stopFollowed(ctx, r)
}

// atRest freezes, kills and thaws; it returns how many processes were not
// frozen.
func (d *Hold) atRest(ctx context.Context, l *look, r *Result) (outside int, err error) {
	d.h.freezing.Lock()
	defer d.h.freezing.Unlock()
	fr, err := d.h.freeze(ctx)
	if fr == nil {
		return 0, err
	}
	defer func() {
		pause, endErr := fr.end()
		r.PauseNs = max(r.PauseNs, pause)
		err = errors.Join(err, endErr)
	}()
	if err != nil {
		return 0, err
	}
	covered, err := fr.covered()
	if err != nil {
		return 0, err
	}
	frozen := make([]int, 0, len(covered))
	for pid := range covered {
		frozen = append(frozen, pid)
	}
	if _, err := d.sweep(ctx, l, frozen, unix.SIGKILL); err != nil {
		return 0, err
	}
	if !fr.held() {
		return 0, errors.New("the freeze did not hold: somebody thawed, or it took longer than is allowed")
	}
	pids, err := d.h.proc.pids()
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		if !covered[pid] && !d.h.spared(pid) && !d.h.kernelThread(pid) {
			outside++
		}
	}
	return outside, nil
}

// kernelThread reports whether the process is the kernel's own, or dead.
func (h *Holder) kernelThread(pid int) bool {
	v, err := h.proc.vital(pid)
	return gone(err) || err == nil && (v.kernel || v.state == 'Z' || v.state == 'X')
}
