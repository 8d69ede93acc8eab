// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"staunch/internal/agent/gate/pin"
)

// openPins takes over what is pinned, where there is a gate or something to lift,
// and lifts what no order stands behind.
func (g *gates) openPins(s State) error {
	cfg := pin.Config{State: s.Dir, Log: g.log, Refused: func(r pin.Refusal) {
		g.log.Warn("refused by the kernel", "pid", r.PID, "exec", r.Exec, "rule", r.ID)
	}}
	if g.on() {
		cfg.Supervisor = g.client.Supervisor()
	} else if _, err := os.Stat(pin.Dir(s.Dir)); err != nil {
		g.pinsOff = "there is no gate"
		return nil
	}
	var err error
	if g.pins, err = pin.Open(cfg); err != nil {
		g.pinsOff = err.Error()
		return nil
	}
	return g.pins.Release(func(id string) bool {
		return !slices.ContainsFunc(g.list(), func(k Gated) bool { return k.Order+fileRules == id })
	})
}

func (g *gates) close() error {
	var err error
	if g.pins != nil {
		err = g.pins.Close()
	}
	if g.on() {
		err = errors.Join(err, g.client.Close())
	}
	return err
}

// fileRules is what is added to an order's id for the rules on single files:
// they end with it, the rule on the content stands.
const fileRules = ".file"

// denyFile refuses a file itself for an order, in the gate and in the kernel.
// Without the kernel's part the gate's stands.
func (g *gates) denyFile(f *os.File, order string) error {
	err := g.client.DenyFile(f, order+fileRules)
	if err != nil {
		err = fmt.Errorf("the gate has no rule for it itself: %w", err)
	}
	if g.pins != nil {
		if err2 := g.pins.Deny(f, order+fileRules); err2 != nil {
			err = errors.Join(err, fmt.Errorf("it is refused only while the agent lives: %w", err2))
		}
	}
	return err
}

func (g *gates) allowFile(f *os.File) error {
	var err error
	if g.on() {
		err = g.client.AllowFile(f)
	}
	if g.pins != nil {
		err = errors.Join(err, g.pins.Allow(f))
	}
	return err
}

// releaseFiles lifts the rules on single files of an order.
func (g *gates) releaseFiles(order string) error {
	var err error
	if g.on() {
		err = g.client.Release(order + fileRules)
	}
	if g.pins != nil {
		err = errors.Join(err, g.pins.Release(func(id string) bool { return id == order+fileRules }))
	}
	return err
}

// pinStatus adds what is pinned, or why nothing is.
func (g *gates) pinStatus(s *Status) error {
	if g.pins == nil {
		s.Off = append(s.Off, "refusing without the agent: "+g.pinsOff)
		return nil
	}
	st, err := g.pins.Status()
	s.Pinned = &st
	return err
}
