// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"sync"

	"staunch/internal/agent/inode"
)

// Look examines every process and returns those that run the target. It kills
// nobody and arms nothing. Each file that matched is handed out once, open, in
// the File of the first match that runs it; the caller closes it. An error says
// that not every process could be examined; what was found is returned with it.
func (h *Holder) Look(ctx context.Context, t Target) ([]Match, error) {
	if t.Match == nil {
		return nil, errors.New("cannot look for a target without a way to recognise its content")
	}
	l := h.newLook(newJudge(t))
	pids, err := h.proc.pids()
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var all []Match
	handed := map[inode.ID]bool{}
	err = each(ctx, pids, func(pid int) {
		f := l.examine(pid, true)
		if f == nil {
			return
		}
		m := h.describe(pid, f)
		mu.Lock()
		defer mu.Unlock()
		if f.file != nil && !handed[m.Ident] {
			handed[m.Ident] = true
			m.File = f.file
		} else {
			closeFile(f.file)
		}
		all = append(all, m)
	})
	return all, errors.Join(err, l.trouble())
}
