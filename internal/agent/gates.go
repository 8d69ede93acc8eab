// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"time"

	"staunch/internal/agent/gate"
	"staunch/internal/agent/gate/pin"
	"staunch/internal/agent/vault"
	"staunch/internal/durable"
	"staunch/internal/filehash"
)

// Gated is a content whose start is refused on this device until its item is
// restored or the hash is allowed.
type Gated struct {
	File  filehash.Hash `json:"file"`
	Size  int64         `json:"size"`  // bytes; -1: not known
	Order string        `json:"order"` // that asked for it
	Since time.Time     `json:"since"`
}

// gates are the standing refusals: kept in gates.json, so that they outlive the
// agent and the machine, and handed to the gate.
type gates struct {
	path    string
	client  *gate.Client // nil: there is no gate now
	pins    *pin.Pins    // nil: nothing outlives the agent's processes, and pinsOff says why
	pinsOff string
	log     *slog.Logger

	mu  sync.Mutex
	all []Gated // guarded by mu
}

// openGates reads the standing refusals: see openPins for the rest.
func openGates(s State, c *gate.Client, log *slog.Logger) (*gates, error) {
	g := &gates{path: s.path("gates.json"), client: c, log: log}
	b, err := readState(g.path)
	if err == nil {
		err = json.Unmarshal(b, &g.all)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot read %s: %w; move it aside, and order again what must stay refused", g.path, err)
	}
	return g, nil
}

// on reports whether there is a gate now.
func (g *gates) on() bool { return g.client != nil }

// restore hands the standing refusals to a gate that has none yet.
func (g *gates) restore() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, k := range g.all {
		if err := g.client.DenyHash(gate.Rule{File: k.File, Size: k.Size, ID: k.Order}); err != nil {
			return fmt.Errorf("cannot gate %s: %w", k.File, err)
		}
	}
	return nil
}

func (g *gates) list() []Gated {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.all)
}

// deny refuses the content from now on, and keeps that, or does neither.
func (g *gates) deny(k Gated) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.client.DenyHash(gate.Rule{File: k.File, Size: k.Size, ID: k.Order}); err != nil {
		return err
	}
	rest := slices.DeleteFunc(slices.Clone(g.all), func(o Gated) bool { return o.File == k.File && o.Order == k.Order })
	err := g.write(append(rest, k))
	if err != nil && len(rest) == len(g.all) {
		err = errors.Join(err, g.client.Release(k.Order))
	}
	return err
}

// allow lifts every refusal of a content: also where there is no gate now, or
// the next one would refuse it again. With them go the rules on single files that
// an order has left behind which could not seal them.
func (g *gates) allow(sum filehash.Sum) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	rest := slices.Clone(g.all)
	for _, k := range g.all {
		if !k.File.Matches(sum) {
			continue
		}
		if g.on() {
			if err := g.client.AllowHash(k.File); err != nil {
				return err
			}
		}
		if err := g.releaseFiles(k.Order); err != nil {
			return err
		}
		rest = slices.DeleteFunc(rest, func(o Gated) bool { return o == k })
	}
	if len(rest) == len(g.all) {
		return nil
	}
	return g.write(rest)
}

// liftRestored ends what a crash interrupted: a content that was given back
// after it was refused is not refused any more. The vault knows, because a
// restore is written down there before its gate is lifted.
func (g *gates) liftRestored(v *vault.Vault) error {
	refused := g.list()
	if len(refused) == 0 {
		return nil
	}
	items, err := v.List()
	if err != nil {
		g.log.Warn("part of the vault cannot be read", "error", err)
	}
	for _, i := range items {
		if i.State == string(vault.Sealed) {
			continue
		}
		sum := filehash.Sum{SHA1: i.SHA1, SHA256: i.SHA256}
		for _, k := range refused {
			if !k.File.Matches(sum) {
				continue
			}
			back, err := restoredAfter(v, i.ID, k.Since)
			if err == nil && back {
				err = g.allow(sum)
			}
			if err != nil {
				return fmt.Errorf("cannot lift the gate on %s, which was restored: %w", k.File, err)
			}
		}
	}
	return nil
}

func restoredAfter(v *vault.Vault, id string, t time.Time) (bool, error) {
	m, err := v.Get(id)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(m.History, func(c vault.Change) bool { return c.State == vault.Restored && c.Time.After(t) }), nil
}

// lift takes back what one order asked for.
func (g *gates) lift(order string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.on() {
		if err := g.client.Release(order); err != nil {
			return err
		}
	}
	return g.write(slices.DeleteFunc(slices.Clone(g.all), func(k Gated) bool { return k.Order == order }))
}

// write keeps the list. The caller holds g.mu.
func (g *gates) write(all []Gated) error {
	b, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.WriteFile(g.path, append(b, '\n'), 0o600); err != nil {
		return err
	}
	g.all = all
	return nil
}

// watch reports what the gate refused until it is closed. An execution that it
// had to let pass, because its content was known too late, is handed to stop;
// met is told of all.
func (g *gates) watch(stop, met func(gate.Refusal)) {
	said := map[string]*repeated{}
	for r := range g.client.Refusals() {
		met(r)
		if r.Audit {
			continue
		}
		if before, say := again(said, r.ID+" "+r.File.String(), r.When); say {
			g.log.Warn("refused", "path", r.Path, "pid", r.PID, "sha1", r.File.SHA1, "exec", r.Exec, "late", r.Late, "rule", r.ID, "times_before", before)
		}
		if r.Late {
			stop(r)
		}
	}
}

// repeated is how often something was not said since it was last said.
type repeated struct {
	at    time.Time
	times int
}

const (
	sayEvery = 10 * time.Second // of one content and rule: who tries on and on does not fill the log
	maxSaid  = 1000
)

// again tells whether what has the key is to be said now, and how often it was
// passed over before.
func again(said map[string]*repeated, key string, now time.Time) (before int, say bool) {
	r := said[key]
	if r != nil && now.Sub(r.at) < sayEvery {
		r.times++
		return 0, false
	}
	if r != nil {
		before = r.times
	}
	if len(said) >= maxSaid {
		clear(said)
	}
	said[key] = &repeated{at: now}
	return before, true
}
