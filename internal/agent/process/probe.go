// SPDX-License-Identifier: Apache-2.0

package process

import "errors"

// Capability is one thing this machine can or cannot do for us.
type Capability struct {
	Name   string // a rung, or what it rests on
	OK     bool
	Detail string // why not, or how well
}

// Probe tries every rung, each by its effect on a harmless program and not by
// what the kernel claims. stateDir as in Config.
func Probe(stateDir string) []Capability {
	var all []Capability
	for _, r := range rungs() {
		h, err := New(Config{Rung: r.name, StateDir: stateDir})
		if err != nil {
			if cause := errors.Unwrap(err); cause != nil {
				err = cause
			}
			all = append(all, Capability{Name: r.name, Detail: err.Error()})
			continue
		}
		detail := r.detail
		if r.name == RungBPF && !h.hooks.child {
			detail += "; this kernel cannot kill a child as it is forked (Linux 6.13), so forking itself is refused"
		}
		if !h.proc.root {
			detail += "; without root for this user's processes only"
		}
		if err := h.Close(); err != nil {
			detail += "; " + err.Error()
		}
		all = append(all, Capability{Name: r.name, OK: true, Detail: detail})
	}
	return all
}
