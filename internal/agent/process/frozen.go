// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

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
